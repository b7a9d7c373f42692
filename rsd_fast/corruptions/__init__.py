"""Corruption operators A of y = A(x) + sigma_obs eps; `parse` makes one from its SPEC, e.g. "gaussian_blur:size=9"."""

from .base import (
    ALL_SYMMETRIES,
    HFLIP,
    TRANSPOSE,
    VFLIP,
    Corruption,
    DrawnCorruption,
    is_ours,
    names,
    parse,
    register,
    without_imports,
)
from .compose import Compose
from .downsample import Downsample
from .fourier import Fourier
from .gaussian_blur import GaussianBlur
from .identity import Identity
from .mask import BoxMask, Mask, RandomMask
from .motion_blur import MotionBlur
from .noise_levels import NoiseLevels
from .observation import Observation, apply, observation, observe, observed
from .parameters import Bank, Draw
from .view import MaskView, View

__all__ = [
    "ALL_SYMMETRIES",
    "HFLIP",
    "TRANSPOSE",
    "VFLIP",
    "Bank",
    "BoxMask",
    "Compose",
    "Corruption",
    "Downsample",
    "Draw",
    "DrawnCorruption",
    "Fourier",
    "GaussianBlur",
    "Identity",
    "Mask",
    "MaskView",
    "MotionBlur",
    "NoiseLevels",
    "Observation",
    "RandomMask",
    "View",
    "apply",
    "is_ours",
    "names",
    "observation",
    "observe",
    "observed",
    "parse",
    "register",
    "without_imports",
]
