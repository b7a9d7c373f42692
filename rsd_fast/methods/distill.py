"""Stage 2: restoration score distillation (RSD, arXiv 2505.13377), a one-step generator from a teacher alone.

Three networks of one architecture, all from the teacher's EMA: the frozen teacher f, the fake score g, the generator
G(z) = D_G(sigma_init z, sigma_init). An iteration is

    fake        x = G(z),  y = A(x) + sigma_obs eps;  g minimises the teacher's objective on y
    generator   x = G(z),  u = A(x),  u_t = u + sigma n;  G minimises the score difference of f and g at u_t

and reads no data. Teachers of masked images and k-space see u_t further corrupted, A~* A~ u_t and its mask, and so does
G its latents: G(z) = D_G(A~* A~ sigma_init z, sigma_init).
"""

import contextlib
import copy
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from rsd_fast import corruptions, ops, schedules
from rsd_fast.config import Distill
from rsd_fast.corruptions import Corruption, Draw, DrawnCorruption, Fourier, View
from rsd_fast.networks import Denoiser, cast_weights, one_hot
from rsd_fast.objectives import Noised
from rsd_fast.ops import edm

from . import losses
from .base import Batch, Phase, corruption_of, freeze, levels_of, preview_latents


class DistillMethod:
    """Score distillation through the operator A; the product is the EMA of the generator."""

    def __init__(self, config: Distill, teacher: Denoiser):
        self.config, self.observations = config, config.observations
        self.corruption = corruption_of(config.observations, teacher)
        self.levels = levels_of(config.observations, teacher)
        self.teacher = cast(Denoiser, freeze(teacher))
        # Copies of a frozen network stay in evaluation mode: no dropout in any of the three.
        fake, generator = (copy.deepcopy(teacher).requires_grad_(True) for _ in range(2))
        self.ema = cast(Denoiser, freeze(copy.deepcopy(teacher)))
        cast_weights(self.teacher)
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
        shape = (len(batch.sample), *self.observations.image_shape)
        z = ops.randn(shape, self.config.training.seed, batch.sample, batch.step, ops.Stream.LATENT)
        view = self.latent_view(batch.sample, self.config.training.seed)
        if phase is self.fake_phase:
            with torch.no_grad():
                x = generate(self.generator_phase.network, z, self.sigma_init, labels, view)
            return self.fake_loss(x, labels, batch)
        return self.generator_loss(generate(phase.network, z, self.sigma_init, labels, view), labels, batch)

    @property
    def sigma_init(self) -> float:
        return self.config.distillation.sigma_init

    def latent_view(self, index: Tensor, seed: int) -> View | None:
        return latent_view(self.config, self.corruption, index, seed)

    def fake_loss(self, x: Tensor, labels: Tensor | None, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The teacher's objective on fresh observations of generated images x, corrupted as the data was."""
        seed = self.config.training.seed
        loss, sigma = self.config.objective.loss(
            self.fake_phase.network,
            x,
            images=True,
            corruption=self.corruption,
            sigma_obs=self.levels.of(batch.sample, seed),
            seed=seed,
            sample=batch.sample,
            step=batch.step,
            labels=labels,
        )
        return loss, {"sigma": sigma}

    def generator_loss(self, x: Tensor, labels: Tensor | None, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of generated images x; SiD's reaches G through u and, through both networks, u_t."""
        seed, sample = self.config.training.seed, batch.sample
        objective, loss = self.config.objective, self.config.distillation.loss
        drawn = isinstance(self.corruption, DrawnCorruption)
        draw = self.corruption.draw(self.observations.image_shape, sample, seed) if drawn else None  # type: ignore[attr-defined]
        u = corruptions.apply(self.corruption, x, draw, index=sample, seed=seed)
        sigma = self.draw_sigma(batch)
        noised = objective.noised(
            self.teacher, u, self.corruption, draw, sigma, 0.0, seed=seed, sample=sample, step=batch.step
        )
        with self.frozen_scores(), torch.set_grad_enabled(loss == "sid"):
            condition = noised.view.condition
            F_teacher = self.teacher.raw(noised.net_input, sigma, labels, condition=condition)
            F_fake = self.fake_phase.network.raw(noised.net_input, sigma, labels, condition=condition)
        return self.difference(F_teacher, F_fake, noised, u, draw, sigma), {"sigma": sigma}

    @contextlib.contextmanager
    def frozen_scores(self) -> Iterator[None]:
        """Of both networks the input's gradient alone is wanted: of their weights it would be computed in vain."""
        fake = self.fake_phase.network.requires_grad_(False)
        try:
            yield
        finally:
            fake.requires_grad_(True)

    def difference(
        self, F_teacher: Tensor, F_fake: Tensor, noised: Noised, u: Tensor, draw: Draw | None, sigma: Tensor
    ) -> Tensor:
        """The configured loss [B] from both networks' raw outputs at `noised`, of observations u without noise."""
        c, sigma_data = self.config.distillation, self.teacher.sigma_data
        conditional = self.config.objective.conditional
        if c.loss == "sid" and not conditional:
            return ops.score_difference_loss(F_teacher, F_fake, noised.x_t, u, sigma, c.alpha, sigma_data)
        with torch.set_grad_enabled(c.loss == "sid"):
            f, g = (self.teacher.denoise(F, noised.x_t, sigma, noised.view.condition) for F in (F_teacher, F_fake))
            if isinstance(self.corruption, Fourier):
                assert draw is not None
                f, g = self.corruption.apply(f, draw), self.corruption.apply(g, draw)
            d, r = (corruptions.observed(e, draw if conditional else None) for e in (f - g, f - u))
        if c.loss == "sid":
            return losses.sid(d, r, c.alpha)
        if c.loss == "dmd":
            return losses.dmd(d, r, u)
        return losses.sds(r, u, edm.loss_weight(sigma, sigma_data))

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
        seed = self.config.training.seed
        latents, labels = preview_latents(self.ema, self.observations.image_shape, seed)
        with torch.no_grad():
            view = self.latent_view(torch.arange(len(latents), device=latents.device), seed)
            return generate(self.ema, latents, self.sigma_init, labels, view)


def latent_view(config: Distill, corruption: Corruption | None, index: Tensor, seed: int) -> View | None:
    """Through which the generator sees latents number index [B]; None where it sees them whole."""
    if not config.objective.conditional:
        return None
    assert isinstance(corruption, DrawnCorruption)
    shape = config.observations.image_shape
    return corruption.view(corruption.latent_draw(shape, index, seed, config.objective.delta), shape)


def generate(
    network: Denoiser,
    latents: Tensor,
    sigma_init: float,
    labels: Tensor | None = None,
    view: View | None = None,
) -> Tensor:
    """G(z) = D(sigma_init z, sigma_init): latents [B, C, H, W] ~ N(0, I) -> images [B, C, H, W].

    view: of the latents A~* A~ z and their mask, as the teacher sees images; None for a teacher of whole ones.
    """
    if view is None:
        return network(sigma_init * latents, sigma_init, labels)
    return network(view.image(view.measure(sigma_init * latents)), sigma_init, labels, condition=view.condition)
