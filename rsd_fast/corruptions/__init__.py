"""Corruption operators A of y = A(x) + sigma_obs eps; `parse` makes one from its SPEC, e.g. "gaussian_blur:size=9"."""

from .base import (
    ALL_SYMMETRIES,
    HFLIP,
    TRANSPOSE,
    VFLIP,
    Corruption,
    DrawnCorruption,
    described,
    is_ours,
    names,
    parse,
    register,
    without_imports,
)
from .batch import BatchOperator, DrawnOperator, refuse_opaque
from .compose import Compose
from .downsample import Downsample
from .fourier import Fourier
from .gaussian_blur import GaussianBlur
from .identity import Identity
from .mask import BoxMask, Mask, RandomMask
from .motion_blur import MotionBlur
from .noise_levels import NoiseLevels
from .observation import Observation, observation, observe, observe_noised, observe_through
from .parameters import Bank, Draw, Measured
from .view import MaskView, View

__all__ = [
    "ALL_SYMMETRIES",
    "HFLIP",
    "TRANSPOSE",
    "VFLIP",
    "Bank",
    "BatchOperator",
    "BoxMask",
    "Compose",
    "Corruption",
    "Downsample",
    "Draw",
    "DrawnCorruption",
    "DrawnOperator",
    "Fourier",
    "GaussianBlur",
    "Identity",
    "Mask",
    "MaskView",
    "Measured",
    "MotionBlur",
    "NoiseLevels",
    "Observation",
    "RandomMask",
    "View",
    "described",
    "is_ours",
    "names",
    "observation",
    "observe",
    "observe_noised",
    "observe_through",
    "parse",
    "refuse_opaque",
    "register",
    "without_imports",
]
