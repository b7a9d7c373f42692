"""Stage 2: restoration score distillation (RSD, arXiv 2505.13377), a one-step generator from only a teacher.

Three networks of one architecture, all from the teacher's EMA: the frozen teacher f, the fake score g, the generator
G(z) = D_G(sigma_init z, sigma_init). An iteration is

    fake        x = G(z),  y = A(x) + sigma_obs eps;  g minimises the teacher's objective on y
    generator   x = G(z),  u = A(x),  u_t = u + sigma n;  G minimises the score difference of f and g at u_t

and reads no data. Teachers of masked images and k-space see u_t further corrupted, A~* A~ u_t and its mask, and so does
G its latents: G(z) = D_G(A~* A~ sigma_init z, sigma_init).
"""

import copy
import functools
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from rsd_fast import objectives, ops, schedules
from rsd_fast.config import Distill
from rsd_fast.corruptions import Corruption, Observation, View
from rsd_fast.generator_losses import LOSSES, Terms
from rsd_fast.networks import Denoiser, cast_weights, one_hot
from rsd_fast.objectives import Labels, Noised, squared
from rsd_fast.ops import Key, Stream, edm

from .base import Batch, Phase, corruption_of, freeze, levels_of, preview_latents


class Generated(NamedTuple):
    """Images of the generator [B, C, H, W], and the labels they were made of."""

    x: Tensor
    labels: Labels


class Compared(NamedTuple):
    """What both networks make of the generator's images."""

    F_teacher: Tensor  # raw outputs at `noised`
    F_fake: Tensor  # the teacher's again where the loss asks for no fake score
    noised: Noised
    observation: Observation  # u = A G(z), without noise


class DistillMethod:
    """Score distillation through the operator A; the product is the EMA of the generator.

    corruption: the operator, where the SPEC of the config does not say all.
    """

    input_only = True  # no gradient of the scores' weights in the generator's phase; False for comparison

    def __init__(self, config: Distill, teacher: Denoiser, corruption: Corruption | None = None):
        self.config, self.observations = config, config.observations
        self.objective, self.rule = objectives.create(config.objective), LOSSES[config.distillation.loss]
        self.corruption = corruption_of(config.observations, teacher, corruption)
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
        both = (self.fake_phase, self.generator_phase)
        self.phases = both if self.rule.needs_fake_score else (self.generator_phase,)
        self.kept: Generated | None = None  # images of the fake phase, which the generator's phase uses again

    @property
    def networks(self) -> tuple[Denoiser, ...]:
        return (self.teacher, *(phase.network for phase in self.phases))

    def network_evaluations(self) -> dict[str, int]:
        d, again = self.config.distillation, self.config.training.checkpoint_activations
        score = 2 + again if self.rule.through_scores else 1  # forward, and backward only to the input
        generator = 3 + again + (2 * score if self.rule.needs_fake_score else score)
        fake = (not d.reuse_batch) + 3 + again + self.config.objective.further_evaluations
        evaluations = {"fake": fake, "generator": generator}
        return {phase.name: evaluations[phase.name] for phase in self.phases}

    def loss(self, phase: Phase, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        # Through the scores of the generator's loss only the gradient of their input is needed, not that of the fake
        # score's weights. They stay frozen until the backward pass, which may evaluate blocks again.
        self.fake_phase.network.requires_grad_(phase is self.fake_phase or not self.input_only)
        key = Key(self.config.training.seed, batch.sample, batch.step)
        if phase is self.fake_phase:
            keep = self.config.distillation.reuse_batch
            with torch.set_grad_enabled(keep):
                generated = self.generated(key)
            self.kept = generated if keep else None
            return self.fake_loss(generated._replace(x=generated.x.detach()), key)
        generated, self.kept = self.kept or self.generated(key), None
        return self.generator_loss(generated, key)

    def generated(self, key: Key) -> Generated:
        """Images of fresh latents."""
        labels = Labels(self.draw_labels(key))
        shape = self.observations.image_shape
        z = key.randn((len(key), *shape), Stream.LATENT)
        view = self.objective.latent_view(self.corruption, shape, key)
        return Generated(generate(self.generator_phase.network, z, self.sigma_init, labels.classes, view), labels)

    @property
    def sigma_init(self) -> float:
        return self.config.distillation.sigma_init

    def fake_loss(self, generated: Generated, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        """The teacher's objective on fresh observations of generated images, corrupted as the data was."""
        sigma_obs = self.levels.of(key.sample, key.seed)
        loss, sigma = self.objective.loss_of_images(
            self.fake_phase.network, generated.x, self.corruption, sigma_obs, key, generated.labels
        )
        return loss, {"sigma": sigma}

    def generator_loss(self, generated: Generated, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of generated images; SiD's reaches G through u and, through both networks, u_t."""
        operator = self.corruption.batch(self.observations.image_shape, key.sample, key.seed)
        observation = Observation(operator.apply(generated.x), operator)
        noised = self.objective.noised(self.teacher, observation, self.draw_sigma(key), key)
        with torch.set_grad_enabled(self.rule.through_scores):
            F_teacher, F_fake = self.scores(noised, generated.labels)
        compared = Compared(F_teacher, F_fake, noised, observation)
        statistics = {"sigma": noised.sigma, **self.signals(compared), **diversity(generated.x)}
        return self.difference(compared), statistics

    def scores(self, noised: Noised, labels: Labels) -> tuple[Tensor, Tensor]:
        """Both networks' raw outputs; the teacher's twice for a loss that has no use for the fake score's."""
        if not self.rule.needs_fake_score:
            return (noised.raw(self.teacher, labels),) * 2
        if not self.config.distillation.concurrent_scores:
            return noised.raw(self.teacher, labels), noised.raw(self.fake_phase.network, labels)
        here, beside = torch.cuda.current_stream(), self.second_stream
        beside.wait_stream(here)
        with torch.cuda.stream(beside):  # the backward pass goes on the streams of the forward pass
            F_fake = noised.raw(self.fake_phase.network, labels)
        F_teacher = noised.raw(self.teacher, labels)
        here.wait_stream(beside)
        F_fake.record_stream(here)
        return F_teacher, F_fake

    @functools.cached_property
    def second_stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(next(self.teacher.parameters()).device)

    def difference(self, compared: Compared) -> Tensor:
        """The configured loss [B]."""
        F_teacher, F_fake, noised, (u, *_) = compared
        alpha, sigma_data = self.config.distillation.alpha, self.teacher.sigma_data
        if self.rule.fused is not None and not self.config.objective.conditional:
            fused: Any = getattr(ops, self.rule.fused)
            return fused(F_teacher, F_fake, noised.x_t, u, noised.sigma, alpha, sigma_data)
        with torch.set_grad_enabled(self.rule.through_scores):
            f, g = (self.estimate(F, compared) for F in (F_teacher, F_fake))
            d, r = (self.objective.observed(error, compared.observation.operator) for error in (f - g, f - u))
        return self.rule.fn(Terms(d, r, u, edm.loss_weight(noised.sigma, sigma_data), alpha))

    def estimate(self, F: Tensor, compared: Compared) -> Tensor:
        """The denoiser's estimate of the observation without noise, from its raw output."""
        D = compared.noised.denoise(self.teacher, F)
        return self.objective.estimate(D, compared.observation.operator)

    @torch.no_grad()
    def signals(self, compared: Compared) -> dict[str, Tensor]:
        """How far the distillation has come, each [B], from what the loss has computed anyway.

        fisher: ||f - g||^2 / (sigma^2 n), n pixels: sigma^2 / n times the integrand of the Fisher divergence between
        the noised distributions of generator and teacher. teacher_loss, fake_loss: weight(sigma) ||f - u||^2 and
        ||g - u||^2; where the fake score is up to date, the second is the lower by weight(sigma) ||f - g||^2.
        """
        u, operator, _ = compared.observation
        u, sigma = u.detach(), compared.noised.sigma
        f = self.estimate(compared.F_teacher.detach(), compared)
        weight = edm.loss_weight(sigma, self.teacher.sigma_data)

        def distance(error: Tensor) -> Tensor:
            return squared(self.objective.observed(error, operator))

        signals = {"teacher_loss": weight * distance(f - u)}
        if self.rule.needs_fake_score:
            g = self.estimate(compared.F_fake.detach(), compared)
            signals["fake_loss"] = weight * distance(g - u)
            signals["fisher"] = distance(f - g) / sigma**2 / u[0].numel()
        return signals

    def draw_sigma(self, key: Key) -> Tensor:
        """[B] float32: a uniform place on the lower tmax/1000 of the sampler's grid."""
        c = self.config.distillation
        t = key.uniform(stream=Stream.SIGMA)
        return schedules.power_interpolation(1 - t * c.tmax / 1000, c.sigma_min, c.sigma_max, c.rho).float()

    def draw_labels(self, key: Key) -> Tensor | None:
        """[B, label_dim] one-hot, uniform over the classes; None for an unconditional teacher."""
        if not self.teacher.label_dim:
            return None
        u = key.uniform(stream=Stream.LABEL)
        return one_hot((u * self.teacher.label_dim).long(), self.teacher.label_dim)

    def product(self) -> Denoiser:
        return self.ema

    def preview(self) -> Tensor:
        shape, seed = self.observations.image_shape, self.config.training.seed
        latents, labels = preview_latents(self.ema, shape, seed)
        with torch.no_grad():
            index = torch.arange(len(latents), device=latents.device)
            view = self.objective.latent_view(self.corruption, shape, Key(seed, index))
            return generate(self.ema, latents, self.sigma_init, labels, view)


def generate(
    network: Denoiser,
    latents: Tensor,
    sigma_init: float,
    labels: Tensor | None = None,
    view: View | None = None,
) -> Tensor:
    """G(z) = D(sigma_init z, sigma_init): latents [B, C, H, W] ~ N(0, I) -> images [B, C, H, W].

    view: what the network sees of the latents, A~* A~ z and the mask; None: all.
    """
    view = view or View()
    seen = view.image(view.measure(sigma_init * latents))
    return network(seen, sigma_init, labels, condition=view.condition)


@torch.no_grad()
def diversity(x: Tensor) -> dict[str, Tensor]:
    """{"diversity": [1]}, the standard deviation over images x [B, C, H, W], in the mean over pixels; {} for one."""
    return {"diversity": x.detach().float().std(0).mean().reshape(1)} if len(x) > 1 else {}
