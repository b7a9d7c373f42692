import torch
from torch import Tensor

from .._library import implement
from .launch import launch, seed_and_stream, size, stride


@implement("philox", "native")
def philox(seed: int, sample: Tensor, element: Tensor, step: Tensor, stream: int) -> Tensor:
    shape = torch.broadcast_shapes(sample.shape, element.shape, step.shape)
    sample, element, step = (w.to(torch.int64).expand(shape).contiguous() for w in (sample, element, step))
    out = sample.new_empty((*shape, 4), dtype=torch.uint32)
    counter = {"sample": sample, "element": element, "step": step, **seed_and_stream(seed, stream)}
    launch("philox", sample.device, **counter, out=out, count=sample.numel())
    return out


@implement("randn", "native")
def randn(shape: list[int], seed: int, sample: Tensor, step: Tensor, stream: int) -> Tensor:
    sample, step = sample.to(torch.int64), step.to(torch.int64).reshape(-1)
    out = sample.new_empty(shape, dtype=torch.float32)
    strides = {"sample_stride": stride(sample), "step_stride": stride(step)}
    counter = {"sample": sample, "step": step, **strides, **seed_and_stream(seed, stream)}
    launch("randn", out.device, **counter, out=out, **size(out))
    return out
