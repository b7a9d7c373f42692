"""Blur and its transpose in Triton; ``rsd_fast/ops/blur.py`` has the mathematics.

One kernel, dense over rows x columns of taps: a separable blur is a pass with [n, 1] and one with [1, n]. Images are
[outer, height, width, inner], which contiguous ones ([B C, H, W, 1]) and channels-last ones ([B, H, W, C]) both are.
The taps stay on the device from call to call. The order of additions is the reference's, hence no fused multiply-adds.
"""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def weighted_sum(x, taps, first, row, column, height, width, inner, here, ROWS: tl.constexpr, COLUMNS: tl.constexpr, ADJOINT: tl.constexpr):  # fmt: skip  # noqa: E501
    """Over ROWS x COLUMNS pixels about (row, column), maybe beyond the border; first: of image and channel."""
    total = tl.zeros(row.shape, taps.dtype.element_ty)
    for i in range(ROWS):
        for j in range(COLUMNS):
            from_row = row + i - ROWS // 2
            from_column = column + j - COLUMNS // 2
            inside = here
            if ADJOINT:
                inside = here & (from_row >= 0) & (from_row < height) & (from_column >= 0) & (from_column < width)
            else:
                from_row = tl.where(from_row < height, tl.abs(from_row), 2 * (height - 1) - from_row)
                from_column = tl.where(from_column < width, tl.abs(from_column), 2 * (width - 1) - from_column)
            part = tl.load(x + first + (from_row * width + from_column) * inner, inside, other=0)
            total += tl.load(taps + i * COLUMNS + j) * part.to(total.dtype)
    return total


@triton.jit
def folds(at, size, RADIUS: tl.constexpr):
    """Whether the transpose folds this row or column, beyond the border, back."""
    return ((at < 0) & (at >= -RADIUS)) | ((at >= size) & (at < size + RADIUS))


@triton.jit
def folded_rows(x, taps, first, row, column, height, width, inner, here, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    total = weighted_sum(x, taps, first, row, column, height, width, inner, here, ROWS, COLUMNS, True)
    if ROWS > 1:
        for far in tl.static_range(2):
            beyond = 2 * (height - 1) * far - row
            more = here & folds(beyond, height, ROWS // 2)
            total += weighted_sum(x, taps, first, beyond, column, height, width, inner, more, ROWS, COLUMNS, True)
    return total


@triton.jit
def blur_kernel(out, x, taps, count, height, width, inner, ROWS: tl.constexpr, COLUMNS: tl.constexpr, ADJOINT: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip  # noqa: E501
    # out, x: [outer, height, width, inner]; taps: [ROWS, COLUMNS] in the type of the sums
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < count
    pixel = at // inner
    column = pixel % width
    row = pixel // width % height
    first = at - (row * width + column) * inner
    if ADJOINT:
        total = folded_rows(x, taps, first, row, column, height, width, inner, here, ROWS, COLUMNS)
        if COLUMNS > 1:
            for far in tl.static_range(2):
                beyond = 2 * (width - 1) * far - column
                more = here & folds(beyond, width, COLUMNS // 2)
                total += folded_rows(x, taps, first, row, beyond, height, width, inner, more, ROWS, COLUMNS)
    else:
        total = weighted_sum(x, taps, first, row, column, height, width, inner, here, ROWS, COLUMNS, False)
    tl.store(out + at, total.to(out.dtype.element_ty), here)


def blur(out: Tensor, x: Tensor, kernel: Tensor, adjoint: bool) -> None:
    """Fill out with K x or K^T x; both [B, C, H, W], either contiguous or channels-last. kernel: float64 on the CPU."""
    if x.numel() == 0:
        return
    _, channels, height, width = x.shape
    inner = 1 if x.is_contiguous() else channels
    if kernel.ndim == 2:
        passes = [(x, out, kernel)]
    else:
        between = torch.empty_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
        passes = [(x, between, kernel[:, None]), (between, out, kernel[None, :])]
    block = 256
    with torch.cuda.device_of(out):
        for source, target, taps in passes:
            rows, columns = taps.shape
            taps = taps.flip(0, 1) if adjoint else taps
            dtype = torch.promote_types(x.dtype, torch.float32)
            values = tuple(taps.flatten().tolist())
            capturing = x.is_cuda and torch.cuda.is_current_stream_capturing()
            on_device = _filled(values, dtype, x.device) if capturing else _on_device(values, dtype, x.device)
            blur_kernel[(triton.cdiv(x.numel(), block),)](
                target,
                source,
                on_device,
                x.numel(),
                height,
                width,
                inner,
                ROWS=rows,
                COLUMNS=columns,
                ADJOINT=adjoint,
                BLOCK=block,
                enable_fp_fusion=False,
            )


@functools.lru_cache(maxsize=64)
def _on_device(taps: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(taps, dtype=torch.float64).to(device, dtype)


def _filled(taps: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The same without a copy from the host, which a graph cannot hold, nor a cache, which would keep its memory."""
    out = torch.empty(len(taps), dtype=dtype, device=device)
    for i, tap in enumerate(taps):
        out[i].fill_(tap)
    return out
