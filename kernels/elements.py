"""What elementwise kernels share: how work on [batch, inner] is cut, how masks and noise levels lie, and the launch.

Tensors of a call lie in one memory order, planar or channels-last, so that an element is its offset in memory. Offsets
within a sample have 32 bits, which keeps divisions cheap; where a sample begins has 64. Nothing is contracted to a
fused multiply-add (``enable_fp_fusion=False``), so that elementwise results equal plain PyTorch's.

A kernel takes a noise level as (tensor [batch], its stride) and a mask as (tensor, its three strides, channels,
pixels), for `load_level` and `load_mask`; `strided` and `masked` make these.
"""

import math
import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")  # where bfloat16 would be cut off, not rounded
CHUNK = 16384  # elements of one sample that are summed together: fixed, so that sums repeat


@triton.jit
def tile_of(inner, tiles, BLOCK: tl.constexpr):
    """(sample, offsets within it, whether they are) of the elements of this program."""
    at = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    return (tl.program_id(0) // tiles).to(tl.int64), at, at < inner


@triton.jit
def load_level(level, b):
    return tl.load(level[0] + b * level[1])


@triton.jit
def place_of(at, channels, pixels, CHANNELS_LAST: tl.constexpr):
    """(channel, pixel) of the elements at these offsets within a sample."""
    if CHANNELS_LAST:
        return at % channels, at // channels
    else:
        return at // pixels, at % pixels


@triton.jit
def load_mask(mask, b, at, here, CHANNELS_LAST: tl.constexpr):
    values, batch_stride, channel_stride, pixel_stride, channels, pixels = mask
    channel, pixel = place_of(at, channels, pixels, CHANNELS_LAST)
    offset = b * batch_stride + channel.to(tl.int64) * channel_stride + pixel.to(tl.int64) * pixel_stride
    return tl.load(values + offset, here, other=0)


@triton.jit
def store_rounded(to, value, here):
    """tl.store, values being rounded to the nearest, to 16 bits by way of float32 as in PyTorch."""
    if to.dtype.element_ty.primitive_bitwidth == 16:
        value = value.to(tl.float32)
    if to.dtype.element_ty == tl.bfloat16 and INTERPRETED:
        bits = value.to(tl.int32, bitcast=True)
        value = (bits + 0x7FFF + (bits >> 16 & 1) & -0x10000).to(tl.float32, bitcast=True)
    tl.store(to, value, here)


@triton.jit
def total_kernel(out, partial, chunks, BLOCK: tl.constexpr):
    # out: [batch]; partial: [batch, chunks]
    b = tl.program_id(0).to(tl.int64)
    total = tl.zeros([BLOCK], out.dtype.element_ty)
    for first in range(0, chunks, BLOCK):
        at = first + tl.arange(0, BLOCK)
        total += tl.load(partial + b * chunks + at, at < chunks, other=0)
    tl.store(out + b, tl.sum(total, 0))


def launch(kernel: Any, programs: int, *arguments: Any, **constants: Any) -> None:
    """Run so many programs of a kernel on the device of its first argument, a tensor."""
    if programs > 0:
        with torch.cuda.device_of(arguments[0]):
            kernel[(programs,)](*arguments, **constants, enable_fp_fusion=False)


def cut(x: Tensor, most: int) -> tuple[int, int, int]:
    """(elements of a sample, tiles of it, elements of a tile: a power of 2, `most` at most)."""
    inner = math.prod(x.shape[1:])
    if inner >= 2**31 - most:  # an offset within the last tile would overflow
        raise ValueError(f"expected fewer than 2^31 - {most} elements a sample, got {list(x.shape)}")
    block = min(most, triton.next_power_of_2(max(inner, 2)))
    return inner, triton.cdiv(inner, block), block


def strided(value: Tensor) -> tuple[Tensor, int]:
    """A tensor [B], or of one element to serve every sample, with the distance of the samples' values in it."""
    return value, value.stride(0) if value.numel() > 1 else 0


def masked(mask: Tensor | None, x: Tensor) -> tuple[Any, ...] | None:
    """A mask that broadcasts to x, as `load_mask` takes it."""
    if mask is None:
        return None
    channels, pixels = x.shape[1] if x.ndim > 1 else 1, math.prod(x.shape[2:])
    mask = mask.expand(x.shape).reshape(len(x), channels, pixels)  # a copy only where no one pixel stride fits
    return mask, *mask.stride(), channels, pixels
