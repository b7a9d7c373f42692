"""Gaussian blur: a normalised, truncated Gaussian with reflect padding, as torchvision's `gaussian_blur`."""

import torch
from torch import Tensor

from rsd_fast import ops

from .base import Corruption, register


@register("gaussian_blur")
class GaussianBlur(Corruption):
    """A x = k * x with taps k[j] proportional to exp(-j^2 / (2 std^2)), j = -(size//2) .. size//2.

    size: taps along each axis, odd, at most 31; std: standard deviation in pixels. Raises ValueError out of range.
    """

    def __init__(self, *, size: int = 9, std: float = 2.0) -> None:
        if size < 1 or size % 2 == 0:
            raise ValueError(f"size expects an odd number of pixels, at least 1, got {size}")
        if size > 31:
            raise ValueError(f"size expects at most 31 pixels, got {size}")
        if not 0 < std < float("inf"):
            raise ValueError(f"std expects a positive number of pixels, got {std}")
        self.size, self.std = size, std
        digits = repr(float(std)).removesuffix(".0")  # every digit: a run's config must give the same taps again
        self.spec = f"{self.name}:size={size},std={digits}"
        offset = torch.arange(size, dtype=torch.float64) - size // 2
        taps = torch.exp(-(offset**2) / (2 * std**2))
        self.kernel = taps / taps.sum()
        self.operator = ops.Operator.blur(self.kernel)

    def forward(self, x: Tensor, *, index: Tensor | None = None, seed: int = 0) -> Tensor:
        return ops.blur(x, self.kernel)

    def adjoint(self, y: Tensor, *, index: Tensor | None = None, seed: int = 0) -> Tensor:
        return ops.blur_adjoint(y, self.kernel)

    def observation_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        if self.size // 2 >= min(image_shape[1:]):
            height, width = image_shape[1:]
            raise ValueError(
                f"corruption '{self.name}': size {self.size} is too large for {height}x{width} images "
                f"(at most {2 * min(height, width) - 1})"
            )
        return image_shape
