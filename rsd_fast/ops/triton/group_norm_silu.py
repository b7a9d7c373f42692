from collections.abc import Sequence

import torch
from torch import Tensor

from .. import edm
from .._library import implement
from ..group_norm_silu import affine, parameter_gradients


@implement("group_norm_silu", "triton")
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
    from rsd_fast.kernels import group_norm_silu as kernels

    x = edm.laid_out(x, x.dtype, edm.is_channels_last(x))
    y = torch.empty_like(x)
    mean, rstd = (x.new_empty(len(x), groups, dtype=edm.accumulation_dtype(x)) for _ in range(2))
    kernels.forward(x, *affine(x, weight, bias, scale, shift), y, mean, rstd, eps, silu)
    return y, mean, rstd


@implement("group_norm_silu_backward", "triton")
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
    from rsd_fast.kernels import group_norm_silu as kernels

    channels_last = edm.is_channels_last(x)
    x, grad = (edm.laid_out(t, x.dtype, channels_last) for t in (x, grad))
    dx = torch.empty_like(x) if needed[0] else None
    sums = mean.new_empty(len(x), 2, x.shape[1])
    coefficients = affine(x, weight, bias, scale, shift)
    kernels.backward(grad, x, *coefficients, mean.contiguous(), rstd.contiguous(), dx, sums, silu)
    gradients = parameter_gradients(sums, weight, bias, scale, shift, needed[1:])
    return edm.no_output(x) if dx is None else dx, *gradients
