"""Observations and their perturbation in one pass; ``rsd_fast/ops/{observe,perturb}.py`` have the mathematics.

    y = keep (A(x) + sigma_obs n),      x_t = y + sqrt(max(sigma^2 - sigma_obs^2, 0)) n',      net_input = c_in x_t

A Philox block gives four numbers that follow each other in C order. A tile of 4 BLOCK elements in memory takes them

    IN_ROW      as they come, where that is the memory order too
    GATHERED    through a permutation of the tile, where it is channels-last and each four pixels of a channel share
                a block: the tile then holds whole fours of pixels, and so not all of its 4 BLOCK places
    EACH        one of four by one of four, a block computed for each element, where neither holds
"""

import math
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .edm import edm, root
from .elements import cut, launch, load_level, place_of, store_rounded, strided, tile_of
from .philox import interleave4, normals, signed_words, words_at

IN_ROW, GATHERED, EACH = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
OBSERVATION_NOISE, OBSERVATION_MASK, DIFFUSION_NOISE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)  # ops.Stream
VARYING = ["observation_key0", "observation_key1", "key0", "key1", "threshold"]


@triton.jit
def blocks_of(first, pixels, CHANNELS: tl.constexpr, SHARED: tl.constexpr, WAY: tl.constexpr, BLOCK: tl.constexpr):
    """The Philox blocks of the tile that begins at this offset, and for `spread` where each of its elements finds its
    number among theirs. CHANNELS: 0 for planar images. SHARED: elements are pixels, the same for every channel.
    """
    local = tl.arange(0, 4 * BLOCK)
    j = tl.arange(0, BLOCK)
    if WAY == EACH:
        channel, pixel = place_of(first + local, CHANNELS if CHANNELS else pixels, pixels, CHANNELS != 0)
        element = pixel
        if not SHARED:
            element = channel * pixels + pixel
        return element // 4, element % 4
    elif WAY == GATHERED:
        pixel = local // CHANNELS
        place = 4 * (pixel // 4 * CHANNELS + local % CHANNELS) + pixel % 4
        block = first // (4 * CHANNELS) + j // CHANNELS
        if not SHARED:
            block += j % CHANNELS * (pixels // 4)
        return block, place % (4 * BLOCK)
    else:
        block = first // 4 + j
        if SHARED:
            block = block % (pixels // 4)
        return block, local


@triton.jit
def spread(x0, x1, x2, x3, place, WAY: tl.constexpr):
    """The numbers of `blocks_of`, four of each block, in the tile's memory order."""
    if WAY == EACH:
        return tl.where(place < 2, tl.where(place == 0, x0, x1), tl.where(place == 2, x2, x3))
    elif WAY == GATHERED:
        return tl.gather(interleave4(x0, x1, x2, x3), place, 0)
    else:
        return interleave4(x0, x1, x2, x3)


@triton.jit
def noise_of(
    first, pixels, sample, step, key0, key1, STREAM, CHANNELS: tl.constexpr, WAY: tl.constexpr, BLOCK: tl.constexpr
):
    block, place = blocks_of(first, pixels, CHANNELS, False, WAY, BLOCK)
    w0, w1, w2, w3 = words_at(block, sample, step, STREAM, key0, key1)
    n0, n1, n2, n3 = normals(w0, w1, w2, w3)
    return spread(n0, n1, n2, n3, place, WAY)


@triton.jit(do_not_specialize=VARYING)
def observe_perturb_kernel(
    images,
    y,
    x_t,
    net_input,
    sigma_obs,
    index,
    observation_step,
    observation_key0,
    observation_key1,
    threshold,
    sigma,
    sample,
    step,
    key0,
    key1,
    inner,
    pixels,
    tiles,
    SIGMA_DATA: tl.constexpr,
    MASK: tl.constexpr,
    CHANNELS: tl.constexpr,
    WAY: tl.constexpr,
    MASK_WAY: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # images, y, x_t, net_input: [batch, inner]; y None where images are observations already, x_t None where these are
    # not to be perturbed. sigma_obs, index, observation_step, sigma, sample, step: as levels.
    # MASK: "" none, "shared" by the channels, or "each". CHANNELS: 0 for planar images. TILE: at most 4 BLOCK.
    b = (tl.program_id(0) // tiles).to(tl.int64)
    first = tl.program_id(0) % tiles * TILE
    local = tl.arange(0, 4 * BLOCK)
    at = b * inner + first + local
    here = (local < TILE) & (first + local < inner)
    known = load_level(sigma_obs, b)
    value = tl.load(images + at, here)
    if value.dtype == tl.uint8:
        value = tl.div_rn(value.to(tl.float32), 127.5) - 1.0
    value = value.to(known.dtype)
    if y is not None:
        sample_of, step_of = load_level(index, b), load_level(observation_step, b)
        noise = noise_of(
            first,
            pixels,
            sample_of,
            step_of,
            observation_key0,
            observation_key1,
            OBSERVATION_NOISE,
            CHANNELS,
            WAY,
            BLOCK,
        )
        value += known * noise
        if MASK != "":
            block, place = blocks_of(first, pixels, CHANNELS, MASK == "shared", MASK_WAY, BLOCK)
            w0, w1, w2, w3 = words_at(block, sample_of, 0, OBSERVATION_MASK, observation_key0, observation_key1)
            word = spread(w0, w1, w2, w3, place, MASK_WAY)
            value = tl.where(word.to(tl.int64) >= threshold, value, 0.0)
        tl.store(y + at, value, here)
    if x_t is not None:
        level = load_level(sigma, b)
        _, _, c_in, _ = edm(level, SIGMA_DATA)
        missing = level * level - known * known
        sample_of, step_of = load_level(sample, b), load_level(step, b)
        noise = noise_of(first, pixels, sample_of, step_of, key0, key1, DIFFUSION_NOISE, CHANNELS, WAY, BLOCK)
        value += root(tl.where(missing < 0, 0.0, missing)) * noise
        tl.store(x_t + at, value, here)
        store_rounded(net_input + at, c_in * value, here)


@triton.jit(do_not_specialize=["key0", "key1", "threshold"])
def observation_mask_kernel(
    out, index, key0, key1, threshold, elements, tiles, PACKED: tl.constexpr, BLOCK: tl.constexpr
):
    # out: [batch, elements] of 0 and 1, in C order, or [batch, ceil(elements / 8)] of bits
    b = (tl.program_id(0) // tiles).to(tl.int64)
    first = (tl.program_id(0) % tiles).to(tl.int64) * 4 * BLOCK
    sample = load_level(index, b)
    block = first // 4 + tl.arange(0, BLOCK)
    w0, w1, w2, w3 = words_at(block, sample, 0, OBSERVATION_MASK, key0, key1)
    at = first + tl.arange(0, 4 * BLOCK)
    kept = (interleave4(w0, w1, w2, w3).to(tl.int64) >= threshold) & (at < elements)
    if PACKED:
        bits = tl.reshape(kept.to(tl.int32), [BLOCK // 2, 8]) << tl.arange(0, 8)[None, :]
        at = first // 8 + tl.arange(0, BLOCK // 2)
        size = (elements + 7) // 8
        tl.store(out + b * size + at, tl.sum(bits, 1).to(tl.uint8), at < size)
    else:
        tl.store(out + b * elements + at, kept.to(tl.uint8), at < elements)


@triton.jit
def perturb_backward_kernel(
    dy, grad_x_t, grad_net_input, sigma, inner, tiles, SIGMA_DATA: tl.constexpr, BLOCK: tl.constexpr
):
    # dy, grad_x_t, grad_net_input: [batch, inner]
    b, at, here = tile_of(inner, tiles, BLOCK)
    level = load_level(sigma, b)
    _, _, c_in, _ = edm(level, SIGMA_DATA)
    direct = tl.load(grad_x_t + b * inner + at, here).to(level.dtype)
    scaled = tl.load(grad_net_input + b * inner + at, here).to(level.dtype)
    store_rounded(dy + b * inner + at, direct + c_in * scaled, here)


def observe_perturb(
    images: Tensor,
    outputs: tuple[Tensor | None, Tensor | None, Tensor | None],
    sigma_obs: Tensor,
    observation: tuple[int, Tensor, Tensor] | None,
    mask: tuple[int, bool] | None,
    perturbation: Any,
    channels_last: bool,
) -> None:
    """Fill the outputs y, x_t and net_input, all [B, ...] of one memory order, from images of that order.

    observation: (seed, index, step), None where images are observations already, and so y is None.
    mask: (threshold, shared), pixels being kept where their word reaches the threshold, or None.
    perturbation: (sigma, (seed, sample, step), options), with options.sigma_data, None where x_t and net_input are.
    """
    channels, pixels = (images.shape[1] if images.ndim > 1 else 1), math.prod(images.shape[2:])
    threshold, shared = mask or (0, False)
    block = 256
    tile = 4 * block
    way, mask_way = IN_ROW, IN_ROW if pixels % 4 == 0 or not shared else EACH
    if channels_last:
        way = mask_way = GATHERED if pixels % 4 == 0 and channels <= block // 4 else EACH
        if way == GATHERED:
            tile = block // channels // 4 * 16 * channels  # whole fours of pixels, their bytes 16-fold in any dtype
    inner, _, _ = cut(images, tile)
    tiles = triton.cdiv(inner, tile)
    seed, index, observation_step = observation or (0, None, None)
    sigma, (noise_seed, sample, step), options = perturbation or (None, (0, None, None), None)
    index, observation_step, sigma, sample, step = (
        None if value is None else strided(value) for value in (index, observation_step, sigma, sample, step)
    )
    launch(
        observe_perturb_kernel,
        len(images) * tiles,
        images,
        *outputs,
        strided(sigma_obs),
        index,
        observation_step,
        *signed_words(seed, seed >> 32),
        threshold,
        sigma,
        sample,
        step,
        *signed_words(noise_seed, noise_seed >> 32),
        inner,
        pixels,
        tiles,
        SIGMA_DATA=1.0 if options is None else options.sigma_data,
        MASK="" if mask is None else "shared" if shared else "each",
        CHANNELS=channels if channels_last else 0,
        WAY=way,
        MASK_WAY=mask_way,
        TILE=tile,
        BLOCK=block,
    )


def observation_mask(out: Tensor, elements: int, packed: bool, seed: int, index: Tensor, threshold: int) -> None:
    """Fill out, uint8 and dense: [B, ...] of so many elements a sample or, packed, [B, ceil(elements / 8)]."""
    block = 256
    tiles = triton.cdiv(elements, 4 * block)
    launch(
        observation_mask_kernel,
        len(out) * tiles,
        out,
        strided(index),
        *signed_words(seed, seed >> 32),
        threshold,
        elements,
        tiles,
        PACKED=packed,
        BLOCK=block,
    )


def perturb_backward(dy: Tensor, grad_x_t: Tensor, grad_net_input: Tensor, sigma: Tensor, sigma_data: float) -> None:
    """Fill dy; all [B, ...] of one memory order."""
    inner, tiles, block = cut(dy, 1024)
    constants = {"SIGMA_DATA": sigma_data, "BLOCK": block}
    launch(
        perturb_backward_kernel,
        len(dy) * tiles,
        dy,
        grad_x_t,
        grad_net_input,
        strided(sigma),
        inner,
        tiles,
        **constants,
    )
