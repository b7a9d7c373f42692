"""Stage 2: restoration score distillation (RSD, arXiv 2505.13377), a one-step generator from a teacher alone.

Three networks of one architecture, all from the teacher's EMA: the frozen teacher f, the fake score g, the generator
G(z) = D_G(sigma_init z, sigma_init). An iteration is

    fake        x = G(z),  y = A(x) + sigma_obs eps;  g minimises the teacher's objective on y
    generator   x = G(z),  u = A(x),  u_t = u + sigma n;  G minimises the score difference of f and g at u_t

and reads no data. Teachers of masked images and k-space see u_t further corrupted, A~* A~ u_t and its mask, and so does
G its latents: G(z) = D_G(A~* A~ sigma_init z, sigma_init).
"""

import copy
import functools
from typing import NamedTuple, cast

import torch
from torch import Tensor

from rsd_fast import corruptions, generator_losses, objectives, ops, schedules
from rsd_fast.config import Distill
from rsd_fast.corruptions import Corruption, Draw, DrawnCorruption, Fourier, View
from rsd_fast.networks import Denoiser, cast_weights, one_hot
from rsd_fast.objectives import Noised
from rsd_fast.ops import edm

from .base import Batch, Phase, corruption_of, freeze, levels_of, preview_latents


class Generated(NamedTuple):
    """Images of the generator [B, C, H, W], and the labels they were made of [B, label_dim]."""

    x: Tensor
    labels: Tensor | None


class DistillMethod:
    """Score distillation through the operator A; the product is the EMA of the generator."""

    input_only = True  # no gradient of the scores' weights in the generator's phase; False for comparison

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
        # Score distillation sampling asks the teacher alone.
        self.phases = (self.generator_phase,) if d.loss == "sds" else (self.fake_phase, self.generator_phase)
        self.kept: Generated | None = None  # of the fake phase, for the generator's

    @property
    def networks(self) -> tuple[Denoiser, ...]:
        return (self.teacher, *(phase.network for phase in self.phases))

    def network_evaluations(self) -> dict[str, int]:
        d, again = self.config.distillation, self.config.training.checkpoint_activations
        score = 2 + again if d.loss == "sid" else 1  # forward, and backward to the input alone
        generator = 3 + again + (score if d.loss == "sds" else 2 * score)
        fake = (not d.reuse_batch) + 3 + again + self.config.objective.further_evaluations
        found = {"fake": fake, "generator": generator}
        return {phase.name: found[phase.name] for phase in self.phases}

    def loss(self, phase: Phase, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        # Through the scores of the generator's loss the input's gradient alone is wanted: that of the fake score's
        # weights would be computed in vain. They stay so until the backward pass, which may evaluate blocks again.
        self.fake_phase.network.requires_grad_(phase is self.fake_phase or not self.input_only)
        if phase is self.fake_phase:
            keep = self.config.distillation.reuse_batch
            with torch.set_grad_enabled(keep):
                generated = self.generated(batch)
            self.kept = generated if keep else None
            return self.fake_loss(generated.x.detach(), generated.labels, batch)
        generated, self.kept = self.kept or self.generated(batch), None
        return self.generator_loss(generated.x, generated.labels, batch)

    def generated(self, batch: Batch) -> "Generated":
        """Images of fresh latents."""
        labels = self.draw_labels(batch)
        shape = (batch.sample.shape[0], *self.observations.image_shape)
        z = ops.randn(shape, self.config.training.seed, batch.sample, batch.step, ops.Stream.LATENT)
        view = self.latent_view(batch.sample, self.config.training.seed)
        return Generated(generate(self.generator_phase.network, z, self.sigma_init, labels, view), labels)

    @property
    def sigma_init(self) -> float:
        return self.config.distillation.sigma_init

    def latent_view(self, index: Tensor, seed: int) -> View | None:
        return latent_view(self.config, self.corruption, index, seed)

    def fake_loss(self, x: Tensor, labels: Tensor | None, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The teacher's objective on fresh observations of generated images x, corrupted as the data was."""
        seed = self.config.training.seed
        loss, sigma = objectives.of(self.config.objective).loss(
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
        objective, loss = objectives.of(self.config.objective), self.config.distillation.loss
        drawn = isinstance(self.corruption, DrawnCorruption)
        draw = self.corruption.draw(self.observations.image_shape, sample, seed) if drawn else None  # type: ignore[attr-defined]
        u = corruptions.apply(self.corruption, x, draw, index=sample, seed=seed)
        sigma = self.draw_sigma(batch)
        noised = objective.noised(
            self.teacher, u, self.corruption, draw, sigma, 0.0, seed=seed, sample=sample, step=batch.step
        )
        with torch.set_grad_enabled(loss == "sid"):
            F_teacher, F_fake = self.scores(noised, sigma, labels)
        statistics = {"sigma": sigma, **self.signals(F_teacher, F_fake, noised, u, draw, sigma), **diversity(x)}
        return self.difference(F_teacher, F_fake, noised, u, draw, sigma), statistics

    def scores(self, noised: Noised, sigma: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both networks' raw outputs; of SDS, which has no use for the fake score's, the teacher's twice."""
        arguments = (noised.net_input, sigma, labels, None, noised.view.condition)
        if self.config.distillation.loss == "sds":
            return (self.teacher.raw(*arguments),) * 2
        if not self.config.distillation.concurrent_scores:
            return self.teacher.raw(*arguments), self.fake_phase.network.raw(*arguments)
        here, beside = torch.cuda.current_stream(), self.second_stream
        beside.wait_stream(here)
        with torch.cuda.stream(beside):  # the backward pass goes on the streams of the forward pass
            F_fake = self.fake_phase.network.raw(*arguments)
        F_teacher = self.teacher.raw(*arguments)
        here.wait_stream(beside)
        F_fake.record_stream(here)
        return F_teacher, F_fake

    @functools.cached_property
    def second_stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(next(self.teacher.parameters()).device)

    def difference(
        self, F_teacher: Tensor, F_fake: Tensor, noised: Noised, u: Tensor, draw: Draw | None, sigma: Tensor
    ) -> Tensor:
        """The configured loss [B] from both networks' raw outputs at `noised`, of observations u without noise."""
        c, sigma_data = self.config.distillation, self.teacher.sigma_data
        conditional = self.config.objective.conditional
        if c.loss == "sid" and not conditional:
            return ops.score_difference_loss(F_teacher, F_fake, noised.x_t, u, sigma, c.alpha, sigma_data)
        with torch.set_grad_enabled(c.loss == "sid"):
            f, g = (self.estimate(F, noised, draw, sigma) for F in (F_teacher, F_fake))
            d, r = (self.observed(e, draw) for e in (f - g, f - u))
        if c.loss == "sid":
            return generator_losses.sid(d, r, c.alpha)
        if c.loss == "dmd":
            return generator_losses.dmd(d, r, u)
        return generator_losses.sds(r, u, edm.loss_weight(sigma, sigma_data))

    def estimate(self, F: Tensor, noised: Noised, draw: Draw | None, sigma: Tensor) -> Tensor:
        """The denoiser's estimate of the observation without noise, from its raw output."""
        estimate = self.teacher.denoise(F, noised.x_t, sigma, noised.view.condition)
        if not isinstance(self.corruption, Fourier):
            return estimate
        assert draw is not None
        return self.corruption.apply(estimate, draw)

    def observed(self, error: Tensor, draw: Draw | None) -> Tensor:
        """An error where something was observed, 0 elsewhere."""
        return corruptions.observed(error, draw if self.config.objective.conditional else None)

    @torch.no_grad()
    def signals(
        self, F_teacher: Tensor, F_fake: Tensor, noised: Noised, u: Tensor, draw: Draw | None, sigma: Tensor
    ) -> dict[str, Tensor]:
        """How far the distillation has come, each [B], from what the loss has computed anyway.

        fisher: ||f - g||^2 / (sigma^2 n), n pixels: sigma^2 / n times the integrand of the Fisher divergence between
        the noised distributions of generator and teacher. teacher_loss, fake_loss: weight(sigma) ||f - u||^2 and
        ||g - u||^2; where the fake score is up to date, the second is the lower by weight(sigma) ||f - g||^2.
        """
        f, u = self.estimate(F_teacher.detach(), noised, draw, sigma), u.detach()
        weight = edm.loss_weight(sigma, self.teacher.sigma_data)

        def squared(error: Tensor) -> Tensor:
            return (self.observed(error, draw) ** 2).flatten(1).sum(1)

        found = {"teacher_loss": weight * squared(f - u)}
        if self.config.distillation.loss != "sds":  # which has no fake score
            g = self.estimate(F_fake.detach(), noised, draw, sigma)
            found["fake_loss"] = weight * squared(g - u)
            found["fisher"] = squared(f - g) / sigma**2 / u[0].numel()
        return found

    def draw_sigma(self, batch: Batch) -> Tensor:
        """[B] float32: a uniform place on the lower tmax/1000 of the sampler's grid."""
        c = self.config.distillation
        t = ops.uniform((batch.sample.shape[0],), self.config.training.seed, batch.sample, batch.step, ops.Stream.SIGMA)
        return schedules.power_interpolation(1 - t * c.tmax / 1000, c.sigma_min, c.sigma_max, c.rho).float()

    def draw_labels(self, batch: Batch) -> Tensor | None:
        """[B, label_dim] one-hot, uniform over the classes; None for an unconditional teacher."""
        if not self.teacher.label_dim:
            return None
        u = ops.uniform((batch.sample.shape[0],), self.config.training.seed, batch.sample, batch.step, ops.Stream.LABEL)
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


@torch.no_grad()
def diversity(x: Tensor) -> dict[str, Tensor]:
    """{"diversity": [1]}, the standard deviation over images x [B, C, H, W], in the mean over pixels; {} for one."""
    return {"diversity": x.detach().float().std(0).mean().reshape(1)} if len(x) > 1 else {}
