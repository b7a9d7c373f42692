"""Stage 1: a diffusion teacher from observations alone (method: `objectives`)."""

import copy
from typing import cast

import torch
from torch import Tensor

from rsd_fast import augmentation, corruptions, objectives
from rsd_fast.config import Pretrain
from rsd_fast.networks import Denoiser, one_hot

from .base import Batch, Phase, corruption_of, freeze, preview_latents, sample_teacher


class PretrainMethod:
    """Minimises the configured objective; the product is the EMA of the network."""

    def __init__(self, config: Pretrain, network: Denoiser):
        self.config = config
        self.corruption = corruptions.parse(config.observations.corruption)
        self.ema = cast(Denoiser, freeze(copy.deepcopy(network)))
        t = config.training
        self.phases = (Phase(name="teacher", network=network.train(), lr=t.lr, beta1=t.beta1, ema=self.ema),)

    @property
    def networks(self) -> tuple[Denoiser, ...]:
        return (self.phases[0].network,)

    def network_evaluations(self) -> dict[str, int]:
        again = self.config.training.checkpoint_activations
        return {"teacher": 3 + again + self.config.objective.further_evaluations}

    def loss(self, phase: Phase, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        assert batch.observation is not None and batch.labels is not None
        y, draw, sigma_obs = batch.observation
        seed, probability, augment_labels = self.config.training.seed, self.config.augment_probability, None
        if probability:
            y, augment_labels = augmentation.augment(y, probability, seed=seed, sample=batch.sample, step=batch.step)
        loss, sigma = objectives.of(self.config.objective).loss(
            phase.network,
            y,
            corruption=self.corruption,
            draw=draw,
            sigma_obs=sigma_obs,
            seed=seed,
            sample=batch.sample,
            step=batch.step,
            labels=one_hot(batch.labels, phase.network.label_dim),
            augment_labels=augment_labels,
        )
        return loss, {"sigma": sigma}

    def product(self) -> Denoiser:
        return self.ema

    def preview(self) -> Tensor:
        observations, seed = self.config.observations, self.config.training.seed
        latents, labels = preview_latents(self.ema, observations.observation_shape, seed)
        return sample_teacher(
            self.ema,
            corruption_of(observations, self.ema),
            observations.image_shape,
            self.config.objective,
            latents,
            torch.arange(len(latents), device=latents.device),
            seed,
            labels=labels,
            stop_at=observations.sigma_least or None,
        )
