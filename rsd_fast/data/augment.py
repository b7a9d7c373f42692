"""Exact symmetries, applied to an observation and to what was observed of it together.

An image is corrupted first and moved afterwards: no pixel is computed from another, so that nothing that is missing
and no value without its noise comes to be seen. White noise is white however it is turned, and a moved mask is a mask;
whether A is still A, its `symmetries` say.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from rsd_fast import ops
from rsd_fast.corruptions import HFLIP, TRANSPOSE, VFLIP, Observation

_MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    HFLIP: lambda x: x.flip(3),
    VFLIP: lambda x: x.flip(2),
    TRANSPOSE: lambda x: x.transpose(2, 3),  # with the flips: quarter turns
}


def augment(observation: Observation, symmetries: tuple[str, ...], *, seed: int, sample: Tensor) -> Observation:
    """Each of the symmetries with probability 1/2: a function of (seed, sample [B]). Keeps the memory format."""
    y, operator, sigma_obs = observation
    chosen = ops.uniform((len(y), len(_MOVES)), seed, sample, 0, ops.Stream.AUGMENTATION) < 0.5

    def moved(x: Tensor) -> Tensor:
        result = x
        for name, here in zip(_MOVES, chosen[:, :, None, None, None].unbind(1), strict=True):
            if name in symmetries:
                result = torch.where(here, _MOVES[name](result), result)
        return result.contiguous(memory_format=torch.contiguous_format if x.is_contiguous() else torch.channels_last)

    return Observation(moved(y), operator.moved(moved), sigma_obs)
