"""weight sum d (r - alpha d), weight = 1 / max(mean|r|, 1e-5); ``rsd_fast/ops/score_difference_loss.py`` has the
mathematics.

A program sums one chunk of a sample, |r| and d (r - alpha d); where a sample has several, a second kernel adds their
sums, in order.
"""

import triton
import triton.language as tl
from torch import Tensor

from .edm import divide, edm
from .elements import CHUNK, cut, launch, load_level, load_mask, masked, store_rounded, strided, tile_of


@triton.jit
def load_difference(F_teacher, F_fake, u_t, u, at, here, c_skip, c_out):
    """(d, r), 0 where not here."""
    teacher = tl.load(F_teacher + at, here, other=0).to(c_out.dtype)
    fake = tl.load(F_fake + at, here, other=0).to(c_out.dtype)
    noisy = tl.load(u_t + at, here, other=0).to(c_out.dtype)
    clean = tl.load(u + at, here, other=0).to(c_out.dtype)
    return c_out * (teacher - fake), c_skip * noisy + c_out * teacher - clean


@triton.jit
def store_loss(loss, weight, b, distance, total, inner):
    mean = divide(distance, tl.cast(inner, distance.dtype))
    factor = divide(1.0, tl.where(mean < 1e-5, 1e-5, mean))  # NaN stays NaN
    tl.store(weight + b, factor)
    tl.store(loss + b, factor * total)


@triton.jit
def score_difference_loss_kernel(
    loss,
    weight,
    partial,
    F_teacher,
    F_fake,
    u_t,
    u,
    sigma,
    mask,
    inner,
    chunks,
    ALPHA: tl.constexpr,
    SIGMA_DATA: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # loss, weight: [batch]; partial: [batch, chunks, 2] or, for one chunk, None; the images: [batch, inner]
    b = (tl.program_id(0) // chunks).to(tl.int64)
    first = tl.program_id(0) % chunks * CHUNK
    level = load_level(sigma, b)
    c_skip, c_out, _, _ = edm(level, SIGMA_DATA)
    distances = tl.zeros([BLOCK], level.dtype)
    totals = tl.zeros([BLOCK], level.dtype)
    for start in range(first, tl.minimum(first + CHUNK, inner), BLOCK):
        at = start + tl.arange(0, BLOCK)
        here = at < inner
        d, r = load_difference(F_teacher, F_fake, u_t, u, b * inner + at, here, c_skip, c_out)
        if mask is not None:
            factor = load_mask(mask, b, at, here, CHANNELS_LAST).to(level.dtype)
            d *= factor
            r *= factor
        distances += tl.abs(r)
        totals += d * (r - ALPHA * d)
    distance, total = tl.sum(distances, 0), tl.sum(totals, 0)
    if partial is None:
        store_loss(loss, weight, b, distance, total, inner)
    else:
        tl.store(partial + 2 * tl.program_id(0), distance)
        tl.store(partial + 2 * tl.program_id(0) + 1, total)


@triton.jit
def score_difference_total_kernel(loss, weight, partial, inner, chunks, BLOCK: tl.constexpr):
    # loss, weight: [batch]; partial: [batch, chunks, 2]
    b = tl.program_id(0).to(tl.int64)
    distances = tl.zeros([BLOCK], loss.dtype.element_ty)
    totals = tl.zeros([BLOCK], loss.dtype.element_ty)
    for first in range(0, chunks, BLOCK):
        at = first + tl.arange(0, BLOCK)
        pair = partial + 2 * (b * chunks + at)
        distances += tl.load(pair, at < chunks, other=0)
        totals += tl.load(pair + 1, at < chunks, other=0)
    store_loss(loss, weight, b, tl.sum(distances, 0), tl.sum(totals, 0), inner)


@triton.jit
def score_difference_loss_backward_kernel(
    F_teacher,
    F_fake,
    u_t,
    u,
    grad,
    weight,
    sigma,
    mask,
    dF_teacher,
    dF_fake,
    du_t,
    du,
    inner,
    tiles,
    ALPHA: tl.constexpr,
    SIGMA_DATA: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # grad, weight: as levels; images and their gradients: [batch, inner], a gradient None where it is not needed
    b, at, here = tile_of(inner, tiles, BLOCK)
    c_skip, c_out, _, _ = edm(load_level(sigma, b), SIGMA_DATA)
    scale = load_level(grad, b) * load_level(weight, b)
    d, r = load_difference(F_teacher, F_fake, u_t, u, b * inner + at, here, c_skip, c_out)
    if mask is not None:
        factor = load_mask(mask, b, at, here, CHANNELS_LAST).to(scale.dtype)
        d *= factor
        r *= factor
        scale *= factor
    if dF_teacher is not None:
        store_rounded(dF_teacher + b * inner + at, c_out * (scale * (r + d - 2 * ALPHA * d)), here)
    if dF_fake is not None:
        store_rounded(dF_fake + b * inner + at, c_out * (scale * (2 * ALPHA * d - r)), here)
    if du_t is not None:
        store_rounded(du_t + b * inner + at, c_skip * (scale * d), here)
    if du is not None:
        store_rounded(du + b * inner + at, -scale * d, here)


def score_difference_loss(
    loss: Tensor,
    weight: Tensor,
    images: tuple[Tensor, Tensor, Tensor, Tensor],
    sigma: Tensor,
    alpha: float,
    sigma_data: float,
    mask: Tensor | None,
    channels_last: bool,
) -> None:
    """Fill loss and weight [B]; images F_teacher, F_fake, u_t, u: [B, ...] of one memory order; sigma: [B] or [1]."""
    inner, _, block = cut(images[0], 2048)
    chunks = max(1, triton.cdiv(inner, CHUNK))
    partial = None if chunks == 1 else loss.new_empty(len(loss), chunks, 2)
    launch(
        score_difference_loss_kernel,
        len(loss) * chunks,
        loss,
        weight,
        partial,
        *images,
        strided(sigma),
        masked(mask, images[0]),
        inner,
        chunks,
        ALPHA=alpha,
        SIGMA_DATA=sigma_data,
        CHANNELS_LAST=channels_last,
        CHUNK=CHUNK,
        BLOCK=block,
        num_warps=8,
    )
    if partial is not None:
        launch(score_difference_total_kernel, len(loss), loss, weight, partial, inner, chunks, BLOCK=128)


def score_difference_loss_backward(
    grad: Tensor,
    weight: Tensor,
    images: tuple[Tensor, Tensor, Tensor, Tensor],
    sigma: Tensor,
    alpha: float,
    sigma_data: float,
    mask: Tensor | None,
    gradients: tuple[Tensor | None, ...],
    channels_last: bool,
) -> None:
    """Fill the images' gradients, those that are not None; otherwise as for `score_difference_loss`."""
    inner, tiles, block = cut(images[0], 1024)
    launch(
        score_difference_loss_backward_kernel,
        len(grad) * tiles,
        *images,
        strided(grad),
        strided(weight),
        strided(sigma),
        masked(mask, images[0]),
        *gradients,
        inner,
        tiles,
        ALPHA=alpha,
        SIGMA_DATA=sigma_data,
        CHANNELS_LAST=channels_last,
        BLOCK=block,
    )
