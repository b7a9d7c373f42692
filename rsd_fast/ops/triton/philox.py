import math

import torch
from torch import Tensor

from .._library import implement


@implement("philox", "triton")
def philox(seed: int, sample: Tensor, element: Tensor, step: Tensor, stream: int) -> Tensor:
    from rsd_fast.kernels import philox as kernels

    shape = torch.broadcast_shapes(sample.shape, element.shape, step.shape)
    words = [word.to(torch.int64).expand(shape).contiguous() for word in (sample, element, step)]
    out = sample.new_empty((*shape, 4), dtype=torch.int32)
    kernels.philox(out, seed, *words, stream)
    return out.view(torch.uint32)


@implement("randn", "triton")
def randn(shape: list[int], seed: int, sample: Tensor, step: Tensor, stream: int) -> Tensor:
    from rsd_fast.kernels import philox as kernels

    out = sample.new_empty(shape, dtype=torch.float32)
    sample, step = sample.to(torch.int64), step.to(torch.int64).expand(sample.shape)
    kernels.randn(out, math.prod(shape[1:]), seed, sample, step, stream)
    return out
