r"""What a teacher minimises, and the fake score of distillation with it: one object serves both.

    standard   weight ||D(y + sigma n, sigma) - y||^2                      (Karras et al. 2022; sigma_obs = 0)
    tweedie    weight ||h - y||^2,  x_t = y + sqrt(sigma^2 - sigma_obs^2) n,  sigma >= sigma_obs,
               h = (1 - r) D(x_t, sigma) + r x_t,  r = sigma_obs^2 / sigma^2    (Daras et al. 2024)
    ambient    weight' ||M (h - y)||^2,  D seeing M~ x_t and M~ alone            (Daras et al. 2023)
    fourier    weight' ||h - k||^2 on what P samples,  D seeing A~* s and P~ alone,  s = P~ (k + sqrt(..) n)

At sigma_obs = 0 the second is the first, so one formula computes both; the name states what is expected of the data.

In the last two, M~ and P~ (`DrawnCorruption.further`) leave less than was observed, afresh at every step, so that the
denoiser must predict what it does not see. h is the estimate of what was observed, noise included: where the
denoiser sees it, h = (1 - r) A D + r s, and elsewhere A D. weight' is weight(sigma) where the denoiser sees, and its
limit for infinite sigma, 1 / sigma_data^2, where it does not: what is hidden is hidden at every sigma, and the
published weight(sigma) on it, 250,000 at sigma = .002, drowns all else. In both the expected loss is least for
D = E[x | what is seen], whatever the coils' maps and sigma_obs: what is sampled depends on the image in no way but
through what is seen. For a single coil ||A D - k|| is ||A* A (D - A* k)||, as published; for several that expression,
which applies A* A to A* k once more, has another minimum.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from . import config, corruptions, ops, schedules
from .config import KINDS
from .config import OBJECTIVES as NAMES
from .corruptions import BoxMask, Corruption, Draw, DrawnCorruption, Fourier, Identity, MaskView, View
from .networks import Denoiser
from .ops import edm

IDENTITY = Identity()
INFINITE = 1e4  # of sigma_data: c_skip below 1e-7, c_out and weight as in the limit, squares within float32
SIGMA_DISTRIBUTIONS = {
    "truncated": schedules.truncated_log_normal,
    "clamped": schedules.clamped_log_normal,
}


def resolve(
    name: str,
    sigma_obs: float,
    corruption: Corruption = IDENTITY,
    image_shape: tuple[int, int, int] = (1, 32, 32),
) -> str:
    """The objective for observations by the operator, of images, with noise of up to sigma_obs; `auto` chooses.

    Raises ValueError, with the reason, where they do not fit, or where nothing could be learned.
    """
    fitting = {kind: objective for objective, kind in KINDS.items()}
    if name == "auto":
        name = fitting.get(corruption.kind, "tweedie" if sigma_obs > 0 else "standard")
    if name not in NAMES:
        raise ValueError(f"unknown objective '{name}'; known: auto, {', '.join(NAMES)}")
    if name in KINDS and corruption.kind != KINDS[name]:
        raise ValueError(f"objective '{name}' is for masks{' of k-space' * (name == 'fourier')}, not for {corruption}")
    if name == "standard" and sigma_obs > 0:
        raise ValueError(
            f"objective 'standard' would learn the noise as if it were signal (sigma_obs is {sigma_obs:g}); "
            f"use '{fitting.get(corruption.kind, 'tweedie')}'"
        )
    if name == "tweedie" and corruption.kind == "mask":
        raise ValueError("objective 'tweedie' expects noise in every pixel, and missing ones have none; use 'ambient'")
    if corruption.kind == "fourier" and name != "fourier":
        raise ValueError(f"objective '{name}' would learn k-space as if it were an image; use 'fourier'")
    if name == "ambient":
        _check_mask(corruption, image_shape)
    if isinstance(corruption, Fourier) and corruption.coils == 1:
        width = image_shape[2]
        if corruption.acs_lines < width and corruption.acs_lines >= width / corruption.acceleration:
            raise ValueError(
                f"objective 'fourier': acs_lines {corruption.acs_lines} are all that acceleration "
                f"{corruption.acceleration:g} samples of {width} columns, so that nothing shows what is in the others"
            )
    if isinstance(corruption, Fourier) and corruption.pattern == "equispaced" and corruption.coils == 1:
        raise ValueError(
            "objective 'fourier': what lies between equispaced columns is never observed together with them, so that "
            "a single coil gives no way to learn it; use pattern=random, or several coils"
        )
    return name


def _check_mask(corruption: Corruption, image_shape: tuple[int, int, int]) -> None:
    if not isinstance(corruption, BoxMask):
        return
    if not corruption.random:
        raise ValueError("objective 'ambient': every image lacks the same pixels, so that nothing shows what is there")
    if not corruption.leaves_room(image_shape):
        size = f"{image_shape[1]}x{image_shape[2]}"
        raise ValueError(
            f"objective 'ambient' masks a second box, and in {size} images one of size {corruption.size} can leave no "
            f"place for it; at most a third of the greater side, {max(image_shape[1:]) // 3}, always does"
        )


class Noised(NamedTuple):
    """Observations at a diffusion level, as a denoiser gets them."""

    state: Tensor  # what diffuses: x_t [B, C, H, W], or of k-space s [B, 2 coils, H, W]; 0 where it is not seen
    x_t: Tensor  # [B, C, H, W], the state as an image
    net_input: Tensor  # c_in(sigma) x_t
    view: View


def of(settings: config.Objective) -> "Objective":
    """What such settings say."""
    return settings if isinstance(settings, Objective) else Objective(**vars(settings))


class Objective(config.Objective):
    """Denoising score matching by the settings; its consistency term is `consistency_loss`."""

    def draw_sigma(self, sigma_obs: Tensor | float, *, seed: int, sample: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """(sigma, mass), both [B] float32: noise levels of the samples, and the factor their losses carry."""
        u = ops.uniform((len(sample),), seed, sample, step, ops.Stream.SIGMA)
        sigma, mass = SIGMA_DISTRIBUTIONS[self.sigma_distribution](u, sigma_obs, self.p_mean, self.p_std)
        return sigma.float(), mass.float()

    def noised(
        self,
        denoiser: Denoiser,
        y: Tensor,
        corruption: Corruption,
        draw: Draw | None,
        sigma: Tensor,
        sigma_obs: Tensor | float,
        *,
        seed: int,
        sample: Tensor,
        step: int,
    ) -> Noised:
        """Observations y, with noise of sigma_obs, noised on to sigma [B] and, where conditional, further corrupted.

        Differentiable in y. All that is random is a function of (seed, sample, step).
        """
        if self.name == "fourier":
            state, _ = ops.perturb(y, sigma, sigma_obs, seed, sample, step)
            view = self.view(corruption, draw, denoiser, y, seed=seed, sample=sample, step=step)
            state = view.keep(state)
            x_t = view.image(state)
            net_input = edm.c_in(edm.per_sample(sigma, x_t), denoiser.sigma_data) * x_t
            return Noised(state, x_t, edm.laid_out(net_input, denoiser.input_dtype, denoiser.channels_last), view)
        x_t, net_input = ops.perturb(y, sigma, sigma_obs, seed, sample, step, **denoiser.input_options)
        return self.seen(x_t, net_input, corruption, draw, denoiser, seed=seed, sample=sample, step=step)

    def seen(
        self,
        x_t: Tensor,
        net_input: Tensor,
        corruption: Corruption,
        draw: Draw | None,
        denoiser: Denoiser,
        *,
        seed: int,
        sample: Tensor,
        step: int,
    ) -> Noised:
        """Perturbed images as the denoiser gets them: all of them, or what a further mask leaves."""
        view = self.view(corruption, draw, denoiser, x_t, seed=seed, sample=sample, step=step)
        x_t, net_input = view.measure(x_t), view.measure(net_input)
        return Noised(x_t, x_t, net_input, view)

    def view(
        self,
        corruption: Corruption,
        draw: Draw | None,
        denoiser: Denoiser,
        y: Tensor,
        *,
        seed: int,
        sample: Tensor,
        step: int,
    ) -> View:
        """What the denoiser sees of observations y at a step of training."""
        if not self.conditional:
            return View()
        assert isinstance(corruption, DrawnCorruption) and draw is not None
        kept = corruption.further(draw, self.delta, seed=seed, sample=sample, step=step)
        return corruption.view(kept, corruption.image_shape((y.shape[1], y.shape[2], y.shape[3])))

    def loss(
        self,
        denoiser: Denoiser,
        y: Tensor,
        *,
        corruption: Corruption = IDENTITY,
        draw: Draw | None = None,
        sigma_obs: Tensor | float,
        seed: int,
        sample: Tensor,
        step: int,
        labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
        images: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """(loss [B] summed over pixels, sigma [B]) of observations y [B, C, H, W] with noise sigma_obs ([B] or all's).

        draw: what of them was observed, for an operator that differs from image to image. images: y are images
        instead, and a fresh observation of each is drawn on the way. The noise level and the noise of a sample are
        functions of (seed, sample, step).
        """
        sigma, mass = self.draw_sigma(sigma_obs, seed=seed, sample=sample, step=step)
        at = {"seed": seed, "sample": sample, "step": step}
        operator = corruption.operator
        if images and operator is not None:
            masked = operator.kind == "mask"
            y, x_t, net_input, *mask = ops.observe_perturb(
                y,
                sample,
                operator,
                sigma_obs,
                seed,
                sigma,
                sample,
                step,
                observation_step=step,
                mask="uint8" if masked else None,
                **denoiser.input_options,
            )
            draw = Draw(mask=mask[0]) if masked else None
            noised = self.seen(x_t, net_input, corruption, draw, denoiser, **at)  # type: ignore[arg-type]
        else:
            if images:
                y, draw, _ = corruptions.observation(
                    corruption,
                    y,
                    index=sample,
                    sigma_obs=sigma_obs,
                    seed=seed,
                    step=step,
                    channels_last=denoiser.channels_last,
                )
            noised = self.noised(denoiser, y, corruption, draw, sigma, sigma_obs, **at)  # type: ignore[arg-type]
        F = denoiser.raw(noised.net_input, sigma, labels, augment_labels, noised.view.condition)
        if self.name == "fourier":
            assert isinstance(corruption, Fourier) and draw is not None
            loss = fourier_loss(denoiser, F, noised, y, corruption, draw, sigma, sigma_obs)
        elif self.name == "ambient":
            assert draw is not None
            loss = self.masked(denoiser, F, noised, y, draw, sigma, sigma_obs)
        else:
            loss = ops.denoising_loss(F, noised.x_t, y, sigma, sigma_obs, denoiser.sigma_data)
        if self.consistency:
            D = denoiser.denoise(F, noised.x_t, sigma, noised.view.condition)
            told = {"labels": labels, "augment_labels": augment_labels}
            loss = loss + self.consistency * self.consistency_loss(denoiser, D, noised, sigma, **told, **at)  # type: ignore[arg-type]
        return mass * loss, sigma

    def masked(
        self,
        denoiser: Denoiser,
        F: Tensor,
        noised: Noised,
        y: Tensor,
        draw: Draw,
        sigma: Tensor,
        sigma_obs: Tensor | float,
    ) -> Tensor:
        """`ambient`, [B]: a pixel that is seen has its own noise in x_t (Tweedie); a hidden one has infinite noise, or
        no less a weight than others where `Denoiser.hidden` is "sigma"."""
        assert isinstance(noised.view, MaskView)
        kept, sd = noised.view.kept, denoiser.sigma_data
        seen = ops.denoising_loss(F, noised.x_t, y, sigma, sigma_obs, sd, kept)
        if self.masked_loss == "kept":
            return seen
        level = sigma if denoiser.hidden == "sigma" else INFINITE * sd
        return seen + ops.denoising_loss(F, noised.x_t, y, level, 0.0, sd, draw.mask - kept)

    def consistency_loss(
        self,
        denoiser: Denoiser,
        D: Tensor,
        noised: Noised,
        sigma: Tensor,
        labels: Tensor | None,
        augment_labels: Tensor | None = None,
        *,
        seed: int,
        sample: Tensor,
        step: int,
    ) -> Tensor:
        """[B]: weight ||D(s, sigma) - mean of D(s', sigma')||^2, the s' sampled from s (Daras et al. 2024).

        E[x | s] = E[ E[x | s'] | s ] for a state s' on the way down from s, which ties D below sigma_obs, where no
        observation trains it, to D above. ln sigma' has the law of ln sigma, given that it is less; the steps in
        between are ancestral, at equal distances of ln sigma: s' = D + (sigma'/sigma)^2 (s - D) + noise. No gradient
        through the mean.
        """
        view, weight = noised.view, edm.loss_weight(sigma, denoiser.sigma_data)
        # Draws apart from those of the loss: other steps of the same streams.
        steps = [step + 1000 * (1 + i) for i in range(self.consistency_primes * self.consistency_steps)]
        u = ops.uniform((len(sample),), seed, sample, steps[0], ops.Stream.SIGMA)
        end = schedules.log_normal_below(u, sigma, self.p_mean, self.p_std).float()
        means = []
        with torch.no_grad():
            for prime in range(self.consistency_primes):
                state, level, image = noised.state, sigma, D.detach()
                for i in range(1, self.consistency_steps + 1):
                    share = i / self.consistency_steps
                    lower = sigma * (end / sigma) ** share
                    ratio = edm.per_sample(lower / level, state) ** 2
                    noise = ops.randn(
                        state.shape,
                        seed,
                        sample,
                        steps[prime * self.consistency_steps + i - 1],
                        ops.Stream.DIFFUSION_NOISE,
                    )
                    spread = edm.per_sample(lower, state) * (1 - ratio).clamp_min(0).sqrt()
                    clean = view.measure(image)
                    state = clean + ratio * (state - clean) + spread * view.keep(noise)
                    image = denoiser(view.image(state), lower, labels, augment_labels, view.condition)
                    level = lower
                means.append(image)
        error = D - torch.stack(means).mean(0)
        whole = (error**2).flatten(1).sum(1)
        if denoiser.hidden == "sigma":  # weights as in the losses
            return weight * whole
        if self.name == "fourier":
            return whole / denoiser.sigma_data**2
        seen = (view.keep(error) ** 2).flatten(1).sum(1)
        return weight * seen + (whole - seen) / denoiser.sigma_data**2


def fourier_loss(
    denoiser: Denoiser,
    F: Tensor,
    noised: Noised,
    k: Tensor,
    corruption: Fourier,
    draw: Draw,
    sigma: Tensor,
    sigma_obs: Tensor | float,
) -> Tensor:
    """`fourier`, [B]: on every sampled column, with Tweedie's correction and weight(sigma) on those that are seen, and
    with the weight of infinite noise, 1 / sigma_data^2, on those that are hidden: on all where A* A is no projection
    (coils' maps, or real images, of which a column shows half where its mirror image is not sampled)."""
    AD = corruption.apply(denoiser.denoise(F, noised.x_t, sigma, noised.view.condition), draw)
    error = AD - k
    if isinstance(sigma_obs, Tensor) or sigma_obs > 0:
        share = (edm.per_sample(sigma_obs, k) / edm.per_sample(sigma, k)) ** 2
        error = error + share * (noised.state - noised.view.keep(AD))
    whole = (error**2).flatten(1).sum(1)
    if denoiser.hidden == "sigma":
        return edm.loss_weight(sigma, denoiser.sigma_data) * whole
    if denoiser.hidden == "all":
        return whole / denoiser.sigma_data**2
    seen = (noised.view.keep(error) ** 2).flatten(1).sum(1)
    return edm.loss_weight(sigma, denoiser.sigma_data) * seen + (whole - seen) / denoiser.sigma_data**2
