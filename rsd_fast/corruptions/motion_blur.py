"""Blur by a straight motion during the exposure, with reflect padding."""

import math

import torch
from torch import Tensor

from .base import register
from .gaussian_blur import Blur


@register("motion_blur")
class MotionBlur(Blur):
    """A x = k * x, k the even smear of a point along `size` pixels at `angle`.

    size: taps along each axis, odd, at most 31. angle: degrees, counter-clockwise from the horizontal. k is a line of
    length size - 1 between pixel centres, its weight shared bilinearly among the pixels it passes, and sums to 1.
    Raises ValueError out of range.
    """

    about = "the smear of a straight motion at an angle in degrees"
    example = "motion_blur:size=9,angle=30"

    def __init__(self, *, size: int = 9, angle: float = 0.0) -> None:
        if not math.isfinite(angle):
            raise ValueError(f"angle expects a finite number of degrees, got {angle}")
        self.angle = angle
        super().__init__(size, line_kernel(self.check_size(size), angle), f"angle={angle!r}".removesuffix(".0"))


def line_kernel(size: int, angle: float) -> Tensor:
    """[size, size] float64: a line through the middle at `angle` degrees, bilinearly sampled, symmetric to the bit."""
    radius = size // 2
    along = torch.linspace(-radius, radius, 64 * radius + 1, dtype=torch.float64)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    if angle % 90 == 0:  # where the two are exact, cos and sin are not
        cos, sin = round(cos), round(sin)
    pixel = torch.arange(size, dtype=torch.float64) - radius
    rows = (1 - (pixel[:, None] + along * sin).abs()).clamp_min(0)  # the vertical axis points down
    columns = (1 - (pixel[:, None] - along * cos).abs()).clamp_min(0)
    kernel = rows @ columns.T
    kernel = kernel + kernel.flip(0, 1)
    return kernel / kernel.sum()
