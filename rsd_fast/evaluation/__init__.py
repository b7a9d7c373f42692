"""How far generated images are from real ones, and observations made of them from real observations."""

from .frechet import Moments, frechet_distance
from .metrics import METRICS, Evaluation, Reference, evaluate, in_batches
from .runs import evaluate_path

__all__ = [
    "METRICS",
    "Evaluation",
    "Moments",
    "Reference",
    "evaluate",
    "evaluate_path",
    "frechet_distance",
    "in_batches",
]
