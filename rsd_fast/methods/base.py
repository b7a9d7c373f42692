"""What the engine asks of a training method. The loop knows steps; a method knows losses."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from rsd_fast import ops
from rsd_fast.networks import Denoiser, one_hot


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one loss is computed from.

    sample: [B] int64, images seen before each: it and `step` identify the random numbers of a sample.
    observations [B, C, H, W] and labels [B] int64 (-1: none) are None where the method reads no data.
    """

    sample: Tensor
    step: int
    observations: Tensor | None = None
    labels: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One optimiser step of an iteration: the network it trains, and how."""

    name: str
    network: Denoiser
    lr: float
    beta1: float  # Adam's
    loss_scale: float = 1.0
    ema: Denoiser | None = None  # follows the network's moving average


class Method(Protocol):
    """A training method: phases run in order, each on a fresh loss."""

    @property
    def phases(self) -> tuple[Phase, ...]: ...

    @property
    def networks(self) -> tuple[Denoiser, ...]:
        """Every network that a loss evaluates."""
        ...

    def loss(self, phase: Phase, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss [B], statistics [B] by name), differentiable in phase.network's parameters alone."""
        ...

    def product(self) -> Denoiser:
        """The network the run is for, with its averaged weights."""
        ...

    def preview(self) -> Tensor:
        """Samples [N, C, H, W] of the product for the sample grid, from the same latents every time."""
        ...


PREVIEW_IMAGES = 64


def preview_latents(network: Denoiser, shape: tuple[int, int, int], seed: int) -> tuple[Tensor, Tensor | None]:
    """(latents [64, C, H, W] ~ N(0, I), one-hot labels going round the classes, or None)."""
    index = torch.arange(PREVIEW_IMAGES, device=next(network.parameters()).device)
    latents = ops.randn((PREVIEW_IMAGES, *shape), seed, index, 0, ops.Stream.LATENT)
    return latents, one_hot(index % max(network.label_dim, 1), network.label_dim)


def freeze(network: nn.Module) -> nn.Module:
    """In evaluation mode and without parameter gradients."""
    return network.eval().requires_grad_(False)
