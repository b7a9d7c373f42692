"""What differs in A from image to image: drawn by a SPEC, or brought along with the data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rsd_fast import ops


@dataclass(frozen=True, eq=False, kw_only=True)
class Draw:
    """What was drawn for each image of a batch.

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

    def draw(
        self, generate: Callable[[], Draw], index: Tensor, seed: int, rows: Mapping[str, Tensor] | None = None
    ) -> Draw:
        """The draw of images number index [B]; `generate` makes what the bank lacks.

        rows: of a bank that is no pool, the rows `mask` and `maps` of these images, where they are on their device
        already: looking them up here would read the index on the host.
        """
        rows = rows or {}
        generated = None if self.mask is not None else generate()
        mask = generated.mask if generated else self._rows("mask", self.mask, index, seed, rows)
        if self.maps is not None:
            return Draw(mask=mask, maps=self._rows("maps", self.maps, index, seed, rows))
        return Draw(mask=mask, maps=generated.maps if generated else None)

    def _rows(
        self, name: str, table: np.ndarray | None, index: Tensor, seed: int, rows: Mapping[str, Tensor]
    ) -> Tensor:
        if name in rows:
            return rows[name].contiguous()
        assert table is not None
        if len(table) == 1:
            return self._pool.on(index.device, name, table).expand(len(index), *[-1] * (table.ndim - 1))
        if self.pool:
            u = ops.uniform((len(index),), seed, index, 0, ops.Stream.OBSERVATION_MASK)
            return self._pool.draw(name, table, u)
        return torch.from_numpy(np.take(table, index.cpu().numpy(), axis=0)).to(index.device)

    def examples(self, count: int) -> "Bank":
        """A pool of at most so many rows, evenly spaced."""

        def some(rows: np.ndarray | None) -> np.ndarray | None:
            if rows is None:
                return None
            chosen = np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)
            return np.ascontiguousarray(rows[chosen])

        return Bank(mask=some(self.mask), maps=some(self.maps), pool=True)


@dataclass(frozen=True, eq=False, kw_only=True)
class Measured:
    """How the images of a source were measured, as far as the source itself says.

    clean: they are images (or fully sampled k-space) that A has yet to act on, rather than its observations.
    kspace_coils: the number of coils of k-space; None where the source holds images.
    mask, maps: as in `Bank`. estimate_maps(acs_lines): coil maps from the central columns; it raises ValueError.
    """

    clean: bool
    kspace_coils: int | None = None
    mask: np.ndarray | None = None
    maps: np.ndarray | None = None
    estimate_maps: Callable[[int], np.ndarray]
