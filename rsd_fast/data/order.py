"""The order of training images: each epoch another permutation, a pure function of (seed, position)."""

import torch
from torch import Tensor

from rsd_fast.corruptions import Observation

from .augment import augment
from .observed import ObservedDataset


class ShuffledObservations:
    """Callable for the engine: what is at `positions` [B] of an endless sequence of shuffled epochs.

    Position p is image permutation(p // N)[p % N], moved by some of the symmetries (`augment`); nothing is kept that
    a resumed run would lack.
    """

    def __init__(
        self,
        dataset: ObservedDataset,
        *,
        seed: int,
        symmetries: tuple[str, ...] = (),
        channels_last: bool = True,
    ):
        self.dataset, self.seed, self.symmetries = dataset, seed, symmetries
        self.channels_last = channels_last
        self.permutations: dict[int, Tensor] = {}  # of the epochs in use: a batch may straddle two

    def __call__(self, positions: Tensor) -> tuple[Observation, Tensor]:
        """(observation and labels [B] int64), where `positions` [B] int64 are."""
        count = len(self.dataset)
        place = positions.cpu()
        epochs, offsets = place // count, place % count
        wanted = epochs.unique().tolist()
        self.permutations = {e: self.permutations[e] if e in self.permutations else self.permutation(e) for e in wanted}
        indices = torch.empty_like(place)
        for epoch in wanted:
            here = epochs == epoch
            indices[here] = self.permutations[epoch][offsets[here]]
        observation, labels = self.dataset.observe(indices, positions.device, channels_last=self.channels_last)
        if self.symmetries:
            observation = augment(observation, self.symmetries, seed=self.seed, sample=positions)
        return observation, labels

    def permutation(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        return torch.randperm(len(self.dataset), generator=generator)
