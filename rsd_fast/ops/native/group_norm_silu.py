"""Only for "cpu": Triton's kernel serves GPUs."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import edm
from .._library import implement
from ..group_norm_silu import affine, parameter_gradients
from .launch import launch, stride


@implement("group_norm_silu", "native", devices=("cpu",))
def group_norm_silu(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    eps: float,
    scale: Tensor | None,
    shift: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    x = edm.laid_out(x, x.dtype, edm.is_channels_last(x))
    y = torch.empty_like(x)
    mean, rstd = (x.new_empty(len(x), groups, dtype=edm.accumulation_dtype(x)) for _ in range(2))
    fields = _fields(x, weight, bias, scale, shift)
    fields.update(mean=mean, rstd=rstd, groups=groups, eps=eps, silu=silu)
    launch("group_norm_silu", x.device, y=y, **fields)
    return y, mean, rstd


@implement("group_norm_silu_backward", "native", devices=("cpu",))
def group_norm_silu_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    silu: bool,
    needed: Sequence[bool],
) -> tuple[Tensor, ...]:
    channels_last = edm.is_channels_last(x)
    x, grad = (edm.laid_out(t, x.dtype, channels_last) for t in (x, grad))
    dx = torch.empty_like(x) if needed[0] else None
    fields = _fields(x, weight, bias, scale, shift)
    fields.update(mean=mean.contiguous(), rstd=rstd.contiguous(), groups=mean.shape[1], silu=silu)
    launch("group_norm_silu_backward", x.device, grad=grad, dx=dx, **fields)
    gradients = parameter_gradients(fields["sums"], weight, bias, scale, shift, needed[1:])
    return edm.no_output(x) if dx is None else dx, *gradients


def _fields(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, scale: Tensor | None, shift: Tensor | None
) -> dict[str, Any]:
    """What forward and backward share; x is in the layout that is_channels_last says."""
    batch, channels = x.shape[:2]
    gain, offset = affine(x, weight, bias, scale, shift)
    return {
        "x": x,
        "gain": gain,
        "offset": offset,
        "sums": x.new_empty(batch, 2, channels, dtype=torch.float64),
        "batch": batch,
        "channels": channels,
        "pixels": math.prod(x.shape[2:]),
        "gain_stride": stride(gain),
        "offset_stride": stride(offset),
        "channels_last": edm.is_channels_last(x),
        "dtype": x.dtype,
    }
