"""The noise level of observations y = A(x) + sigma_obs eps, from nothing but the observations.

White noise adds the same variance along every direction of a patch, the image adds to few of them: the variance along
the principal directions of least variance is the noise's (Pyatykh, Hesser & Zheng 2013; Chen, Zhu & Heng 2015), and
more so in patches that are smooth. These are told by their energy along the other directions, which white noise makes
independent of what is measured, so that choosing them does not bias it (Ponomarenko et al. 2007; Colom & Buades 2013).

    v(U, S) = mean over the patches p of S of |U^T (p - mean)|^2 / m,    U [D, m]: the m last principal directions,
    S: the share q of the patches with the least |V^T (p - mean)|^2,     V: the others, less the first (brightness).

The image can only add to v. Of the candidates (patch size, m, q) the one with the least v + 4 standard errors serves.
So that neither U nor the choice is fitted to the noise that it measures, which would shrink v, images come in 5 folds,
and a fold is measured with the directions and the candidate that the other four gave. Small images have one more sort
of candidate, in which U are the pixels of least variance over the images: the margin of centred digits, say.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

PATCH_SIZES = (8, 5, 3)
LAST_RESORT_SIZE = 2  # where a mask leaves no patch of the above
DIRECTION_SHARES = (1 / 2, 1 / 4, 1 / 8, 1 / 16)  # m / D
PATCH_SHARES = (1.0, 0.5, 0.25, 0.1, 0.05)  # q
PIXEL_SHARES = (1 / 4, 1 / 8, 1 / 16)  # m / D of a whole image's pixels
FOLDS = 5
CAUTION = 4.0  # standard errors: fewer choose noisier candidates, more choose candidates with more of the image in them

MAX_PATCHES = 60_000  # of each size
MAX_VALUES = 2**25  # of the images looked at: 128 MiB of float32
MAX_FRAME_VALUES = 3 * 32 * 32  # of an image whose pixels may serve as directions
MAX_JOINT_CHANNELS = 4  # more are taken for images of their own
WANTED_GROUPS = 64  # fewer images than this are cut into tiles of at least
MIN_TILE = 8  # pixels a side, to have groups for the folds and for the bootstrap:
MIN_GROUPS = 16  # that a candidate must have patches in
MIN_SQUARES = 500  # from so few of which sigma would have a standard error of 3.2 %

RESAMPLES = 1000
BIAS = 0.015  # of sigma, or
SMALL_PATCH_BIAS = 0.05  # where there are no 5x5 or 8x8 patches, or fewer than
MANY_PATCHES = 2000
TEXTURE = 0.01  # in sigma's units, which what is left of the image adds in quadrature: see estimate_sigma
CLIPPED_SHARE = 1e-3  # of uint8 values at 0 or 255 that is too small to matter; more, and only patches of a mean
MIDDLE = 0.5  # from -0.5 to 0.5 serve, of whose values at most
MIDDLE_CLIPPED_SHARE = 0.05  # are clipped: a share c of clipped values makes the noise's deviation about c too small
GREY_LEVEL = 1 / 127.5


@dataclass(frozen=True, kw_only=True)
class NoiseEstimate:
    """sigma in the units of images in [-1, 1], its 95 % interval, and the images and patches that it is from."""

    sigma: float
    low: float
    high: float
    num_images: int
    num_patches: int


class _Candidates(NamedTuple):
    """What each candidate measured in each group (an image, or a tile of one), out of fold."""

    energy: np.ndarray  # [G, K] sum of squares along the candidate's directions
    squares: np.ndarray  # [G, K] how many
    directions: np.ndarray  # [K] squares a patch
    overlap: np.ndarray  # [K] squares, about, that tell as much as one would if no patches overlapped
    clipped: float = 0.0  # share of the values
    bias: float = BIAS

    def variance(self) -> tuple[np.ndarray, np.ndarray]:
        """(v [K], its standard error over the groups [K]); infinite where there is too little."""
        total = self.squares.sum(0).clip(1)
        v = self.energy.sum(0) / total
        error = np.sqrt(((self.energy - v * self.squares) ** 2).sum(0)) / total
        # too little where a few groups have most of the patches; noise by itself makes so much
        error = np.maximum(error, v * np.sqrt(2 * self.overlap / total))
        few = ((self.squares > 0).sum(0) < MIN_GROUPS) | (total < MIN_SQUARES)
        return np.where(few, np.inf, v), error


def estimate_sigma(
    images: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    max_images: int = 4096,
    seed: int = 0,
) -> NoiseEstimate:
    """The standard deviation of white noise in observations, and its 95 % interval, in units of images in [-1, 1].

    images: [N, C, H, W], uint8 (u stands for u / 127.5 - 1) or float. mask: [N, 1 or C, H, W], nonzero = observed:
    patches with a pixel that is not are left out. max_images: that many are looked at, drawn by seed, which also
    decides the patches and the bootstrap over images. All images share the level. Raises ValueError where nothing can
    be measured: no wholly observed patch, too few patches or images, values that are not finite, 8-bit images clipped
    nearly everywhere.

    The interval is that of the bootstrap over images, which by itself would hold the truth in 80 % of cases, widened by
    BIAS of sigma and, downwards, by the TEXTURE that may be left of the image. Measured on crops of two photographs
    (32x32 and 64x64, colour and grey, as they are, blurred, halved; 15 to 260 crops, or one whole; sigma .05, .1, .2,
    .4; four draws of noise each, 416 in all), on digits of 8x8 (1,797; sigma .1 to .5) and on Fashion-MNIST (3,000; .05
    to .4): the largest error was 3.1 %, and 99.5 % of the intervals held the truth, more than they need. Behind masks
    that keep half of the pixels or more, at random, errors reached 7 %, for which SMALL_PATCH_BIAS widens the interval.
    Noise under .02 cannot be told from texture: at .01 the interval begins at 0, and one estimate of digits at .02 was
    35 % too large. So may others be, by up to 15 %, of fewer than 64 images as small as digits.
    """
    _check(images, mask, max_images)
    rng = np.random.default_rng(seed)
    values, observed, num_images = _choose_images(images, mask, max_images, rng)
    seen = values if observed is None else values[np.broadcast_to(observed, values.shape)]
    if not np.isfinite(seen).all():
        raise ValueError("images must be finite where they are observed, got NaN or infinity")
    clipped = float((np.abs(seen) >= 1).mean()) if images.dtype == np.uint8 and seen.size else 0.0
    values, observed = _split(values, observed)
    folds = rng.permutation(np.arange(len(values)) % FOLDS)
    estimate = _estimate(_candidates(values, observed, folds, rng), folds, num_images, rng)
    if clipped > CLIPPED_SHARE and estimate.sigma > GREY_LEVEL:
        try:
            estimate = _estimate(_candidates(values, observed, folds, rng, middle=True), folds, num_images, rng)
        except ValueError:
            raise ValueError(
                f"{clipped:.1%} of the uint8 values are 0 or 255, where noise is clipped, and too few patches are far "
                "from both; give the observations in float, not clipped"
            ) from None
    return estimate


def _check(images: np.ndarray, mask: np.ndarray | None, max_images: int) -> None:
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"images must be [N, C, H, W] and not empty, got shape {images.shape}")
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"images must be uint8 or float, got {images.dtype}")
    n, c, h, w = images.shape
    if mask is not None and mask.shape not in ((n, 1, h, w), (n, c, h, w)):
        raise ValueError(f"mask must be [N, 1 or C, H, W] like images of shape {images.shape}, got {mask.shape}")
    if max_images < 1:
        raise ValueError(f"max_images must be at least 1, got {max_images}")


def _choose_images(
    images: np.ndarray, mask: np.ndarray | None, max_images: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None, int]:
    """(float32 [n, C, H, W] with 0 where unobserved, bool [n, 1 or C, H, W] or None, n)."""
    n = min(len(images), max_images, max(1, MAX_VALUES // images[0].size))
    chosen = np.sort(rng.choice(len(images), n, replace=False))
    values = images[chosen]
    values = values.astype(np.float32) / 127.5 - 1 if images.dtype == np.uint8 else values.astype(np.float32)
    if mask is None:
        return values, None, n
    observed = mask[chosen] != 0
    if observed.all():
        return values, None, n
    return np.where(observed, values, np.float32(0)), observed, n


def _split(values: np.ndarray, observed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Channels to images of their own where a patch cannot span them; few images to tiles."""
    channels = values.shape[1]
    differ = observed is not None and bool((observed != observed[:, :1]).any())
    if channels > MAX_JOINT_CHANNELS or differ:
        if observed is not None:
            observed = np.broadcast_to(observed, values.shape).reshape(-1, 1, *values.shape[2:])
        values = values.reshape(-1, 1, *values.shape[2:])
    per_side = min(int(np.ceil(np.sqrt(WANTED_GROUPS / len(values)))), min(values.shape[2:]) // MIN_TILE)
    if per_side < 2:
        return values, observed
    return _tiles(values, per_side), None if observed is None else _tiles(observed, per_side)


def _tiles(images: np.ndarray, per_side: int) -> np.ndarray:
    n, c, height, width = images.shape
    h, w = height // per_side, width // per_side
    tiles = images[:, :, : h * per_side, : w * per_side].reshape(n, c, per_side, h, per_side, w)
    return tiles.transpose(0, 2, 4, 1, 3, 5).reshape(-1, c, h, w)


def _candidates(
    values: np.ndarray,
    observed: np.ndarray | None,
    folds: np.ndarray,
    rng: np.random.Generator,
    middle: bool = False,
) -> _Candidates:
    """values: [G, C, H, W]. observed: [G, 1 or C, H, W]. folds: [G]. middle: only patches far from black and white.

    Raises ValueError where there are too few patches.
    """
    side = min(values.shape[2:])
    if side < LAST_RESORT_SIZE:
        height, width = values.shape[2:]
        raise ValueError(f"images must be at least {LAST_RESORT_SIZE} pixels a side, got {height}x{width}")
    candidates: list[_Candidates] = []
    clipped, bias = 0.0, SMALL_PATCH_BIAS
    for size in (*PATCH_SIZES, LAST_RESORT_SIZE):
        if size > side or (size == LAST_RESORT_SIZE and candidates):
            continue
        patches, groups, overlap = _draw_patches(values, observed, size, rng)
        if middle:
            means = patches.reshape(len(patches), values.shape[1], -1).mean(2)
            inside = (np.abs(means) <= MIDDLE).all(1)
            patches, groups = patches[inside], groups[inside]
            share = float((np.abs(patches) >= 1).mean()) if len(patches) else 1.0
            if share > MIDDLE_CLIPPED_SHARE:
                continue
            clipped = max(clipped, share)
        if len(patches) >= MANY_PATCHES and size >= PATCH_SIZES[1]:
            bias = BIAS
        if len(patches) >= 2 * patches.shape[1]:
            candidates.append(_patch_candidates(patches, groups, folds, overlap))
    if not candidates:
        raise ValueError(
            f"too few patches of {LAST_RESORT_SIZE}x{LAST_RESORT_SIZE} pixels to estimate a noise level from"
            + ("" if observed is None else ", all pixels of which are observed")
        )
    # by themselves, these would take images with no still pixel for noise
    if not middle and values[0].size <= MAX_FRAME_VALUES and len(values) >= WANTED_GROUPS:
        candidates.append(_pixel_candidates(values, observed, folds))
    return _Candidates(
        np.concatenate([c.energy for c in candidates], axis=1),
        np.concatenate([c.squares for c in candidates], axis=1),
        np.concatenate([c.directions for c in candidates]),
        np.concatenate([c.overlap for c in candidates]),
        clipped,
        bias,
    )


def _draw_patches(
    values: np.ndarray, observed: np.ndarray | None, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float]:
    """(wholly observed patches [P, C size size], their groups [P], the overlap of _Candidates)."""
    windows = sliding_window_view(values, (size, size), axis=(2, 3))  # [G, C, H', W', size, size]
    positions = (len(windows), *windows.shape[2:4])
    whole = None
    if observed is not None:
        rows = sliding_window_view(observed.all(1), size, axis=1).all(-1)
        whole = np.flatnonzero(sliding_window_view(rows, size, axis=2).all(-1))
    total = int(np.prod(positions)) if whole is None else len(whole)
    drawn = np.arange(total) if total <= MAX_PATCHES else rng.choice(total, MAX_PATCHES, replace=False)
    group, row, column = np.unravel_index(drawn if whole is None else whole[drawn], positions)
    patches = windows[group, :, row, column].reshape(len(drawn), values.shape[1] * size * size)
    patches_a_pixel = len(drawn) * size**2 / (len(values) * values.shape[2] * values.shape[3])
    return patches, group, max(1.0, patches_a_pixel / 2)  # half: two that overlap are not the same


def _patch_candidates(patches: np.ndarray, groups: np.ndarray, folds: np.ndarray, overlap: float) -> _Candidates:
    """patches: [P, D]. groups: [P]. folds: [G]."""
    length = patches.shape[1]
    directions = np.unique([max(1, int(length * share)) for share in DIRECTION_SHARES])
    first_columns = (np.arange(length)[:, None] < np.append(directions, length - 1)).astype(np.float32)
    patches = patches - patches.mean(0)
    fold_of = folds[groups]
    members = [np.flatnonzero(fold_of == fold) for fold in range(FOLDS)]
    sums = [patches[i].sum(0, dtype=np.float64) for i in members]
    outers = [(patches[i].T @ patches[i]).astype(np.float64) for i in members]
    within = np.zeros((len(patches), len(directions) + 1), np.float32)  # energy along the m last, or all but the first
    for fold, inside in enumerate(members):
        others = len(patches) - len(inside)
        if others == 0 or len(inside) == 0:
            continue
        mean = (sum(sums) - sums[fold]) / others
        basis = np.linalg.eigh((sum(outers) - outers[fold]) / others - np.outer(mean, mean))[1]  # least variance first
        within[inside] = ((patches[inside] - mean.astype(np.float32)) @ basis.astype(np.float32)) ** 2 @ first_columns
    energy = np.zeros((len(folds), len(directions), len(PATCH_SHARES)))
    squares = np.zeros_like(energy)
    for j, m in enumerate(directions):
        texture = within[:, -1] - within[:, j]
        for k, bound in enumerate(np.quantile(texture, PATCH_SHARES)):
            smooth = texture <= bound
            energy[:, j, k] = np.bincount(groups[smooth], within[smooth, j], len(folds))
            squares[:, j, k] = np.bincount(groups[smooth], minlength=len(folds)) * m
    each = directions.repeat(len(PATCH_SHARES))
    return _Candidates(
        energy.reshape(len(folds), -1), squares.reshape(len(folds), -1), each, np.full(len(each), overlap)
    )


def _pixel_candidates(values: np.ndarray, observed: np.ndarray | None, folds: np.ndarray) -> _Candidates:
    """values: [G, C, H, W], 0 where unobserved. observed: [G, 1 or C, H, W]. folds: [G]."""
    groups, length = len(values), values[0].size
    directions = np.unique([max(1, int(length * share)) for share in PIXEL_SHARES])
    frames = values.reshape(groups, length).astype(np.float64)
    seen = np.ones_like(frames) if observed is None else np.broadcast_to(observed, values.shape).reshape(groups, length)
    energy, squares = np.zeros((groups, len(directions))), np.zeros((groups, len(directions)))
    for fold in range(FOLDS):
        inside, others = folds == fold, folds != fold
        times = seen[others].sum(0)
        mean = frames[others].sum(0) / times.clip(1)
        variance = (frames[others] ** 2).sum(0) / times.clip(1) - mean**2
        stillest = np.argsort(np.where(times < MIN_GROUPS, np.inf, variance), kind="stable")[: directions[-1]]
        stillest = stillest[times[stillest] >= MIN_GROUPS]
        # a mean over n frames adds 1 / n of the variance to the square of a frame's distance from it
        distances = seen[inside][:, stillest] * (frames[inside][:, stillest] - mean[stillest]) ** 2
        distances /= 1 + 1 / times[stillest]
        for j, m in enumerate(directions):
            energy[inside, j] = distances[:, :m].sum(1)
            squares[inside, j] = seen[inside][:, stillest[:m]].sum(1)
    return _Candidates(energy, squares, directions, np.ones(len(directions)))


def _estimate(candidates: _Candidates, folds: np.ndarray, num_images: int, rng: np.random.Generator) -> NoiseEstimate:
    """folds: [G]. Raises ValueError where no candidate has patches in enough groups."""
    energy, squares, patches = np.zeros(len(folds)), np.zeros(len(folds)), 0.0
    for fold in range(FOLDS):
        inside = folds == fold
        others = candidates._replace(energy=candidates.energy[~inside], squares=candidates.squares[~inside])
        v, error = others.variance()
        best = int(np.argmin(v + CAUTION * error))
        if np.isfinite(v[best]):
            energy[inside], squares[inside] = candidates.energy[inside, best], candidates.squares[inside, best]
            patches += squares[inside].sum() / candidates.directions[best]
    energy, squares = energy[squares > 0], squares[squares > 0]
    groups = len(energy)
    if groups < MIN_GROUPS:
        raise ValueError(
            f"too few images: at least {MIN_GROUPS * FOLDS // (FOLDS - 1)} with wholly observed patches are needed, "
            f"or tiles of {MIN_TILE}x{MIN_TILE} pixels of images"
        )
    sigma = np.sqrt(energy.sum() / squares.sum())
    draws = (rng.integers(groups, size=groups) for _ in range(RESAMPLES))
    resampled = [np.sqrt(energy[drawn].sum() / squares[drawn].sum()) for drawn in draws]
    below, above = np.quantile(resampled, [0.025, 0.975])
    z = 1.96
    few = 1 + (z**2 + 1) / (4 * (groups - 1))  # Student's t over the normal law, to first order
    low = sigma - np.hypot(few * (sigma - below), candidates.bias * sigma)
    high = sigma + np.hypot(few * (above - sigma), candidates.bias * sigma)
    return NoiseEstimate(
        sigma=float(sigma),
        low=float(np.sqrt(max(low, TEXTURE) ** 2 - TEXTURE**2)),
        high=float(high * (1 + candidates.clipped)),
        num_images=num_images,
        num_patches=round(patches),
    )
