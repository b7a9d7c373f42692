"""Several operators, one after the other."""

import re
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from .base import Corruption, parse, register


@register("compose")
class Compose(Corruption):
    """A = A_n ... A_1, SPEC `compose:SPEC_1+SPEC_2+...`, the first acts first.

    Raises ValueError for fewer than two parts, and for one that differs from image to image.
    """

    about = "several fixed operators, the first acts first"
    example = "compose:SPEC+SPEC"

    def __init__(self, parts: Sequence[Corruption]) -> None:
        if len(parts) < 2:
            raise ValueError(f"compose expects SPEC+SPEC, two or more, got {len(parts)}")
        for part in parts:
            if part.random or part.measures_kspace:
                raise ValueError(f"compose: '{part.name}' differs from image to image; only fixed operators compose")
        self.parts = tuple(parts)
        self.spec = f"{self.name}:" + "+".join(part.spec for part in parts)
        self.symmetries = reduce(frozenset.intersection, (part.symmetries for part in parts))

    @classmethod
    def from_arguments(cls, arguments: str) -> "Compose":
        # A plus within a number, as in 1e+3, separates nothing.
        return cls([parse(part) for part in re.split(r"\+(?=\s*[a-zA-Z_])", arguments) if part.strip()])

    def forward(self, x: Tensor, *, index: Tensor | None = None, seed: int = 0) -> Tensor:
        for part in self.parts:
            x = part.forward(x, index=_any(x, index), seed=seed)
        return x

    def adjoint(self, y: Tensor, *, index: Tensor | None = None, seed: int = 0) -> Tensor:
        for part in reversed(self.parts):
            y = part.adjoint(y, index=_any(y, index), seed=seed)
        return y

    def observation_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        return reduce(lambda shape, part: part.observation_shape(shape), self.parts, image_shape)

    def image_shape(self, observation_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        return reduce(lambda shape, part: part.image_shape(shape), reversed(self.parts), observation_shape)


def _any(x: Tensor, index: Tensor | None) -> Tensor:
    """An index for parts that want one, though theirs is the same draw for all."""
    return x.new_zeros(len(x), dtype=torch.int64) if index is None else index
