"""How far generated images are from real ones, and observations made of them from real observations.

Features and torch-fidelity's metrics need the extra `metrics`: `from rsd_fast.evaluation.features import Features`.
Importing this package imports nothing else, so that the command line can list the `metrics` at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .evaluator import Evaluator, evaluate
    from .frechet import Moments, frechet_distance
    from .images import ImageSet, Statistics, Stopwatch
    from .metrics import METRICS
    from .observed import HowObserved
    from .pairs import evaluate_pairs
    from .results import Evaluation
    from .runs import HowCompared, evaluate_path

__all__ = [
    "METRICS",
    "Evaluation",
    "Evaluator",
    "HowCompared",
    "HowObserved",
    "ImageSet",
    "Moments",
    "Statistics",
    "Stopwatch",
    "evaluate",
    "evaluate_pairs",
    "evaluate_path",
    "frechet_distance",
]

_MODULES = {
    "evaluator": ("Evaluator", "evaluate"),
    "frechet": ("Moments", "frechet_distance"),
    "images": ("ImageSet", "Statistics", "Stopwatch"),
    "metrics": ("METRICS",),
    "observed": ("HowObserved",),
    "pairs": ("evaluate_pairs",),
    "results": ("Evaluation",),
    "runs": ("HowCompared", "evaluate_path"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
