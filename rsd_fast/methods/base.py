"""What the engine asks of a training method. The loop knows steps; a method knows losses."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from rsd_fast import corruptions, ops, sampling
from rsd_fast.config import Observations, RunConfig
from rsd_fast.corruptions import Bank, Corruption, NoiseLevels, Observation, View
from rsd_fast.networks import Denoiser, one_hot
from rsd_fast.objectives import Objective
from rsd_fast.ops import Key
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
        """(loss [B], statistics [B] by name), differentiable only in phase.network's parameters."""
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


def corruption_of(observations: Observations, network: Denoiser, corruption: Corruption | None = None) -> Corruption:
    """A as the method draws it: by its SPEC, or from the examples of masks and maps that a network carries.

    corruption: the operator, where its SPEC does not say all.
    """
    corruption = corruption or corruptions.parse(observations.corruption)
    mask, maps = network.mask_bank, network.maps_bank
    if mask is None and maps is None:
        return corruption
    return corruption.bound(
        Bank(
            mask=None if mask is None else mask.cpu().numpy(),
            maps=None if maps is None else to_complex(maps.cpu()).numpy(),
            pool=True,
        )
    )


def sampling_operator(config: RunConfig, network: Denoiser, corruption: Corruption | None = None) -> Corruption:
    """The operator through which samples are seen. Where they are seen whole, the identity stands for it: A, perhaps
    somebody else's, is not needed."""
    if not config.objective.conditional:
        return corruptions.Identity()
    return corruption_of(config.observations, network, corruption)


def levels_of(observations: Observations, network: Denoiser) -> NoiseLevels:
    """How noise levels are drawn: by the config, or from the examples that a network carries."""
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

    def __init__(self, denoiser: Denoiser, view: View, labels: Tensor | None) -> None:
        self.denoiser, self.view, self.labels = denoiser, view, labels

    def __call__(self, state: Tensor, sigma: Tensor) -> Tensor:
        x = self.view.image(state)
        self.image = self.denoiser(x, sigma, self.labels, condition=self.view.condition)
        return self.view.measure(self.image)


@dataclass(frozen=True, eq=False)
class Teacher:
    """A denoiser to draw images from, with what it has to know of its observations.

    corruption: `corruption_of` a denoiser of masked images or k-space; it does not matter for others. image_shape is
    [C, H, W].
    """

    denoiser: Denoiser
    corruption: Corruption
    image_shape: tuple[int, int, int]
    objective: Objective

    def sample(
        self,
        latents: Tensor,
        index: Tensor,
        seed: int,
        *,
        labels: Tensor | None = None,
        steps: int = 18,
        stop_at: float | None = None,
    ) -> Tensor:
        """Images [B, C, H, W] by Heun's method from latents [B, *observation_shape] ~ N(0, I), index [B] of seed.

        Masked images and k-space are seen through one mask each, drawn for (seed, index), from beginning to end, and D
        of the last step is returned. stop_at: as for `sampling.heun`.
        """
        view = self.objective.fixed_view(self.corruption, self.image_shape, Key(seed, index))
        seeing = Seeing(self.denoiser, view, labels)
        x = sampling.heun(seeing, view.keep(latents), steps=steps, stop_at=stop_at)
        return seeing.image if self.objective.settings.conditional else x


def freeze(network: nn.Module) -> nn.Module:
    """In evaluation mode and without parameter gradients."""
    return network.eval().requires_grad_(False)
