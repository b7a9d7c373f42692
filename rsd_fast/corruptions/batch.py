"""A for one batch of images: the operator, with what was drawn of it for each image."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from rsd_fast.ops import Key

from .parameters import Draw
from .view import View

if TYPE_CHECKING:
    from .base import Corruption, DrawnCorruption


def image_shape_of(x: Tensor) -> tuple[int, int, int]:
    """(C, H, W) of images [B, C, H, W]."""
    return x.shape[1], x.shape[2], x.shape[3]


@dataclass(frozen=True, eq=False)
class BatchOperator:
    """An operator for images of `image_shape` [C, H, W], number `index` [B] of `seed`; all of each is observed.

    `Corruption.batch` makes one. draw: what was drawn for each image; None for an operator that is given by (seed,
    index) or by nothing.
    """

    corruption: Corruption
    image_shape: tuple[int, int, int]
    index: Tensor
    seed: int
    draw: Draw | None = None

    def apply(self, x: Tensor) -> Tensor:
        """A x: [B, C, H, W] -> [B, *observation_shape]. Differentiable in x."""
        return self.corruption.forward(x, index=self.index, seed=self.seed)

    def observed(self, y: Tensor) -> Tensor:
        """y with 0 where nothing was observed, whatever stood there."""
        return y

    def further(self, delta: float, key: Key) -> BatchOperator:
        """An operator that observes less: each part that may go is gone with probability delta, a function of key."""
        self.corruption.refuse_hiding()

    def within(self, mask: Tensor) -> BatchOperator:
        """An operator that observes nothing where mask, as `Draw.mask`, is 0."""
        self.corruption.refuse_hiding()

    def view(self) -> View:
        """What a denoiser sees of the images through this operator."""
        self.corruption.refuse_hiding()

    def picture(self, y: Tensor) -> Tensor:
        """Observations as images [B, C, H, W] to look at and to compute features of."""
        return self.corruption.picture(y, self.draw)

    def moved(self, move: Callable[[Tensor], Tensor]) -> BatchOperator:
        """The operator of observations that a symmetry has moved: `move` takes what has the shape of images."""
        return self


def refuse_opaque(leaves: Iterable[object]) -> None:
    """TypeError where a pytree has an operator for a leaf: a CUDA graph would keep the tensors in it for ever."""
    for leaf in leaves:
        if isinstance(leaf, BatchOperator):
            raise TypeError(
                f"cuda_graphs: {type(leaf).__name__} must be registered with torch.export.register_dataclass"
            )


@dataclass(frozen=True, eq=False)
class DrawnOperator(BatchOperator):
    """An operator for a batch whose parameters, a `Draw`, were drawn for each image."""

    corruption: DrawnCorruption
    draw: Draw

    def apply(self, x: Tensor) -> Tensor:
        return self.corruption.apply(x, self.draw)

    def observed(self, y: Tensor) -> Tensor:
        return y.masked_fill(self.draw.mask == 0, 0)

    def further(self, delta: float, key: Key) -> DrawnOperator:
        less = self.corruption.further(self.draw, delta, seed=key.seed, sample=key.sample, step=key.step)
        return replace(self, draw=less)

    def within(self, mask: Tensor) -> DrawnOperator:
        return replace(self, draw=replace(self.draw, mask=self.draw.mask * mask))

    def view(self) -> View:
        return self.corruption.view(self.draw, self.image_shape)

    def moved(self, move: Callable[[Tensor], Tensor]) -> DrawnOperator:
        return replace(self, draw=replace(self.draw, mask=move(self.draw.mask)))
