"""Kernels of csrc/, for "cpu" and, where built, "cuda". The only file that touches an address."""

import math
from typing import Any

import torch
from torch import Tensor

from rsd_fast import _C

from ._library import implement
from .philox import _check_philox, _check_randn


def _on(device: torch.device) -> tuple[Any, dict[str, int]]:
    """The submodule for a device, and what its kernels run on."""
    if device.type == "cpu":
        return _C.cpu, {"threads": torch.get_num_threads()}
    return _C.cuda, {"device": device.index, "cuda_stream": torch.cuda.current_stream(device).cuda_stream}


def _counter(seed: int, stream: int) -> dict[str, int]:
    return {"seed": seed & 0xFFFFFFFFFFFFFFFF, "stream": stream & 0xFFFFFFFF}


@implement("philox", "native")
def philox(seed: int, sample: Tensor, element: Tensor, step: Tensor, stream: int) -> Tensor:
    shape = _check_philox(sample, element, step)
    sample, element, step = (w.to(torch.int64).expand(shape).contiguous() for w in (sample, element, step))
    out = sample.new_empty((*shape, 4), dtype=torch.uint32)
    module, where = _on(sample.device)
    module.philox(
        sample=sample.data_ptr(),
        element=element.data_ptr(),
        step=step.data_ptr(),
        out=out.data_ptr(),
        count=sample.numel(),
        **_counter(seed, stream),
        **where,
    )
    return out


@implement("randn", "native")
def randn(shape: list[int], seed: int, sample: Tensor, step: Tensor, stream: int) -> Tensor:
    _check_randn(shape, sample, step)
    sample, step = sample.to(torch.int64), step.to(torch.int64).expand(sample.shape)
    out = sample.new_empty(shape, dtype=torch.float32)
    module, where = _on(sample.device)
    module.randn(
        sample=sample.data_ptr(),
        step=step.data_ptr(),
        out=out.data_ptr(),
        batch=sample.shape[0],
        inner=math.prod(shape[1:]),
        sample_stride=sample.stride(0),
        step_stride=step.stride(0),
        **_counter(seed, stream),
        **where,
    )
    return out
