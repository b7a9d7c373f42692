"""The consistency term of Daras et al. 2024.

    weight ||D(s, sigma) - mean of D(s', sigma')||^2,   the s' sampled from s

E[x | s] = E[ E[x | s'] | s ] for a state s' on the way down from s, which ties D below sigma_obs, where no observation
trains it, to D above. ln sigma' has the law of ln sigma, given that it is less; the steps in between are ancestral, at
equal distances of ln sigma: s' = D + (sigma'/sigma)^2 (s - D) + noise. No gradient goes through the mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rsd_fast import schedules
from rsd_fast.networks import Denoiser
from rsd_fast.ops import Key, Stream, edm

if TYPE_CHECKING:
    from .base import Labels, Noised, Objective


def consistency(
    objective: Objective, denoiser: Denoiser, D: Tensor, noised: Noised, key: Key, labels: Labels
) -> Tensor:
    """[B]: the term of the denoiser's images D at `noised`."""
    s = objective.settings
    primes, steps = s.consistency_primes, s.consistency_steps
    # The draws of one (sample, step) of the term's own stream are told apart by steps of it that no other has.
    first, *rest = (key.at(key.step * (primes * steps + 1) + i) for i in range(primes * steps + 1))
    u = first.uniform(stream=Stream.CONSISTENCY)
    end = schedules.log_normal_below(u, noised.sigma, s.p_mean, s.p_std).float()
    with torch.no_grad():
        walks = [rest[i * steps : (i + 1) * steps] for i in range(primes)]
        images = [descend(denoiser, D.detach(), noised, end, walk, labels) for walk in walks]
    return objective.weigh_image(denoiser, noised, D - torch.stack(images).mean(0))


def descend(denoiser: Denoiser, image: Tensor, noised: Noised, end: Tensor, keys: list[Key], labels: Labels) -> Tensor:
    """The denoiser's image at the noise levels `end` [B], by ancestral steps from `noised`, one for each key."""
    view, state, level = noised.view, noised.state, noised.sigma
    for i, key in enumerate(keys, start=1):
        lower = noised.sigma * (end / noised.sigma) ** (i / len(keys))
        ratio = edm.per_sample(lower / level, state) ** 2
        spread = edm.per_sample(lower, state) * (1 - ratio).clamp_min(0).sqrt()
        clean = view.measure(image)
        noise = key.randn(state.shape, Stream.CONSISTENCY)
        state = clean + ratio * (state - clean) + spread * view.keep(noise)
        image, level = denoiser(view.image(state), lower, *labels, view.condition), lower
    return image
