"""Stage 2: restoration score distillation (RSD, arXiv 2505.13377), a one-step generator from a teacher alone.

Three networks of one architecture, all from the teacher's EMA: the frozen teacher f, the fake score g, the generator
G(z) = D_G(sigma_init z, sigma_init). An iteration is

    fake        x = G(z),  y = A(x) + sigma_obs eps;  g minimises the teacher's objective on y
    generator   x = G(z),  u = A(x),  u_t = u + sigma n;  G minimises the score difference of f and g at u_t

and reads no data.
"""

import copy
from typing import cast

import torch
from torch import Tensor

from rsd_fast import corruptions, ops, schedules
from rsd_fast.config import Distill
from rsd_fast.networks import Denoiser, one_hot

from .base import Batch, Phase, freeze, preview_latents


class DistillMethod:
    """SiD distillation through the operator A; the product is the EMA of the generator."""

    def __init__(self, config: Distill, teacher: Denoiser):
        self.config = config
        self.corruption = corruptions.parse(config.observations.corruption)
        self.teacher = cast(Denoiser, freeze(teacher))
        # Copies of a frozen network stay in evaluation mode: no dropout in any of the three.
        fake, generator = (copy.deepcopy(teacher).requires_grad_(True) for _ in range(2))
        self.ema = cast(Denoiser, freeze(copy.deepcopy(teacher)))
        d = config.distillation
        self.fake_phase = Phase(name="fake", network=fake, lr=d.fake_lr, beta1=d.fake_beta1)
        self.generator_phase = Phase(
            name="generator",
            network=generator,
            lr=config.training.lr,
            beta1=config.training.beta1,
            loss_scale=d.generator_loss_scale,
            ema=self.ema,
        )
        self.phases = (self.fake_phase, self.generator_phase)

    @property
    def networks(self) -> tuple[Denoiser, ...]:
        return (self.teacher, self.fake_phase.network, self.generator_phase.network)

    def loss(self, phase: Phase, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        labels = self.draw_labels(batch)
        shape = (len(batch.sample), *self.config.observations.image_shape)
        z = ops.randn(shape, self.config.training.seed, batch.sample, batch.step, ops.Stream.LATENT)
        if phase is self.fake_phase:
            with torch.no_grad():
                x = generate(self.generator_phase.network, z, self.sigma_init, labels)
            return self.fake_loss(x, labels, batch)
        return self.generator_loss(generate(phase.network, z, self.sigma_init, labels), labels, batch)

    @property
    def sigma_init(self) -> float:
        return self.config.distillation.sigma_init

    def fake_loss(self, x: Tensor, labels: Tensor | None, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The teacher's objective on fresh observations of generated images x, corrupted as the data was."""
        seed, sigma_obs = self.config.training.seed, self.config.observations.sigma_obs
        operator = self.corruption.operator
        if operator is None:  # no kernel knows it: observe first
            x = corruptions.observe(
                self.corruption,
                x,
                index=batch.sample,
                sigma_obs=sigma_obs,
                seed=seed,
                step=batch.step,
                channels_last=self.fake_phase.network.channels_last,
            )
        loss, sigma = self.config.objective.loss(
            self.fake_phase.network,
            x,
            operator=operator,
            sigma_obs=sigma_obs,
            seed=seed,
            sample=batch.sample,
            step=batch.step,
            labels=labels,
        )
        return loss, {"sigma": sigma}

    def generator_loss(self, x: Tensor, labels: Tensor | None, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """SiD's loss of generated images x; reaches G through u and, through both networks, u_t."""
        seed, step = self.config.training.seed, batch.step
        u = self.corruption.forward(x, index=batch.sample, seed=seed)
        sigma = self.draw_sigma(batch)
        u_t, net_input = ops.perturb(u, sigma, 0.0, seed, batch.sample, step, **self.teacher.input_options)
        fake = self.fake_phase.network.requires_grad_(False)  # only its input's gradient is wanted here
        F_teacher = self.teacher.raw(net_input, sigma, labels)
        F_fake = fake.raw(net_input, sigma, labels)
        fake.requires_grad_(True)
        alpha, sigma_data = self.config.distillation.alpha, self.teacher.sigma_data
        loss = ops.score_difference_loss(F_teacher, F_fake, u_t, u, sigma, alpha, sigma_data)
        return loss, {"sigma": sigma}

    def draw_sigma(self, batch: Batch) -> Tensor:
        """[B] float32: a uniform place on the lower tmax/1000 of the sampler's grid."""
        c = self.config.distillation
        t = ops.uniform((len(batch.sample),), self.config.training.seed, batch.sample, batch.step, ops.Stream.SIGMA)
        return schedules.power_interpolation(1 - t * c.tmax / 1000, c.sigma_min, c.sigma_max, c.rho).float()

    def draw_labels(self, batch: Batch) -> Tensor | None:
        """[B, label_dim] one-hot, uniform over the classes; None for an unconditional teacher."""
        if not self.teacher.label_dim:
            return None
        u = ops.uniform((len(batch.sample),), self.config.training.seed, batch.sample, batch.step, ops.Stream.LABEL)
        return one_hot((u * self.teacher.label_dim).long(), self.teacher.label_dim)

    def product(self) -> Denoiser:
        return self.ema

    def preview(self) -> Tensor:
        shape = self.config.observations.image_shape
        latents, labels = preview_latents(self.ema, shape, self.config.training.seed)
        with torch.no_grad():
            return generate(self.ema, latents, self.sigma_init, labels)


def generate(network: Denoiser, latents: Tensor, sigma_init: float, labels: Tensor | None = None) -> Tensor:
    """G(z) = D(sigma_init z, sigma_init): latents [B, C, H, W] ~ N(0, I) -> images [B, C, H, W]."""
    return network(sigma_init * latents, sigma_init, labels)
