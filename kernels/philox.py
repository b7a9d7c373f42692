"""Philox-4x32-10 words and normals in Triton; ``rsd_fast/ops/philox.py`` has the mathematics.

The normals equal the reference's bit for bit, so nothing here may be contracted to a fused multiply-add:
every launch says ``enable_fp_fusion=False``. Numbers that change from call to call are not specialised on,
and 32-bit words travel as signed integers, so that one compiled kernel serves every seed.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

VARYING = ["key0", "key1", "stream"]


@triton.jit
def philox_words(c0, c1, c2, c3, key0, key1):
    """The four words of a block; counter and key are uint32, blocks of one shape or scalars."""
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(c0, 0xD2511F53), c0 * 0xD2511F53
        high1, low1 = tl.umulhi(c2, 0xCD9E8D57), c2 * 0xCD9E8D57
        c0 = high1 ^ c1 ^ key0
        c1 = low1
        c2 = high0 ^ c3 ^ key1
        c3 = low0
        key0 = key0 + 0x9E3779B9
        key1 = key1 + 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def unit(word):
    return (word.to(tl.float32) + 0.5) * 2.3283064365386963e-10  # 2^-32


@triton.jit
def radius(u):
    """sqrt(-2 ln u): u = 2^-n (1 + z) with 1 + z within [1/sqrt(2), sqrt(2))."""
    bits = u.to(tl.int32, bitcast=True)
    n = -((bits - 0x3F3504F3) >> 23)
    z = (bits + (n << 23)).to(tl.float32, bitcast=True) - 1.0
    p = z * 0.152421817 + -0.25809294
    p = p * z + 0.264869303
    p = p * z + -0.283636749
    p = p * z + 0.332180262
    p = p * z + -0.400039375
    p = p * z + 0.50003171
    p = p * z + -0.666666508
    p = p * z + 0.999999762
    p = p * z + -2.0
    return tl.sqrt_rn(n.to(tl.float32) * 1.38629436 + z * p)


@triton.jit
def cos_sin(u):
    """cos and sin of 2 pi u: u = quarter / 4 + t with |t| <= 1/8."""
    quarter = (u * 4.0 + 0.5).to(tl.int32)
    t = u - quarter.to(tl.float32) * 0.25
    square = t * t
    c = square * 59.4217072 + -85.448761
    c = c * square + 64.9393692
    c = c * square + -19.7392082
    c = square * c + 1.0
    s = square * -75.3935547 + 81.5923538
    s = s * square + -41.3416634
    s = s * square + 6.28318548
    s = t * s
    odd = (quarter & 1) != 0
    cos = tl.where(odd, s, c)
    sin = tl.where(odd, c, s)
    return tl.where(((quarter + 1) & 2) != 0, -cos, cos), tl.where((quarter & 2) != 0, -sin, sin)


@triton.jit
def normals(w0, w1, w2, w3):
    """The four normals of each block of words."""
    r0 = radius(unit(w0))
    r1 = radius(unit(w2))
    cos0, sin0 = cos_sin(unit(w1))
    cos1, sin1 = cos_sin(unit(w3))
    return r0 * cos0, r0 * sin0, r1 * cos1, r1 * sin1


@triton.jit
def interleave4(x0, x1, x2, x3):
    """[BLOCK] four times -> [4 * BLOCK], the four of each block side by side."""
    return tl.interleave(tl.interleave(x0, x2), tl.interleave(x1, x3))


@triton.jit
def words_at(block, sample, step, stream, key0, key1):
    """The four words of each of these blocks; sample, step and stream are scalars, or as block."""
    c0 = block.to(tl.uint32)
    zero = tl.zeros_like(c0)
    c1, c2, c3 = zero + tl.cast(sample, tl.uint32), zero + tl.cast(step, tl.uint32), zero + tl.cast(stream, tl.uint32)
    return philox_words(c0, c1, c2, c3, key0.to(tl.uint32), key1.to(tl.uint32))


@triton.jit(do_not_specialize=VARYING)
def philox_kernel(out, sample, element, step, count, key0, key1, stream, BLOCK: tl.constexpr):
    # out: [count, 4] int32; sample, element, step: [count] int64
    first = tl.program_id(0).to(tl.int64) * BLOCK
    at = first + tl.arange(0, BLOCK)
    here = at < count
    c0 = tl.load(element + at, here, other=0)
    c1 = tl.load(sample + at, here, other=0)
    c2 = tl.load(step + at, here, other=0)
    w0, w1, w2, w3 = words_at(c0, c1, c2, stream, key0, key1)
    at = 4 * first + tl.arange(0, 4 * BLOCK)
    tl.store(out + at, interleave4(w0, w1, w2, w3).to(tl.int32, bitcast=True), at < 4 * count)


@triton.jit(do_not_specialize=VARYING)
def randn_kernel(out, sample, step, sample_stride, step_stride, inner, tiles, key0, key1, stream, BLOCK: tl.constexpr):
    # out: [batch, inner] float32; sample, step: [batch] int64, their strides apart; tiles: programs a sample
    b = tl.program_id(0) // tiles
    first = (tl.program_id(0) % tiles).to(tl.int64) * BLOCK
    sample, step = tl.load(sample + b * sample_stride), tl.load(step + b * step_stride)
    w0, w1, w2, w3 = words_at(first + tl.arange(0, BLOCK), sample, step, stream, key0, key1)
    n0, n1, n2, n3 = normals(w0, w1, w2, w3)
    at = 4 * first + tl.arange(0, 4 * BLOCK)
    tl.store(out + b.to(tl.int64) * inner + at, interleave4(n0, n1, n2, n3), at < inner)


def philox(out: Tensor, seed: int, sample: Tensor, element: Tensor, step: Tensor, stream: int) -> None:
    """Fill out [..., 4] (int32, the words' bits); sample, element, step: int64 [...]; all of them dense."""
    count = sample.numel()
    if count == 0:
        return
    block = 256
    with torch.cuda.device_of(out):
        philox_kernel[(triton.cdiv(count, block),)](
            out,
            sample,
            element,
            step,
            count,
            *signed_words(seed, seed >> 32, stream),
            BLOCK=block,
            enable_fp_fusion=False,
        )


def randn(out: Tensor, inner: int, seed: int, sample: Tensor, step: Tensor, stream: int) -> None:
    """Fill out [B, ...] (float32, dense, inner elements a sample); sample, step: int64 [B] of any stride."""
    if out.numel() == 0:
        return
    block = min(256, triton.next_power_of_2(triton.cdiv(inner, 4)))
    tiles = triton.cdiv(inner, 4 * block)
    with torch.cuda.device_of(out):
        randn_kernel[(len(sample) * tiles,)](
            out,
            sample,
            step,
            sample.stride(0),
            step.stride(0),
            inner,
            tiles,
            *signed_words(seed, seed >> 32, stream),
            BLOCK=block,
            enable_fp_fusion=False,
        )


def signed_words(*words: int) -> list[int]:
    """The low 32 bits of each as a signed integer: as kernels take keys and streams."""
    return [((word & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000 for word in words]
