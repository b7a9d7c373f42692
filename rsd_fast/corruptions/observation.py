"""Observations of images: y = A(x) + sigma_obs eps, and what was drawn of A on the way."""

from typing import NamedTuple, cast

import torch
from torch import Tensor

from rsd_fast import ops

from .base import Corruption, DrawnCorruption
from .parameters import Draw


class Observation(NamedTuple):
    """Of a batch of images."""

    y: Tensor  # [B, *observation_shape], float32 or wider; 0 where nothing was observed
    draw: Draw | None = None  # of an operator that differs from image to image
    sigma_obs: Tensor | float = 0.0  # [B], or of all: standard deviation of the noise in y


def observe(
    corruption: Corruption,
    x: Tensor,
    *,
    index: Tensor,
    sigma_obs: Tensor | float,
    seed: int,
    step: int = 0,
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
    step: int = 0,
    channels_last: bool = False,
) -> Observation:
    """`observe`, with what was drawn of A."""
    operator, draw = corruption.operator, None
    if operator is not None and operator.kind == "mask":
        y, mask = ops.observe(x, index, operator, sigma_obs, seed, step=step, mask="uint8", channels_last=channels_last)
        return Observation(y, Draw(mask=mask), sigma_obs)
    if operator is None:  # no kernel knows A: it acts first, and the noise comes by itself
        operator = ops.Operator.identity()
        if x.dtype == torch.uint8:
            x = cast(Tensor, ops.observe(x, index, operator, 0.0, seed))
        if isinstance(corruption, DrawnCorruption):
            draw = corruption.draw((x.shape[1], x.shape[2], x.shape[3]), index, seed)
        x = apply(corruption, x, draw, index=index, seed=seed)
    y = cast(Tensor, ops.observe(x, index, operator, sigma_obs, seed, step=step, channels_last=channels_last))
    return Observation(observed(y, draw), draw, sigma_obs)


def apply(corruption: Corruption, x: Tensor, draw: Draw | None, *, index: Tensor, seed: int) -> Tensor:
    """A x, of what was drawn where that is at hand already. Differentiable in x."""
    if draw is None:
        return corruption.forward(x, index=index, seed=seed)
    assert isinstance(corruption, DrawnCorruption)
    return corruption.apply(x, draw)


def observed(y: Tensor, draw: Draw | None) -> Tensor:
    """y with 0 where nothing was observed, whatever stood there."""
    return y if draw is None else y.masked_fill(draw.mask == 0, 0)
