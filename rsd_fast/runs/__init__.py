"""Run directories, their checkpoints and their models' files."""

from .directory import OWN_NAMES, POINTERS, Run, TrainingState, read_lines, refuse_existing
from .model_file import (
    RunError,
    load_into,
    load_model,
    load_tensors,
    model_record,
    read_record,
    save_model,
)

__all__ = [
    "OWN_NAMES",
    "POINTERS",
    "Run",
    "RunError",
    "TrainingState",
    "load_into",
    "load_model",
    "load_tensors",
    "model_record",
    "read_lines",
    "read_record",
    "refuse_existing",
    "save_model",
]
