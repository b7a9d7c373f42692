"""What the engine asks of a training method. The loop knows steps; a method knows losses."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from rsd_fast import corruptions, ops, sampling
from rsd_fast.config import Objective, Observations
from rsd_fast.corruptions import Bank, Corruption, DrawnCorruption, NoiseLevels, Observation, View
from rsd_fast.networks import Denoiser, one_hot
from rsd_fast.ops.fft import to_complex


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one loss is computed from.

    sample: [B] int64, images seen before each: it and `step` identify the random numbers of a sample.
    observation and labels [B] int64 (-1: none) are None where the method reads no data.
    """

    sample: Tensor
    step: int
    observation: Observation | None = None
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

    def network_evaluations(self) -> dict[str, int]:
        """What an image costs in each phase, in forward passes through a network: a backward pass to its input is
        another, and one to its weights a third."""
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


def corruption_of(observations: Observations, network: Denoiser) -> Corruption:
    """A as the method draws it: by its SPEC, or from the examples of masks and maps that a network carries."""
    corruption = corruptions.parse(observations.corruption)
    mask, maps = network.mask_bank, network.maps_bank
    if mask is None and maps is None:
        return corruption
    assert isinstance(corruption, DrawnCorruption)
    return corruption.bound(
        Bank(
            mask=None if mask is None else mask.cpu().numpy(),
            maps=None if maps is None else to_complex(maps.cpu()).numpy(),
            pool=True,
        )
    )


def levels_of(observations: Observations, network: Denoiser) -> NoiseLevels:
    """The law of the noise levels, likewise."""
    bank = network.sigma_bank
    return NoiseLevels(
        highest=observations.sigma_obs,
        lowest=observations.sigma_obs_min,
        clean_share=observations.clean_share,
        bank=None if bank is None else bank.cpu().numpy(),
        pool=True,
    )


class Seeing:
    """A denoiser of states, for `sampling`: s -> A~ D(A~* s), and the image D of the last call."""

    def __init__(self, denoiser: Denoiser, view: View) -> None:
        self.denoiser, self.view = denoiser, view

    def __call__(self, state: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.view.image(state)
        self.image = self.denoiser(x, sigma, labels, condition=self.view.condition)
        return self.view.measure(self.image)


def sample_teacher(
    denoiser: Denoiser,
    corruption: Corruption | None,
    image_shape: tuple[int, int, int],
    objective: Objective,
    latents: Tensor,
    index: Tensor,
    seed: int,
    *,
    labels: Tensor | None = None,
    steps: int = 18,
    stop_at: float | None = None,
) -> Tensor:
    """Images [B, C, H, W] by Heun's method from latents [B, *observation_shape] ~ N(0, I).

    A teacher of masked images or k-space sees each image through one mask, drawn for (seed, index) and further
    corrupted as in training, from beginning to end (the fixed-mask sampler of Daras et al. 2023), and returns D of the
    last step. corruption: `corruption_of` such a teacher, of no matter for others. stop_at: as for `sampling.heun`.
    """
    if not objective.conditional:
        return sampling.heun(denoiser, latents, steps=steps, stop_at=stop_at, labels=labels)
    assert isinstance(corruption, DrawnCorruption)
    draw = corruption.draw(image_shape, index, seed)
    kept = corruption.further(draw, objective.delta, seed=seed, sample=index, step=0)
    seeing = Seeing(denoiser, corruption.view(kept, image_shape))
    sampling.heun(seeing, seeing.view.keep(latents), steps=steps, stop_at=stop_at, labels=labels)
    return seeing.image


def freeze(network: nn.Module) -> nn.Module:
    """In evaluation mode and without parameter gradients."""
    return network.eval().requires_grad_(False)
