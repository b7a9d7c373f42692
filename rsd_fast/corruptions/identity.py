"""A = I: observations that differ from the image only by noise."""

from torch import Tensor

from rsd_fast import ops

from .base import ALL_SYMMETRIES, Corruption, register


@register("identity")
class Identity(Corruption):
    about = "the image itself; its noise is all that is added"
    is_projection = True
    symmetries = ALL_SYMMETRIES

    def __init__(self) -> None:
        self.spec = self.name
        self.operator = ops.Operator.identity()

    def forward(self, x: Tensor, *, index: Tensor | None = None, seed: int = 0) -> Tensor:
        return x

    def adjoint(self, y: Tensor, *, index: Tensor | None = None, seed: int = 0) -> Tensor:
        return y
