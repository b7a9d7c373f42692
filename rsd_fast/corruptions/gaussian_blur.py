"""Blurs by a fixed kernel with reflect padding; the Gaussian one as torchvision's `gaussian_blur`."""

import torch
from torch import Tensor

from rsd_fast import ops

from .base import ALL_SYMMETRIES, HFLIP, TRANSPOSE, VFLIP, Corruption, register


class Blur(Corruption):
    """A x = k * x, for a kernel k of `size` taps along each axis, [size] for both axes or [size, size]."""

    def __init__(self, size: int, kernel: Tensor, parameters: str) -> None:
        self.size, self.kernel = size, kernel
        self.spec = f"{self.name}:size={size},{parameters}"
        self.operator = ops.Operator.blur(kernel)
        self.symmetries = ALL_SYMMETRIES if kernel.ndim == 1 else _symmetries(kernel)

    @staticmethod
    def check_size(size: int) -> int:
        if size < 1 or size % 2 == 0:
            raise ValueError(f"size expects an odd number of pixels, at least 1, got {size}")
        if size > 31:
            raise ValueError(f"size expects at most 31 pixels, got {size}")
        return size

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


def _symmetries(kernel: Tensor) -> frozenset[str]:
    moved = {HFLIP: kernel.flip(1), VFLIP: kernel.flip(0), TRANSPOSE: kernel.T}
    return frozenset(name for name, other in moved.items() if torch.allclose(kernel, other, atol=1e-12))


@register("gaussian_blur")
class GaussianBlur(Blur):
    """A x = k * x with taps k[j] proportional to exp(-j^2 / (2 std^2)), j = -(size//2) .. size//2.

    size: taps along each axis, odd, at most 31; std: standard deviation in pixels. Raises ValueError out of range.
    """

    about = "a Gaussian blur with reflect padding"
    example = "gaussian_blur:size=9,std=2"

    def __init__(self, *, size: int = 9, std: float = 2.0) -> None:
        if not 0 < std < float("inf"):
            raise ValueError(f"std expects a positive number of pixels, got {std}")
        self.std = std
        offset = torch.arange(self.check_size(size), dtype=torch.float64) - size // 2
        taps = torch.exp(-(offset**2) / (2 * std**2))
        # Every digit of std: a run's config must give the same taps again.
        super().__init__(size, taps / taps.sum(), f"std={float(std)!r}".removesuffix(".0"))
