"""Corruption operators A of y = A(x) + sigma_obs eps; `parse` makes one from its SPEC, e.g. "gaussian_blur:size=9"."""

from .base import Corruption, names, observe, parse, register
from .gaussian_blur import GaussianBlur
from .identity import Identity

__all__ = ["Corruption", "GaussianBlur", "Identity", "names", "observe", "parse", "register"]
