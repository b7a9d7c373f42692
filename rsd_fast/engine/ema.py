"""Exponential moving average of a network's weights, with a half-life in images seen (Karras et al. 2022)."""

import torch
from torch import Tensor, nn


class Ema:
    """Moves `average` towards `network`: after half-life images, what was there counts one half.

    rampup: the half-life is at most this share of the images seen, so that the initial weights are soon forgotten.
    With None there is no ramp-up.
    """

    def __init__(self, network: nn.Module, average: nn.Module, *, halflife_kimg: float, rampup: float | None) -> None:
        self.source: list[Tensor] = list(network.parameters())
        self.target: list[Tensor] = list(average.parameters())
        self.halflife_images = halflife_kimg * 1000
        self.rampup = rampup

    @torch.no_grad()
    def update(self, images_seen: int, batch: int) -> None:
        """Call it after each optimiser step on `batch` images, which images_seen counts in."""
        halflife = self.halflife_images
        if self.rampup is not None:
            halflife = min(halflife, images_seen * self.rampup)
        torch._foreach_lerp_(self.target, self.source, 1 - 0.5 ** (batch / halflife))
