"""How far generated images are from real ones, and observations made of them from real observations.

Features and torch-fidelity's metrics need the extra `metrics`: `from rsd_fast.evaluation.features import Features`.
"""

from .frechet import Moments, frechet_distance
from .images import ImageSet, Stopwatch
from .metrics import METRICS, PAIRS, Evaluation, Evaluator, Statistics, evaluate
from .pairs import evaluate_pairs
from .runs import HowCompared, HowObserved, HowSampled, evaluate_path

__all__ = [
    "METRICS",
    "PAIRS",
    "Evaluation",
    "Evaluator",
    "HowCompared",
    "HowObserved",
    "HowSampled",
    "ImageSet",
    "Moments",
    "Statistics",
    "Stopwatch",
    "evaluate",
    "evaluate_pairs",
    "evaluate_path",
    "frechet_distance",
]
