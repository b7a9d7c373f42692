"""Super-resolution: each pixel of the observation is the mean of factor x factor pixels of the image."""

from torch import Tensor

from rsd_fast import ops

from .base import ALL_SYMMETRIES, Corruption, register


@register("downsample")
class Downsample(Corruption):
    """Area averaging; the observation is `factor` times smaller than the image along each axis.

    Raises ValueError for a factor beyond 1 to 256, and for images it does not divide.
    """

    about = "super-resolution: the mean of factor x factor pixels"
    example = "downsample:factor=2"
    symmetries = ALL_SYMMETRIES

    def __init__(self, *, factor: int = 2) -> None:
        if not 1 <= factor <= 256:
            raise ValueError(f"factor expects 1 to 256, got {factor}")
        self.factor = factor
        self.spec = f"{self.name}:factor={factor}"
        self.operator = ops.Operator.downsample(factor)

    def forward(self, x: Tensor, *, index: Tensor | None = None, seed: int = 0) -> Tensor:
        self.observation_shape((x.shape[1], x.shape[2], x.shape[3]))
        return ops.downsample(x, self.factor)

    def adjoint(self, y: Tensor, *, index: Tensor | None = None, seed: int = 0) -> Tensor:
        return ops.downsample_adjoint(y, self.factor)

    def observation_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        channels, height, width = image_shape
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"corruption '{self.name}': factor {self.factor} does not divide {height}x{width} images; "
                "pad or crop them"
            )
        return channels, height // self.factor, width // self.factor

    def image_shape(self, observation_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        channels, height, width = observation_shape
        return channels, height * self.factor, width * self.factor
