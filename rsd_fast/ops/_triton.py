"""Kernels of ``rsd_fast.kernels``, for "cuda" without native ones. Triton is imported on the first call."""

import math

import torch

from ._library import implement
from .philox import _check_philox, _check_randn


@implement("philox", "triton")
def philox(seed, sample, element, step, stream):
    from rsd_fast.kernels import philox as kernels

    shape = _check_philox(sample, element, step)
    words = [word.to(torch.int64).expand(shape).contiguous() for word in (sample, element, step)]
    out = sample.new_empty((*shape, 4), dtype=torch.int32)
    kernels.philox(out, seed, *words, stream)
    return out.view(torch.uint32)


@implement("randn", "triton")
def randn(shape, seed, sample, step, stream):
    from rsd_fast.kernels import philox as kernels

    _check_randn(shape, sample, step)
    out = sample.new_empty(shape, dtype=torch.float32)
    sample, step = sample.to(torch.int64), step.to(torch.int64).expand(sample.shape)
    kernels.randn(out, math.prod(shape[1:]), seed, sample, step, stream)
    return out
