"""weight sum (mask ((1 - r) (D - x_t) + x_t - y))^2; ``rsd_fast/ops/denoising_loss.py`` has the mathematics.

A program sums one chunk of a sample; where a sample has several, `total_kernel` adds their sums, in order.
"""

import triton
import triton.language as tl
from torch import Tensor

from .edm import divide, edm
from .elements import CHUNK, cut, launch, load_level, load_mask, masked, store_rounded, strided, tile_of, total_kernel


@triton.jit
def share_of(sigma, sigma_obs):
    """1 - r: what of the denoiser's correction counts."""
    ratio = divide(sigma_obs, sigma)
    return 1 - ratio * ratio


@triton.jit
def load_error(F, x_t, y, at, here, c_skip, c_out, share):
    f = tl.load(F + at, here, other=0).to(share.dtype)
    x = tl.load(x_t + at, here, other=0).to(share.dtype)
    observed = tl.load(y + at, here, other=0).to(share.dtype)
    return share * (c_skip * x + c_out * f - x) + (x - observed)


@triton.jit
def denoising_loss_kernel(
    partial,
    F,
    x_t,
    y,
    sigma,
    sigma_obs,
    mask,
    inner,
    chunks,
    SIGMA_DATA: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # partial: [batch, chunks]; F, x_t, y: [batch, inner]
    b = (tl.program_id(0) // chunks).to(tl.int64)
    first = tl.program_id(0) % chunks * CHUNK
    level = load_level(sigma, b)
    share = share_of(level, load_level(sigma_obs, b))
    c_skip, c_out, _, weight = edm(level, SIGMA_DATA)
    total = tl.zeros([BLOCK], level.dtype)
    for start in range(first, tl.minimum(first + CHUNK, inner), BLOCK):
        at = start + tl.arange(0, BLOCK)
        here = at < inner
        error = load_error(F, x_t, y, b * inner + at, here, c_skip, c_out, share)
        if mask is not None:
            error *= load_mask(mask, b, at, here, CHANNELS_LAST).to(level.dtype)
        total += error * error
    tl.store(partial + tl.program_id(0), weight * tl.sum(total, 0))


@triton.jit
def denoising_loss_backward_kernel(
    dF,
    grad,
    F,
    x_t,
    y,
    sigma,
    sigma_obs,
    mask,
    inner,
    tiles,
    SIGMA_DATA: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # dF, F, x_t, y: [batch, inner]; grad: as a level
    b, at, here = tile_of(inner, tiles, BLOCK)
    level = load_level(sigma, b)
    share = share_of(level, load_level(sigma_obs, b))
    c_skip, c_out, _, weight = edm(level, SIGMA_DATA)
    error = load_error(F, x_t, y, b * inner + at, here, c_skip, c_out, share)
    if mask is not None:
        factor = load_mask(mask, b, at, here, CHANNELS_LAST).to(level.dtype)
        error *= factor * factor
    store_rounded(dF + b * inner + at, load_level(grad, b) * (2 * weight * share * c_out) * error, here)


def denoising_loss(
    loss: Tensor,
    F: Tensor,
    x_t: Tensor,
    y: Tensor,
    sigma: Tensor,
    sigma_obs: Tensor,
    sigma_data: float,
    mask: Tensor | None,
    channels_last: bool,
) -> None:
    """Fill loss [B]; F, x_t, y: [B, ...] of one memory order; sigma, sigma_obs: [B] or [1] in loss's dtype."""
    inner, _, block = cut(F, 2048)
    chunks = max(1, triton.cdiv(inner, CHUNK))
    partial = loss if chunks == 1 else loss.new_empty(len(F), chunks)
    launch(
        denoising_loss_kernel,
        len(F) * chunks,
        partial,
        F,
        x_t,
        y,
        strided(sigma),
        strided(sigma_obs),
        masked(mask, F),
        inner,
        chunks,
        SIGMA_DATA=sigma_data,
        CHANNELS_LAST=channels_last,
        CHUNK=CHUNK,
        BLOCK=block,
        num_warps=8,
    )
    if chunks > 1:
        launch(total_kernel, len(F), loss, partial, chunks, BLOCK=128)


def denoising_loss_backward(
    grad: Tensor,
    dF: Tensor,
    F: Tensor,
    x_t: Tensor,
    y: Tensor,
    sigma: Tensor,
    sigma_obs: Tensor,
    sigma_data: float,
    mask: Tensor | None,
    channels_last: bool,
) -> None:
    """Fill dF, of the shape and memory order of F; grad: [B] of any stride; otherwise as for `denoising_loss`."""
    inner, tiles, block = cut(F, 1024)
    launch(
        denoising_loss_backward_kernel,
        len(F) * tiles,
        dF,
        strided(grad),
        F,
        x_t,
        y,
        strided(sigma),
        strided(sigma_obs),
        masked(mask, F),
        inner,
        tiles,
        SIGMA_DATA=sigma_data,
        CHANNELS_LAST=channels_last,
        BLOCK=block,
    )
