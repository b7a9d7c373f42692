"""The training engine: it steps a method, keeps its averages, and saves what a resumed run needs."""

from rsd_fast.runs import Run, RunError, TrainingState

from .loop import Interrupted, NonFiniteLoss, Trainer

__all__ = ["Interrupted", "NonFiniteLoss", "Run", "RunError", "Trainer", "TrainingState"]
