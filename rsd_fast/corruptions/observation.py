"""Observations of images: y = A(x) + sigma_obs eps, and the operator they came about by."""

from typing import NamedTuple, cast

import torch
from torch import Tensor

from rsd_fast import ops
from rsd_fast.ops import InputOptions, Key

from .base import Corruption
from .batch import BatchOperator, image_shape_of
from .parameters import Draw


class Observation(NamedTuple):
    """Observations of a batch of images, and how they came about."""

    y: Tensor  # [B, *observation_shape], float32 or wider; 0 where nothing was observed
    operator: BatchOperator
    sigma_obs: Tensor | float = 0.0  # [B], or one number for all: standard deviation of the noise in y


def observe(
    corruption: Corruption,
    x: Tensor,
    *,
    index: Tensor,
    sigma_obs: Tensor | float,
    seed: int,
    step: int | Tensor = 0,
    channels_last: bool = False,
) -> Tensor:
    """y = A(x) + sigma_obs eps, float32 or wider, as a pure function of (seed, index, step).

    x: [B, C, H, W], uint8 (0 to 255) or floating-point in [-1, 1]; index: [B]; sigma_obs: [B] or a number. step 0 is
    the one permanent observation of a data set's image; later steps are fresh noise. channels_last: the memory format
    of y. What is not observed (a masked pixel, a column of k-space) is 0, and holds no noise. No gradient.
    """
    return observation(
        corruption, x, index=index, sigma_obs=sigma_obs, seed=seed, step=step, channels_last=channels_last
    ).y


def observation(
    corruption: Corruption,
    x: Tensor,
    *,
    index: Tensor,
    sigma_obs: Tensor | float,
    seed: int,
    step: int | Tensor = 0,
    channels_last: bool = False,
) -> Observation:
    """As `observe`, but it returns the operator, too."""
    key = Key(seed, index, step)
    if corruption.operator is not None and corruption.operator.kind == "mask":
        y, mask = ops.observe(
            x, index, corruption.operator, sigma_obs, seed, step=step, mask="uint8", channels_last=channels_last
        )
        return Observation(y, corruption.drawn(Draw(mask=mask), image_shape_of(x), index, seed), sigma_obs)
    return observe_through(
        corruption.batch(image_shape_of(x), index, seed), x, sigma_obs, key, channels_last=channels_last
    )


def observe_through(
    operator: BatchOperator, x: Tensor, sigma_obs: Tensor | float, key: Key, *, channels_last: bool = False
) -> Observation:
    """Observe images through an operator that is drawn already; key is that of the noise."""
    fused = operator.corruption.operator
    if fused is None or operator.draw is not None:  # no kernel knows A: it acts first, and the noise comes by itself
        fused = ops.Operator.identity()
        if x.dtype == torch.uint8:
            x = cast(Tensor, ops.observe(x, key.sample, fused, 0.0, key.seed))
        x = operator.apply(x)
    y = cast(
        Tensor,
        ops.observe(x, key.sample, fused, sigma_obs, key.seed, step=key.step, channels_last=channels_last),
    )
    return Observation(operator.observed(y), operator, sigma_obs)


def observe_noised(
    corruption: Corruption,
    x: Tensor,
    sigma_obs: Tensor | float,
    sigma: Tensor,
    key: Key,
    options: InputOptions,
) -> tuple[Observation, Tensor, Tensor] | None:
    """(a fresh observation of images x, x_t, the network's input), in one pass over the images, by an operator that the
    kernels know; None for any other. sigma [B]: the level x_t is noised to. options: as for `ops.perturb`."""
    if corruption.operator is None:
        return None
    masked = corruption.operator.kind == "mask"
    y, x_t, net_input, *mask = ops.observe_perturb(
        x,
        corruption.operator,
        sigma_obs,
        sigma,
        key,
        mask="uint8" if masked else None,
        options=options,
    )
    shape = image_shape_of(x)
    if masked:
        operator = corruption.drawn(Draw(mask=mask[0]), shape, key.sample, key.seed)
    else:
        operator = corruption.batch(shape, key.sample, key.seed)
    return Observation(y, operator, sigma_obs), x_t, net_input
