"""Stage 1: a diffusion teacher from observations only (method: `objectives`)."""

import copy
from typing import cast

import torch
from torch import Tensor

from rsd_fast import augmentation, objectives
from rsd_fast.config import Pretrain
from rsd_fast.corruptions import Corruption
from rsd_fast.networks import Denoiser, one_hot
from rsd_fast.objectives import Labels
from rsd_fast.ops import Key

from .base import Batch, Phase, Teacher, corruption_of, freeze, preview_latents


class PretrainMethod:
    """Minimises the configured objective; the product is the EMA of the network.

    corruption: the operator, where the SPEC of the config does not say all.
    """

    def __init__(self, config: Pretrain, network: Denoiser, corruption: Corruption | None = None):
        self.config, self.objective = config, objectives.create(config.objective)
        self.ema = cast(Denoiser, freeze(copy.deepcopy(network)))
        self.teacher = Teacher(
            self.ema,
            corruption_of(config.observations, self.ema, corruption),
            config.observations.image_shape,
            self.objective,
        )
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
        observation, augmented = batch.observation, None
        key, probability = Key(self.config.training.seed, batch.sample, batch.step), self.config.augment_probability
        if probability:
            y, augmented = augmentation.augment(
                observation.y, probability, seed=key.seed, sample=key.sample, step=key.step
            )
            observation = observation._replace(y=y)
        labels = Labels(one_hot(batch.labels, phase.network.label_dim), augmented)
        loss, sigma = self.objective.loss(phase.network, observation, key, labels)
        return loss, {"sigma": sigma}

    def product(self) -> Denoiser:
        return self.ema

    def preview(self) -> Tensor:
        observations, seed = self.config.observations, self.config.training.seed
        latents, labels = preview_latents(self.ema, observations.observation_shape, seed)
        index = torch.arange(len(latents), device=latents.device)
        return self.teacher.sample(latents, index, seed, labels=labels, stop_at=observations.sigma_least or None)
