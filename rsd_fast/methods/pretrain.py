"""Stage 1: a diffusion teacher from observations alone (method: `objectives`)."""

import copy
from typing import cast

from torch import Tensor

from rsd_fast import sampling
from rsd_fast.config import Pretrain
from rsd_fast.networks import Denoiser, one_hot

from .base import Batch, Phase, freeze, preview_latents


class PretrainMethod:
    """Minimises the configured objective; the product is the EMA of the network."""

    def __init__(self, config: Pretrain, network: Denoiser):
        self.config = config
        self.ema = cast(Denoiser, freeze(copy.deepcopy(network)))
        t = config.training
        self.phases = (Phase(name="teacher", network=network.train(), lr=t.lr, beta1=t.beta1, ema=self.ema),)

    @property
    def networks(self) -> tuple[Denoiser, ...]:
        return (self.phases[0].network,)

    def loss(self, phase: Phase, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        assert batch.observations is not None and batch.labels is not None
        loss, sigma = self.config.objective.loss(
            phase.network,
            batch.observations,
            sigma_obs=self.config.observations.sigma_obs,
            seed=self.config.training.seed,
            sample=batch.sample,
            step=batch.step,
            labels=one_hot(batch.labels, phase.network.label_dim),
        )
        return loss, {"sigma": sigma}

    def product(self) -> Denoiser:
        return self.ema

    def preview(self) -> Tensor:
        shape = self.config.observations.observation_shape
        latents, labels = preview_latents(self.ema, shape, self.config.training.seed)
        return sampling.heun(self.ema, latents, stop_at=self.config.observations.sigma_obs or None, labels=labels)
