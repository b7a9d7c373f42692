"""Group normalisation with SiLU in Triton; ``rsd_fast/ops/group_norm_silu.py`` has the mathematics.

A program has one sample's channels of some whole groups: one group, or as many as fill a memory transaction where
channels are innermost. It walks over the pixels in blocks [PIXELS, CHANNELS], once for the sums of every channel
and once more for the result; the second time they come from the cache. The forward merges the blocks' means and
squared deviations (Chan, Golub and LeVeque 1983), which loses nothing where the mean is large.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def sigmoids(z):
    """1 / (1 + exp(-z)) and 1 / (1 + exp(z)), with no exponential that overflows."""
    small = tl.exp(-tl.abs(z))
    near, far = 1.0 / (1.0 + small), small / (1.0 + small)
    return tl.where(z >= 0, near, far), tl.where(z >= 0, far, near)


@triton.jit
def group_sum(values, lane, per_group, ONE_GROUP: tl.constexpr):
    """Every lane's sum over the lanes of its group; values [CHANNELS], 0 where there is no channel."""
    if ONE_GROUP:
        return tl.sum(values, 0) + tl.zeros_like(values)
    group = lane // per_group
    same = group[:, None] == group[None, :]
    return tl.sum(tl.where(same, values[None, :], 0.0), 1)


@triton.jit
def lanes(channels, per_group, here, HERE_GROUPS: tl.constexpr, CHANNELS: tl.constexpr):
    """The program's sample, and its lanes: which of its channels, of all channels, of all groups, whether there."""
    parts = tl.cdiv(channels, per_group * HERE_GROUPS)
    sample = (here // parts).to(tl.int64)
    lane = tl.arange(0, CHANNELS)
    channel = (here % parts) * (per_group * HERE_GROUPS) + lane
    inside = (lane < per_group * HERE_GROUPS) & (channel < channels)
    return sample, lane, channel, channel // per_group, inside


@triton.jit
def group_norm_silu_kernel(
    x, gain, offset, y, mean, rstd, channels, pixels, groups, gain_stride, offset_stride, pixel_stride,
    channel_stride, EPS: tl.constexpr, SILU: tl.constexpr, HERE_GROUPS: tl.constexpr, PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr, A: tl.constexpr,
):  # fmt: skip
    # x, y: [batch, channels, pixels] of these strides; gain, offset: [batch, channels] A; mean, rstd: [batch, groups] A
    per_group = channels // groups
    sample, lane, channel, group, inside = lanes(channels, per_group, tl.program_id(0), HERE_GROUPS, CHANNELS)
    base = sample * channels * pixels
    pixel = tl.arange(0, PIXELS)
    average = tl.zeros([CHANNELS], A)  # of every channel, over the pixels so far, and their squared deviations from it
    squares = tl.zeros([CHANNELS], A)
    for first in range(0, pixels, PIXELS):
        at = (
            base + (first + pixel).to(tl.int64)[:, None] * pixel_stride + channel.to(tl.int64)[None, :] * channel_stride
        )
        there = (first + pixel < pixels)[:, None] & inside[None, :]
        value = tl.load(x + at, there, other=0).to(A)
        count = tl.cast(tl.minimum(pixels - first, PIXELS), A)
        block = tl.sum(value, 0) / count
        deviation = tl.where(there, value - block[None, :], 0.0)
        block += tl.sum(deviation, 0) / count  # what rounding left over
        deviation = tl.where(there, value - block[None, :], 0.0)
        step = block - average
        share = count / (first + count)
        average += step * share
        squares += tl.sum(deviation * deviation, 0) + step * step * (first * share)
    total = group_sum(tl.where(inside, average, 0.0), lane, per_group, HERE_GROUPS == 1)
    centre = total / per_group
    deviation = tl.where(inside, average - centre, 0.0)
    squares = tl.where(inside, squares, 0.0) + deviation * deviation * pixels
    variance = group_sum(squares, lane, per_group, HERE_GROUPS == 1) / (tl.cast(per_group, A) * pixels)
    r = 1.0 / tl.sqrt(variance + EPS)
    leads = inside & (lane % per_group == 0)
    tl.store(mean + sample * groups + group, centre, leads)
    tl.store(rstd + sample * groups + group, r, leads)
    slope = r * tl.load(gain + sample * gain_stride + channel, inside, other=0)
    constant = tl.load(offset + sample * offset_stride + channel, inside, other=0)
    for first in range(0, pixels, PIXELS):
        at = (
            base + (first + pixel).to(tl.int64)[:, None] * pixel_stride + channel.to(tl.int64)[None, :] * channel_stride
        )
        there = (first + pixel < pixels)[:, None] & inside[None, :]
        z = (tl.load(x + at, there, other=0).to(A) - centre[None, :]) * slope[None, :] + constant[None, :]
        if SILU:
            s, _ = sigmoids(z)
            z = z * s
        tl.store(y + at, z.to(y.dtype.element_ty), there)


@triton.jit
def gradient_of_z(grad, x, at, there, centre, slope, constant, SILU: tl.constexpr, A: tl.constexpr):
    """x - mean, and dz; 0 where there is nothing."""
    deviation = tl.where(there, tl.load(x + at, there, other=0).to(A) - centre[None, :], 0.0)
    dz = tl.load(grad + at, there, other=0).to(A)
    if SILU:
        z = deviation * slope[None, :] + constant[None, :]
        s, rest = sigmoids(z)
        dz = dz * (s * (1.0 + z * rest))
    return deviation, dz


@triton.jit
def group_norm_silu_backward_kernel(
    grad, x, gain, offset, mean, rstd, dx, sums, channels, pixels, groups, gain_stride, offset_stride,
    pixel_stride, channel_stride, SILU: tl.constexpr, WITH_DX: tl.constexpr, HERE_GROUPS: tl.constexpr,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr, A: tl.constexpr,
):  # fmt: skip
    # grad, x, dx: [batch, channels, pixels] of these strides; sums: [batch, 2, channels] A
    per_group = channels // groups
    sample, lane, channel, group, inside = lanes(channels, per_group, tl.program_id(0), HERE_GROUPS, CHANNELS)
    base = sample * channels * pixels
    pixel = tl.arange(0, PIXELS)
    centre = tl.load(mean + sample * groups + group, inside, other=0)
    r = tl.load(rstd + sample * groups + group, inside, other=0)
    factor = tl.load(gain + sample * gain_stride + channel, inside, other=0)
    slope = r * factor
    constant = tl.load(offset + sample * offset_stride + channel, inside, other=0)
    sum0 = tl.zeros([PIXELS, CHANNELS], A)
    sum1 = tl.zeros([PIXELS, CHANNELS], A)
    for first in range(0, pixels, PIXELS):
        at = (
            base + (first + pixel).to(tl.int64)[:, None] * pixel_stride + channel.to(tl.int64)[None, :] * channel_stride
        )
        there = (first + pixel < pixels)[:, None] & inside[None, :]
        deviation, dz = gradient_of_z(grad, x, at, there, centre, slope, constant, SILU, A)
        sum0 += dz
        sum1 += dz * deviation
    S0 = tl.sum(sum0, 0)
    S1 = tl.sum(sum1, 0) * r
    to = sums + sample * 2 * channels + channel
    tl.store(to, S0, inside)
    tl.store(to + channels, S1, inside)
    if WITH_DX:
        count = tl.cast(per_group, A) * pixels
        pull0 = r * group_sum(factor * S0, lane, per_group, HERE_GROUPS == 1) / count
        pull1 = r * r * group_sum(factor * S1, lane, per_group, HERE_GROUPS == 1) / count
        for first in range(0, pixels, PIXELS):
            at = (
                base
                + (first + pixel).to(tl.int64)[:, None] * pixel_stride
                + channel.to(tl.int64)[None, :] * channel_stride
            )
            there = (first + pixel < pixels)[:, None] & inside[None, :]
            deviation, dz = gradient_of_z(grad, x, at, there, centre, slope, constant, SILU, A)
            value = slope[None, :] * dz - pull0[None, :] - deviation * pull1[None, :]
            tl.store(dx + at, value.to(dx.dtype.element_ty), there)


def forward(
    x: Tensor, gain: Tensor, offset: Tensor, y: Tensor, mean: Tensor, rstd: Tensor, eps: float, silu: bool
) -> None:
    """Fill y, mean and rstd. x, y: [B, C, ...], dense in one layout; gain, offset: [B or 1, C]; mean, rstd: [B, G]."""
    if len(x) == 0:
        return
    grid, sizes, blocks = _launch(x, gain, offset, mean)
    with torch.cuda.device_of(x):
        group_norm_silu_kernel[grid](x, gain, offset, y, mean, rstd, *sizes, EPS=eps, SILU=silu, **blocks)


def backward(
    grad: Tensor,
    x: Tensor,
    gain: Tensor,
    offset: Tensor,
    mean: Tensor,
    rstd: Tensor,
    dx: Tensor | None,
    sums: Tensor,
    silu: bool,
) -> None:
    """Fill dx, unless it is None, and sums [B, 2, C]; the rest as in `forward`, grad and dx in x's layout."""
    if len(x) == 0:
        return
    grid, sizes, blocks = _launch(x, gain, offset, mean)
    target = x if dx is None else dx
    with torch.cuda.device_of(x):
        group_norm_silu_backward_kernel[grid](
            grad, x, gain, offset, mean, rstd, target, sums, *sizes, SILU=silu, WITH_DX=dx is not None, **blocks
        )


def _launch(x: Tensor, gain: Tensor, offset: Tensor, mean: Tensor) -> tuple[tuple[int], list[int], dict]:
    """Grid, sizes and strides, and the constants of a launch."""
    batch, channels = x.shape[:2]
    groups = mean.shape[1]
    pixels = x[0, 0].numel()
    channel_stride = pixels if x.is_contiguous() else 1
    pixel_stride = 1 if x.is_contiguous() else channels
    per_group = channels // groups
    transaction = 32 // x.element_size()
    here = 1 if x.is_contiguous() else max(1, min(groups, transaction // per_group))
    lanes = triton.next_power_of_2(here * per_group)
    strides = [value.stride(0) if len(value) > 1 else 0 for value in (gain, offset)]
    blocks = {
        "HERE_GROUPS": here,
        "CHANNELS": lanes,
        "PIXELS": min(triton.next_power_of_2(pixels), max(1, 1024 // lanes)),
        "A": tl.float64 if mean.dtype == torch.float64 else tl.float32,
    }
    return (
        (batch * triton.cdiv(groups, here),),
        [channels, pixels, groups, *strides, pixel_stride, channel_stride],
        blocks,
    )
