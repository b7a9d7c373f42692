"""Where the random numbers of a batch come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from .philox import Stream, randn, uniform


@dataclass(frozen=True, eq=False)
class Key:
    """Every draw for a batch is a function of (seed, sample, step) and of what it is for, its `Stream`.

    seed: 0 to 2^64 - 1. sample: [B] integers, the samples' identities, on the device of what is drawn. step: tells
    the draws of one sample apart, an int, or a tensor of one integer or [B].
    """

    seed: int
    sample: Tensor
    step: int | Tensor = 0

    def uniform(self, *shape: int, stream: Stream) -> Tensor:
        """[B, *shape] float64, uniform in (0, 1)."""
        return uniform((len(self.sample), *shape), self.seed, self.sample, self.step, stream)

    def randn(self, shape: Sequence[int], stream: Stream) -> Tensor:
        """`shape` [B, ...] float32, standard normal."""
        return randn(shape, self.seed, self.sample, self.step, stream)

    def at(self, step: int | Tensor) -> Key:
        """The same samples at another step."""
        return replace(self, step=step)

    def __len__(self) -> int:
        return len(self.sample)
