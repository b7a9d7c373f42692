"""An objective: what a denoiser sees of an observation, and the error it is charged with."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from rsd_fast import config, corruptions, ops, schedules
from rsd_fast.config import OBJECTIVES, SIGMA_DISTRIBUTIONS
from rsd_fast.corruptions import BatchOperator, Corruption, Observation, View
from rsd_fast.networks import Denoiser
from rsd_fast.ops import Key, Stream

from .consistency import consistency


class Labels(NamedTuple):
    """What a network is told beside the image."""

    classes: Tensor | None = None  # [B, label_dim] one-hot
    augmentation: Tensor | None = None  # [B, augment_dim]


NO_LABELS = Labels()


class Noised(NamedTuple):
    """Observations at a diffusion level, as a denoiser gets them."""

    sigma: Tensor  # [B]
    state: Tensor  # what diffuses: x_t [B, C, H, W], or s in the observations' space; 0 where it is not seen
    x_t: Tensor  # [B, C, H, W], the state as an image
    net_input: Tensor  # c_in(sigma) x_t
    view: View

    def raw(self, denoiser: Denoiser, labels: Labels = NO_LABELS) -> Tensor:
        """The network's output F."""
        return denoiser.raw(self.net_input, self.sigma, *labels, self.view.condition)

    def denoise(self, denoiser: Denoiser, F: Tensor) -> Tensor:
        """D(x_t, sigma) of the network's output."""
        return denoiser.denoise(F, self.x_t, self.sigma, self.view.condition)


class Objective:
    """Denoising score matching with ln sigma ~ N(p_mean, p_std^2), restricted to sigma >= sigma_obs.

    Subclasses say what the denoiser sees (`view`, `noised`), which error it is charged with (`error`), and where the
    generator's loss compares (`estimate`, `observed`). All that is random is a function of a `Key`.
    """

    def __init__(self, settings: config.Objective) -> None:
        self.settings = settings
        self.draw_level = getattr(schedules, SIGMA_DISTRIBUTIONS[settings.sigma_distribution])

    def loss(
        self, denoiser: Denoiser, observation: Observation, key: Key, labels: Labels = NO_LABELS
    ) -> tuple[Tensor, Tensor]:
        """(loss [B] summed over pixels, sigma [B]) of observations. Differentiable in the denoiser's parameters."""
        sigma, mass = self.draw_sigma(observation.sigma_obs, key)
        noised = self.noised(denoiser, observation, sigma, key)
        return mass * self.loss_at(denoiser, observation, noised, key, labels), sigma

    def loss_of_images(
        self,
        denoiser: Denoiser,
        images: Tensor,
        corruption: Corruption,
        sigma_obs: Tensor | float,
        key: Key,
        labels: Labels = NO_LABELS,
    ) -> tuple[Tensor, Tensor]:
        """As `loss`, for images [B, C, H, W], of each of which a fresh observation is drawn. It takes one pass over the
        images where a kernel knows the operator."""
        sigma, mass = self.draw_sigma(sigma_obs, key)
        fused = corruptions.observe_noised(corruption, images, sigma_obs, sigma, key, denoiser.input_options)
        if fused is not None:
            observation, x_t, net_input = fused
            noised = self.seen(x_t, net_input, observation, sigma, key)
        else:
            observation = corruptions.observation(
                corruption,
                images,
                index=key.sample,
                sigma_obs=sigma_obs,
                seed=key.seed,
                step=key.step,
                channels_last=denoiser.channels_last,
            )
            noised = self.noised(denoiser, observation, sigma, key)
        return mass * self.loss_at(denoiser, observation, noised, key, labels), sigma

    def draw_sigma(self, sigma_obs: Tensor | float, key: Key) -> tuple[Tensor, Tensor]:
        """(sigma, mass), both [B] float32: noise levels of the samples, and the factor their losses carry."""
        s = self.settings
        u = key.uniform(stream=Stream.SIGMA)
        sigma, mass = self.draw_level(u, sigma_obs, s.p_mean, s.p_std)
        return sigma.float(), mass.float()

    def loss_at(self, denoiser: Denoiser, observation: Observation, noised: Noised, key: Key, labels: Labels) -> Tensor:
        """[B]: the error at a noise level, and the consistency term where there is one."""
        F = noised.raw(denoiser, labels)
        loss = self.error(denoiser, F, noised, observation)
        if self.settings.consistency:
            D = noised.denoise(denoiser, F)
            loss = loss + self.settings.consistency * consistency(self, denoiser, D, noised, key, labels)
        return loss

    def view(self, observation: Observation, key: Key) -> View:
        """What the denoiser sees of observations at a step of training."""
        return View()

    def noised(self, denoiser: Denoiser, observation: Observation, sigma: Tensor, key: Key) -> Noised:
        """Observations, with noise of sigma_obs, noised on to sigma [B] and, where conditional, further corrupted.

        Differentiable in y.
        """
        y, _, sigma_obs = observation
        x_t, net_input = ops.perturb(y, sigma, sigma_obs, key.seed, key.sample, key.step, denoiser.input_options)
        return self.seen(x_t, net_input, observation, sigma, key)

    def seen(self, x_t: Tensor, net_input: Tensor, observation: Observation, sigma: Tensor, key: Key) -> Noised:
        """Perturbed images as the denoiser gets them: all of them, or what a further mask leaves."""
        view = self.view(observation, key)
        x_t, net_input = view.measure(x_t), view.measure(net_input)
        return Noised(sigma, x_t, x_t, net_input, view)

    def error(self, denoiser: Denoiser, F: Tensor, noised: Noised, observation: Observation) -> Tensor:
        """[B]: the weighted error of a network's output F."""
        raise NotImplementedError  # pragma: no cover

    def weigh(self, denoiser: Denoiser, noised: Noised, error: Tensor) -> Tensor:
        """[B]: the squared error in the states' space, by weight(sigma) where the denoiser sees, and by that of
        infinite noise where it does not."""
        return denoiser.hidden.weigh(
            squared(noised.view.keep(error)), squared(error), noised.sigma, denoiser.sigma_data
        )

    def weigh_image(self, denoiser: Denoiser, noised: Noised, error: Tensor) -> Tensor:
        """As `weigh`, for an error in the images' space."""
        return self.weigh(denoiser, noised, error)

    def fixed_view(self, corruption: Corruption, image_shape: tuple[int, int, int], key: Key) -> View:
        """The view through which a sampler's denoiser sees images from beginning to end, a function of key."""
        return View()

    def latent_view(self, corruption: Corruption, image_shape: tuple[int, int, int], key: Key) -> View:
        """The view through which a generator sees its latents: as the denoiser sees images in training."""
        return View()

    def estimate(self, D: Tensor, operator: BatchOperator) -> Tensor:
        """The estimate of the observation without noise, from the denoiser's image."""
        return D

    def observed(self, error: Tensor, operator: BatchOperator) -> Tensor:
        """An error in the space of `estimate` where something was observed, 0 elsewhere."""
        return error


class WholeImages(Objective):
    """`standard` and `tweedie`: the denoiser sees every pixel, with noise in it or without."""

    def error(self, denoiser: Denoiser, F: Tensor, noised: Noised, observation: Observation) -> Tensor:
        y, _, sigma_obs = observation
        return ops.denoising_loss(F, noised.x_t, y, noised.sigma, sigma_obs, denoiser.sigma_data)


class Conditional(Objective):
    """The denoiser sees less than was observed, and is shown what."""

    def view(self, observation: Observation, key: Key) -> View:
        return observation.operator.further(self.settings.delta, key).view()

    def fixed_view(self, corruption: Corruption, image_shape: tuple[int, int, int], key: Key) -> View:
        """As in training (the fixed-mask sampler of Daras et al. 2023)."""
        operator = corruption.batch(image_shape, key.sample, key.seed)
        return operator.further(self.settings.delta, key).view()

    def latent_view(self, corruption: Corruption, image_shape: tuple[int, int, int], key: Key) -> View:
        return corruption.latent_view(image_shape, key, self.settings.delta)

    def observed(self, error: Tensor, operator: BatchOperator) -> Tensor:
        return operator.observed(error)


def squared(error: Tensor) -> Tensor:
    """[B]: the sum of squares."""
    return (error**2).flatten(1).sum(1)


def create(settings: config.Objective) -> Objective:
    """The objective of a run's settings."""
    return OBJECTIVES[settings.name].load()(settings)
