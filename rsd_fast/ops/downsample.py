"""Downsampling by area, and its exact transpose.

    (A x)[i, j] = sum of x over block (i, j) / its pixels,      (A^T y)[p, q] = y[p // factor, q // factor] / its pixels

A block is factor x factor pixels, fewer where the border cuts it. Both are linear, so that each is the other's
gradient. Sums run down and then across, in float32 (float64 for float64), so that an image's bits do not depend on its
batch.
"""

from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

from . import _library, edm

MAX_FACTOR = 256  # csrc/linear.h


def downsample(x: Tensor, factor: int) -> Tensor:
    """A x, [B, C, ceil(H / factor), ceil(W / factor)] in x's dtype, contiguous or, where x is that, channels-last.

    x: floating-point [B, C, H, W]. factor: 1 to 256. Differentiable in x, any number of times. Raises ValueError on
    anything else.
    """
    return torch.ops.rsd_fast.downsample.default(x, factor)


def downsample_adjoint(y: Tensor, factor: int, size: tuple[int, int] | None = None) -> Tensor:
    """A^T y, [B, C, H, W]: the exact transpose for images of size (H, W), by default `factor` times that of y.

    y: [B, C, ceil(H / factor), ceil(W / factor)]. Otherwise as `downsample`.
    """
    return torch.ops.rsd_fast.downsample_adjoint.default(y, factor, *_size(y, factor, size))


def downsample_reference(x: Tensor, factor: int) -> Tensor:
    """`downsample` in plain PyTorch."""
    _check(x, factor)
    height, width = x.shape[2:]
    padded = nnf.pad(x.to(edm.accumulation_dtype(x)), (0, -width % factor, 0, -height % factor))
    down = _sum([padded[:, :, i::factor] for i in range(factor)])
    total = _sum([down[..., j::factor] for j in range(factor)])
    return (total / _pixels(total, factor, height, width)).to(x.dtype)


def downsample_adjoint_reference(y: Tensor, factor: int, size: tuple[int, int] | None = None) -> Tensor:
    """`downsample_adjoint` in plain PyTorch."""
    height, width = _size(y, factor, size)
    _check_adjoint(y, factor, height, width)
    share = y.to(edm.accumulation_dtype(y)) / _pixels(y, factor, height, width)
    large = share.repeat_interleave(factor, 2)[:, :, :height].repeat_interleave(factor, 3)[..., :width]
    return large.to(y.dtype)


def _sum(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _pixels(small: Tensor, factor: int, height: int, width: int) -> Tensor:
    """[h, w]: the pixels of each block, in the dtype of sums."""
    starts = [factor * torch.arange(n, device=small.device) for n in small.shape[2:]]
    rows, columns = ((size - at).clamp_max(factor) for size, at in zip((height, width), starts, strict=True))
    return rows.outer(columns).to(edm.accumulation_dtype(small))


# Registration


def _size(y: Tensor, factor: int, size: tuple[int, int] | None) -> tuple[int, int]:
    return (factor * y.shape[-2], factor * y.shape[-1]) if size is None else size


def small_size(x: Tensor, factor: int) -> tuple[int, int]:
    """(h, w) of what images x [B, C, H, W] become."""
    return -(-x.shape[2] // factor), -(-x.shape[3] // factor)


def _check(x: Tensor, factor: int, name: str = "x") -> None:
    edm.check_images(**{name: x})
    if x.ndim != 4:
        raise ValueError(f"{name}: expected [B, C, H, W], got {list(x.shape)}")
    check_factor(factor)


def check_factor(factor: int) -> None:
    if not 1 <= factor <= MAX_FACTOR:
        raise ValueError(f"factor: expected 1 to {MAX_FACTOR}, got {factor}")


def _check_adjoint(y: Tensor, factor: int, height: int, width: int) -> None:
    _check(y, factor, "y")
    h, w = y.shape[2:]
    if min(height, width) < 0 or -(-height // factor) != h or -(-width // factor) != w:
        raise ValueError(f"size: expected images that factor {factor} makes {h}x{w}, as y is, got {height}x{width}")


def _downsample(x: Tensor, factor: int) -> Tensor:
    return edm.laid_out(downsample_reference(x, factor), x.dtype, edm.is_channels_last(x))


def _downsample_adjoint(y: Tensor, factor: int, height: int, width: int) -> Tensor:
    large = downsample_adjoint_reference(y, factor, (height, width))
    return edm.laid_out(large, y.dtype, edm.is_channels_last(y))


_library.define("downsample", "(Tensor x, int factor) -> Tensor", _downsample, _check)
_library.define(
    "downsample_adjoint",
    "(Tensor y, int factor, SymInt height, SymInt width) -> Tensor",
    _downsample_adjoint,
    _check_adjoint,
)


def new_images(x: Tensor, height: int, width: int) -> Tensor:
    """An empty tensor of another size, in x's dtype and layout."""
    like = x.new_empty((*x.shape[:2], height, width))
    return edm.new_images(like, x.dtype, edm.is_channels_last(x))


@_library.fake("downsample")
def _(x: Tensor, factor: int) -> Tensor:
    return new_images(x, *small_size(x, factor))


@_library.fake("downsample_adjoint")
def _(y: Tensor, factor: int, height: int, width: int) -> Tensor:
    return new_images(y, height, width)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ctx.factor = inputs
    ctx.size = x.shape[2:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return torch.ops.rsd_fast.downsample_adjoint.default(grad, ctx.factor, *ctx.size), None


def _setup_context_adjoint(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.factor = inputs[1]


def _backward_adjoint(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    return torch.ops.rsd_fast.downsample.default(grad, ctx.factor), None, None, None


_library.differentiable("downsample", _backward, _setup_context, (0,))
_library.differentiable("downsample_adjoint", _backward_adjoint, _setup_context_adjoint, (0,))
