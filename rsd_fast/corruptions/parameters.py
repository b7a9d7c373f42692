"""What differs in A from image to image: drawn by a SPEC, or brought along with the data."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rsd_fast import ops


@dataclass(frozen=True, eq=False, kw_only=True)
class Draw:
    """Of each image of a batch.

    mask: uint8, 1 where something was observed: pixels [B, 1 or C, H, W], or columns of k-space [B, 1, 1, W].
    maps: coil sensitivities, complex64 [B or 1, coils, H, W], of k-space from several coils.
    """

    mask: Tensor
    maps: Tensor | None = None


class Examples:
    """Rows to draw from, brought to a device once, so that drawing waits for nothing."""

    def __init__(self) -> None:
        self.tensors: dict[tuple[str, torch.device], Tensor] = {}

    def on(self, device: torch.device, name: str, rows: np.ndarray) -> Tensor:
        if (name, device) not in self.tensors:
            self.tensors[name, device] = torch.from_numpy(rows).to(device)
        return self.tensors[name, device]

    def draw(self, name: str, rows: np.ndarray, u: Tensor) -> Tensor:
        """Row number u [B] len(rows) of each, u uniform in [0, 1)."""
        return self.on(u.device, name, rows)[(u * len(rows)).long()]


@dataclass(frozen=True, eq=False, kw_only=True)
class Bank:
    """Draws that came with the data; what is None is drawn by the SPEC.

    mask: uint8 [N, ...], as `Draw.mask`. maps: complex64 [N or 1, coils, H, W], as `Draw.maps`.
    pool: False: row i is image i's. True: the rows are examples, of which each (seed, index) takes one at random.
    """

    mask: np.ndarray | None = None
    maps: np.ndarray | None = None
    pool: bool = False
    _pool: Examples = field(default_factory=Examples, init=False, repr=False)

    def draw(self, generate: Callable[[], Draw], index: Tensor, seed: int) -> Draw:
        """Of images number index [B]; `generate` makes what the bank lacks."""
        drawn = None if self.mask is not None else generate()
        mask = drawn.mask if drawn else self._rows("mask", self.mask, index, seed)
        maps = self._rows("maps", self.maps, index, seed) if self.maps is not None else drawn.maps if drawn else None
        return Draw(mask=mask, maps=maps)

    def _rows(self, name: str, rows: np.ndarray | None, index: Tensor, seed: int) -> Tensor:
        assert rows is not None
        if len(rows) == 1:
            return self._pool.on(index.device, name, rows).expand(len(index), *[-1] * (rows.ndim - 1))
        if self.pool:
            u = ops.uniform((len(index),), seed, index, 0, ops.Stream.OBSERVATION_MASK)
            return self._pool.draw(name, rows, u)
        return torch.from_numpy(np.take(rows, index.cpu().numpy(), axis=0)).to(index.device)

    def examples(self, count: int) -> "Bank":
        """A pool of at most so many rows, evenly spaced."""

        def some(rows: np.ndarray | None) -> np.ndarray | None:
            if rows is None:
                return None
            chosen = np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)
            return np.ascontiguousarray(rows[chosen])

        return Bank(mask=some(self.mask), maps=some(self.maps), pool=True)
