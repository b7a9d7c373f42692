"""The order of training images: each epoch another permutation, a pure function of (seed, position)."""

import torch
from torch import Tensor

from .observed import ObservedDataset


class ShuffledObservations:
    """Callable for the engine: what is at `positions` [B] of an endless sequence of shuffled epochs.

    Position p is image permutation(p // N)[p % N]; nothing is kept that a resumed run would lack.
    """

    def __init__(self, dataset: ObservedDataset, *, seed: int):
        self.dataset, self.seed = dataset, seed
        self.permutations: dict[int, Tensor] = {}  # of the epochs in use: a batch may straddle two

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(observations [B, C, H, W] float32 channels-last, labels [B] int64), where `positions` [B] int64 are."""
        count = len(self.dataset)
        place = positions.cpu()
        epochs, offsets = place // count, place % count
        wanted = epochs.unique().tolist()
        self.permutations = {e: self.permutations[e] if e in self.permutations else self.permutation(e) for e in wanted}
        indices = torch.empty_like(place)
        for epoch in wanted:
            here = epochs == epoch
            indices[here] = self.permutations[epoch][offsets[here]]
        observations, _, labels = self.dataset.batch(indices, positions.device, channels_last=True)
        return observations, labels

    def permutation(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        return torch.randperm(len(self.dataset), generator=generator)
