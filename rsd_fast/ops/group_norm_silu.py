"""Group normalisation (Wu and He 2018), an affine map, an optional modulation and SiLU, in one operation.

    n = (x - mean) / sqrt(var + eps)        over a sample's group of channels and all pixels, var biased
    z = n weight + bias,   then   z = z (1 + scale) + shift   where given,   y = z sigmoid(z)   (or z)

Weight, bias, scale and shift fold into one gain and one offset per sample and channel, z = n gain + offset. With
r = 1 / sqrt(var + eps), dz = dy sigmoid(z) (1 + z (1 - sigmoid(z))), sums over a channel's pixels
S0 = sum dz, S1 = sum dz n, and means over a group's channels and pixels,

    dx = r (gain dz - mean(gain dz) - n mean(gain dz n))
    dweight = sum_b (1 + scale) S1,   dbias = sum_b (1 + scale) S0,   dscale = weight S1 + bias S0,   dshift = S0

Only x, mean and r are kept for the gradient: z is evaluated again.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _library, edm


def group_norm_silu(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    eps: float,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = True,
) -> Tensor:
    """y [B, C, ...] in x's dtype and memory format, computed in float32 (float64 where x is float64).

    x: [B, C, ...], not empty but for B. weight, bias: [C]; scale, shift: [B, C]; each may be None, and of any
    floating-point dtype, whatever x's. Differentiable once, in all five. The same inside autocast as outside.
    Raises TypeError on a dtype that is not floating-point; ValueError on another shape or device, on channels that the
    groups do not divide, and on an eps that is not positive and finite.
    """
    return torch.ops.rsd_fast.group_norm_silu.default(x, weight, bias, groups, eps, scale, shift, silu)[0]


def group_norm_silu_reference(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    eps: float,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = True,
) -> Tensor:
    """The mathematics above in plain PyTorch."""
    mean, rstd = _statistics(x, groups, eps)
    gain, offset = affine(x, weight, bias, scale, shift)
    z = _normalised(x, mean, rstd) * _pixelwise(gain, x) + _pixelwise(offset, x)
    return (z * z.sigmoid() if silu else z).to(x.dtype)


def affine(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, scale: Tensor | None, shift: Tensor | None
) -> tuple[Tensor, Tensor]:
    """gain and offset, [B, C] or, where they are the same for every sample, [1, C], in x's accumulation dtype."""
    dtype = edm.accumulation_dtype(x)
    weight, bias, scale, shift = (None if t is None else t.to(dtype) for t in (weight, bias, scale, shift))
    gain = (x.new_ones(x.shape[1], dtype=dtype) if weight is None else weight)[None]
    offset = (x.new_zeros(x.shape[1], dtype=dtype) if bias is None else bias)[None]
    if scale is not None:
        gain, offset = gain * (1 + scale), offset * (1 + scale)
    if shift is not None:
        offset = offset + shift
    return gain.contiguous(), offset.contiguous()


def parameter_gradients(
    sums: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    needed: Sequence[bool],
) -> list[Tensor]:
    """Gradients of weight, bias, scale and shift from sums [B, 2, C] = (S0, S1); empty where not needed."""
    S0, S1 = sums.unbind(1)
    modulation = 1 if scale is None else 1 + scale.to(sums.dtype)
    formulas = (
        lambda: (modulation * S1).sum(0),
        lambda: (modulation * S0).sum(0),
        lambda: (
            (S1 if weight is None else weight.to(sums.dtype) * S1) + (0 if bias is None else bias.to(sums.dtype) * S0)
        ),
        lambda: S0,
    )
    tensors = (weight, bias, scale, shift)
    return [
        formula().to(tensor.dtype, memory_format=torch.contiguous_format, copy=True)
        if need and tensor is not None
        else sums.new_empty(0, dtype=torch.float32)
        for formula, tensor, need in zip(formulas, tensors, needed, strict=True)
    ]


def _pixelwise(value: Tensor, x: Tensor) -> Tensor:
    """[B or 1, C] to broadcast against x [B, C, ...]."""
    return value.reshape(*value.shape, *[1] * (x.ndim - 2))


def _statistics(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """mean and 1 / sqrt(var + eps), [B, groups]."""
    grouped = x.to(edm.accumulation_dtype(x)).reshape(x.shape[0], groups, math.prod(x.shape[1:]) // groups)
    mean = grouped.mean(2)
    return mean, 1 / ((grouped - mean[:, :, None]).square().mean(2) + eps).sqrt()


def _normalised(x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    per_group = x.shape[1] // mean.shape[1]
    mean, rstd = (_pixelwise(value.repeat_interleave(per_group, 1), x) for value in (mean, rstd))
    return (x.to(mean.dtype) - mean) * rstd


# Registration


def _check(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    eps: float,
    scale: Tensor | None,
    shift: Tensor | None,
    silu: bool,
) -> None:
    edm.check_images(x=x)
    if x.ndim < 2 or 0 in x.shape[1:]:
        raise ValueError(f"x: expected [B, C, ...] with a channel and a pixel at least, got {list(x.shape)}")
    if groups < 1 or x.shape[1] % groups:
        raise ValueError(f"groups: expected a divisor of x's {x.shape[1]} channels, got {groups}")
    edm.check_positive(eps=eps)
    shape = list(x.shape[:2])
    for name, value, expected in (
        ("weight", weight, shape[1:]),
        ("bias", bias, shape[1:]),
        ("scale", scale, shape),
        ("shift", shift, shape),
    ):
        if value is None:
            continue
        edm.check_layout(**{name: value})
        if value.dtype not in edm.DTYPES:
            raise TypeError(f"{name}: expected a floating-point dtype of 16 to 64 bits, got {value.dtype}")
        if list(value.shape) != expected:
            raise ValueError(f"{name}: expected shape {expected}, got {list(value.shape)}")
        if value.device != x.device:
            raise ValueError(f"{name}: expected the device of x, {x.device}, got {value.device}")


def _check_backward(
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
) -> None:
    edm.check_images(x=x, grad=grad)
    edm.check_layout(mean=mean, rstd=rstd)
    if mean.ndim != 2 or mean.dtype != edm.accumulation_dtype(x) or len(mean) != len(x):
        expected = f"{edm.accumulation_dtype(x)} of shape [{len(x)}, groups]"
        raise ValueError(f"mean: expected {expected}, got {mean.dtype} of shape {list(mean.shape)}")
    if mean.device != x.device or rstd.device != x.device:
        raise ValueError(f"mean, rstd: expected the device of x, {x.device}, got {mean.device}, {rstd.device}")
    if rstd.shape != mean.shape or rstd.dtype != mean.dtype:
        expected = f"{mean.dtype} of shape {list(mean.shape)}"
        raise ValueError(f"rstd: expected {expected}, got {rstd.dtype} of shape {list(rstd.shape)}")
    _check(x, weight, bias, mean.shape[1], 1.0, scale, shift, silu)
    if len(needed) != 5 or any(
        need and t is None for need, t in zip(needed[1:], (weight, bias, scale, shift), strict=True)
    ):
        raise ValueError(f"needed: expected a flag for each of x, weight, bias, scale, shift given, got {needed}")


def _group_norm_silu(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    eps: float,
    scale: Tensor | None,
    shift: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    y = group_norm_silu_reference(x, weight, bias, groups, eps, scale, shift, silu)
    return edm.laid_out(y, x.dtype, edm.is_channels_last(x)), *_statistics(x, groups, eps)


def _group_norm_silu_backward(
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
    batch, channels = x.shape[:2]
    groups = mean.shape[1]
    gain, offset = affine(x, weight, bias, scale, shift)
    n, dz = _normalised(x, mean, rstd), grad.to(mean.dtype)
    if silu:
        z = n * _pixelwise(gain, x) + _pixelwise(offset, x)
        dz = dz * z.sigmoid() * (1 + z * (-z).sigmoid())
    sums = torch.stack([t.reshape(batch, channels, math.prod(x.shape[2:])).sum(2) for t in (dz, dz * n)], 1)
    dx = None
    if needed[0]:
        count = math.prod(x.shape[1:]) // groups
        means = (gain[:, None] * sums).reshape(batch, 2, groups, channels // groups).sum(3) / count
        mean0, mean1 = (_pixelwise(m.repeat_interleave(channels // groups, 1), x) for m in means.unbind(1))
        per_channel = _pixelwise(rstd.repeat_interleave(channels // groups, 1), x)
        dx = per_channel * (_pixelwise(gain, x) * dz - mean0 - n * mean1)
    dx = sums.new_empty(0, dtype=x.dtype) if dx is None else edm.laid_out(dx, x.dtype, edm.is_channels_last(x))
    return dx, *parameter_gradients(sums, weight, bias, scale, shift, needed[1:])


_library.define(
    "group_norm_silu",
    "(Tensor x, Tensor? weight, Tensor? bias, int groups, float eps, Tensor? scale, Tensor? shift, bool silu)"
    " -> (Tensor, Tensor, Tensor)",  # y; mean and 1 / sqrt(var + eps), [B, groups]
    _group_norm_silu,
    _check,
)
_library.define(  # needed: which of the five gradients; the others come back empty
    "group_norm_silu_backward",
    "(Tensor grad, Tensor x, Tensor? weight, Tensor? bias, Tensor? scale, Tensor? shift, Tensor mean, Tensor rstd,"
    " bool silu, bool[] needed) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _group_norm_silu_backward,
    _check_backward,
)


@_library.fake("group_norm_silu")
def _(x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    mean, rstd = (x.new_empty(x.shape[0], groups, dtype=edm.accumulation_dtype(x)) for _ in range(2))
    return edm.new_images(x, x.dtype, edm.is_channels_last(x)), mean, rstd


@_library.fake("group_norm_silu_backward")
def _(grad: Tensor, x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *parameters, _, _, _, needed = arguments
    dx = edm.new_images(x, x.dtype if needed[0] else None, edm.is_channels_last(x))
    pairs = zip(parameters, needed[1:], strict=True)
    return dx, *(t.new_empty(t.shape) if need else x.new_empty(0, dtype=torch.float32) for t, need in pairs)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias, _, _, scale, shift, ctx.silu = inputs
    _, mean, rstd = output
    ctx.mark_non_differentiable(mean, rstd)
    ctx.save_for_backward(x, weight, bias, scale, shift, mean, rstd)


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    needed = [ctx.needs_input_grad[i] for i in (0, 1, 2, 5, 6)]
    arguments = (grad, *ctx.saved_tensors, ctx.silu, needed)
    grads = torch.ops.rsd_fast.group_norm_silu_backward.default(*arguments)
    dx, dweight, dbias, dscale, dshift = (g if need else None for g, need in zip(grads, needed, strict=True))
    return dx, dweight, dbias, None, None, dscale, dshift, None


_library.differentiable("group_norm_silu", _backward, _setup_context, (0, 1, 2, 5, 6))
_library.differentiable_once("group_norm_silu_backward")
