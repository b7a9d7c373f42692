"""Downsampling and its transpose in Triton; ``rsd_fast/ops/downsample.py`` has the mathematics.

Images are [outer, height, width, inner] as in ``blur.py``. Sums run down and then across, as the reference's do.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def downsample_kernel(out, x, count, large_height, large_width, height, width, inner, factor, SUM: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip  # noqa: E501
    # out: [outer, height, width, inner], x: [outer, large_height, large_width, inner]; SUM: the type of the sums
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < count
    pixel = at // inner
    column = pixel % width
    row = pixel // width % height
    first = pixel // width // height * large_height * large_width * inner + at % inner
    total = tl.zeros([BLOCK], SUM)
    for j in range(factor):
        down = tl.zeros([BLOCK], SUM)
        for i in range(factor):
            from_row = row * factor + i
            from_column = column * factor + j
            inside = here & (from_row < large_height) & (from_column < large_width)
            down += tl.load(x + first + (from_row * large_width + from_column) * inner, inside, other=0).to(SUM)
        total += down
    pixels = tl.minimum(large_height - row * factor, factor) * tl.minimum(large_width - column * factor, factor)
    tl.store(out + at, divide(total, pixels.to(SUM)).to(out.dtype.element_ty), here)


@triton.jit
def downsample_adjoint_kernel(out, y, count, height, width, small_height, small_width, inner, factor, SUM: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip  # noqa: E501
    # out: [outer, height, width, inner], y: [outer, small_height, small_width, inner]
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < count
    pixel = at // inner
    column = pixel % width // factor
    row = pixel // width % height // factor
    first = pixel // width // height * small_height * small_width * inner + at % inner
    value = tl.load(y + first + (row * small_width + column) * inner, here, other=0).to(SUM)
    pixels = tl.minimum(height - row * factor, factor) * tl.minimum(width - column * factor, factor)
    tl.store(out + at, divide(value, pixels.to(SUM)).to(out.dtype.element_ty), here)


@triton.jit
def divide(x, y):
    """x / y, rounded to the nearest: Triton's own division of float32 is not."""
    if x.dtype == tl.float32:
        return tl.div_rn(x, y)
    else:
        return x / y


def downsample(out: Tensor, x: Tensor, factor: int) -> None:
    """Fill out [B, C, h, w] from x [B, C, H, W], both contiguous or both channels-last."""
    _launch(downsample_kernel, out, x, [*x.shape[2:], *out.shape[2:]], factor)


def downsample_adjoint(out: Tensor, y: Tensor, factor: int) -> None:
    """Fill out [B, C, H, W] from y [B, C, h, w], both contiguous or both channels-last."""
    _launch(downsample_adjoint_kernel, out, y, [*out.shape[2:], *y.shape[2:]], factor)


def _launch(kernel, out: Tensor, x: Tensor, sizes: list[int], factor: int) -> None:
    if out.numel() == 0:
        return
    inner = 1 if out.is_contiguous() and x.is_contiguous() else out.shape[1]
    dtype = tl.float64 if out.dtype == torch.float64 else tl.float32
    block = 256
    with torch.cuda.device_of(out):
        grid = (triton.cdiv(out.numel(), block),)
        kernel[grid](out, x, out.numel(), *sizes, inner, factor, SUM=dtype, BLOCK=block, enable_fp_fusion=False)
