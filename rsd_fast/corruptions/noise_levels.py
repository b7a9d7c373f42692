"""The noise level of each observation: one for all, drawn from a range, or given with the data; some may be clean."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rsd_fast import ops

from .parameters import Examples


@dataclass(frozen=True, kw_only=True, eq=False)
class NoiseLevels:
    """sigma_obs of image number i: uniform in [lowest, highest], and 0 with probability clean_share.

    bank: float32 [N], the levels that came with the data, of which image i has number i; with pool, one at random.
    """

    highest: float
    lowest: float | None = None  # None: as the highest
    clean_share: float = 0.0
    bank: np.ndarray | None = None
    pool: bool = False
    _pool: Examples = field(default_factory=Examples, init=False, repr=False)

    def of(self, index: Tensor, seed: int) -> Tensor | float:
        """[B] float32 of images number index [B], a pure function of (seed, index); a number where all have that."""
        lowest = self.highest if self.lowest is None else self.lowest
        if self.bank is None and lowest == self.highest and not self.clean_share:
            return self.highest
        # Step 0 of the stream: training draws its levels at steps from 1.
        u = ops.uniform((len(index), 2), seed, index, 0, ops.Stream.SIGMA)
        if self.bank is not None:
            if self.pool:
                return self._pool.draw("sigma", self.bank, u[:, 0])
            return torch.from_numpy(self.bank[index.cpu().numpy()]).to(index.device)
        levels = lowest + (self.highest - lowest) * u[:, 0]
        return levels.masked_fill(u[:, 1] < self.clean_share, 0).float()
