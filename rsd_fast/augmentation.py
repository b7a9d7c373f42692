r"""Non-leaking augmentation of training images: flips and one affine map, whose parameters the network is told.

The pipeline is that of Karras, Aittala, Aila and Laine, "Elucidating the design space of diffusion-based
generative models" (arXiv 2206.00364, appendix F.2), without colour. With x to the right and y down, in pixels
from the image's centre, the flipped content moves from z to

    z' = A R S z + t,    S = 2^(.2 scale),    t = .125 (W shift_x, H shift_y),

    R = [ cos theta   sin theta]    A = cosh a + sinh a [ cos 2r  -sin 2r]    a = .2 ln 2 anisotropy,
        [-sin theta   cos theta],                       [-sin 2r  -cos 2r],   theta = rotation, r = axis.

So scale > 0 enlarges; theta > 0 turns counter-clockwise as seen on the screen; A stretches by e^a along the axis
at r, counter-clockwise from the x axis, and by e^-a across it; shift_x > 0 moves right, shift_y > 0 down.

Outside the image lies its mirror image, the edge's pixels not repeated ("reflect"). The image is brought onto a
grid twice as fine, v = U f, read there at the mapped places (bilinearly), and brought back, D v. Both filters are
symmetric about a pixel, so that the fine grid too is mirrored at the edge's pixels and turned into itself by a
quarter turn; and they are biorthogonal,

    2 sum_n u[n] d[n - 2k] = 1 where k = 0, else 0,

so that D U = 1: quarter turns of a square and shifts by whole pixels are exact to rounding, and the flips, which
only move pixels, exact. (Save Haar's, no symmetric filter is orthogonal to its own shifts: one for both ways would not
do.) The taps are fitted by least squares to |sym6|, the response of the 12-tap symlet, among all pairs of 9 and 15
taps that are biorthogonal and pass a constant unchanged; they stay within 3 and 1.2 % of it.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from . import ops
from .ops.philox import integers

LABELS = 9

# The taps at 0, 1, ... nodes of the fine grid; those at -1, -2, ... are the same.
_UP = (0.5616081889034532, 0.295923867423464, -0.05094580158192176, -0.045923867423463965, 0.02014170713019522)
_DOWN = (
    0.5621982232686582,
    0.2937792037452003,
    -0.05020186509930783,
    -0.04802052292255363,
    0.021512401223792457,
    0.005298164390267007,
    -0.0024096477588136924,
    -0.0010568452129136267,
)
_MARGIN = len(_DOWN) - 1
_SMALLEST = 3  # pixels a side: the taps of _UP reach two past the edge, and the mirror image has no more to give


@dataclass(frozen=True)
class Transform:
    """The factors of each image's augmentation, float32 [B]; all 0 leave the image alone."""

    xflip: Tensor  # 1 where mirrored left to right, else 0
    yflip: Tensor  # 1 where mirrored upside down, else 0
    scale: Tensor
    rotation: Tensor  # radians
    anisotropy: Tensor
    axis: Tensor  # radians
    shift_x: Tensor
    shift_y: Tensor


def draw(p: float, *, seed: int, sample: Tensor, step: int | Tensor) -> Transform:
    """Random factors for the images ``sample``, int32 or int64 [B], each a function of (seed, sample, step) alone.

    The left-right flip is a fair coin. With probability 0 <= p <= 1 each: the upside-down flip becomes a fair coin;
    scale is N(0, 1); rotation is U(-pi, pi); anisotropy is N(0, 1), and its axis U(-pi, pi) half of the time; both
    shifts are N(0, 1). Raises ValueError for another p, and as ``ops.uniform`` does.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p: expected a probability, 0 <= p <= 1, got {p}")
    sample, step = integers(sample=sample, step=step)
    counter = (seed, sample, step, ops.Stream.AUGMENTATION)
    # Ten uniforms take the words of blocks 0, 1 and 2; the four normals must have one to themselves, and are block 3.
    uniform = ops.uniform((*sample.shape, 10), *counter).unbind(1)
    scale, anisotropy, shift_x, shift_y = ops.randn((*sample.shape, 16), *counter)[:, 12:].unbind(1)
    rotation, axis = (((2 * u - 1) * torch.pi).to(torch.float32) for u in uniform[:2])
    xflip, yflip, off_axis = (u < 0.5 for u in uniform[2:5])
    flipping, scaling, rotating, stretching, shifting = (u < p for u in uniform[5:])
    return Transform(
        xflip=xflip.to(torch.float32),
        yflip=(yflip & flipping).to(torch.float32),
        scale=torch.where(scaling, scale, 0.0),
        rotation=torch.where(rotating, rotation, 0.0),
        anisotropy=torch.where(stretching, anisotropy, 0.0),
        axis=torch.where(stretching & off_axis, axis, 0.0),
        shift_x=torch.where(shifting, shift_x, 0.0),
        shift_y=torch.where(shifting, shift_y, 0.0),
    )


def labels(transform: Transform) -> Tensor:
    """What the network is told, float32 [B, 9]: xflip, yflip, scale, cos(theta) - 1, sin(theta), anisotropy cos(r),
    anisotropy sin(r), shift_x, shift_y; all 0 where the image was left alone."""
    t = transform
    turn = (t.rotation.cos() - 1, t.rotation.sin())
    stretch = (t.anisotropy * t.axis.cos(), t.anisotropy * t.axis.sin())
    return torch.stack((t.xflip, t.yflip, t.scale, *turn, *stretch, t.shift_x, t.shift_y), dim=1)


@torch.no_grad()
def apply(images: Tensor, transform: Transform) -> Tensor:
    """The augmented images, [B, C, H, W] with the dtype and memory format of ``images``.

    Floating point, H and W at least 3; below float32 it is computed in float32. An image whose map is the identity
    comes back bit for bit. Nothing waits for the device. Raises TypeError for another dtype, ValueError for another
    shape or a transform of another batch or device.
    """
    _check(images, **vars(transform))
    flipped = torch.where(_each(transform.xflip) > 0, images.flip(3), images)
    flipped = torch.where(_each(transform.yflip) > 0, flipped.flip(2), flipped)
    source = _source(transform, images.shape[-1], images.shape[-2])
    still = (source == torch.eye(2, 3, dtype=source.dtype, device=source.device)).flatten(1).all(1)
    result = torch.where(_each(still), flipped, _resample(flipped, source).to(images.dtype))
    return torch.empty_like(images).copy_(result)  # empty_like keeps the memory format, which the steps above may not


def augment(images: Tensor, p: float, *, seed: int, sample: Tensor, step: int | Tensor) -> tuple[Tensor, Tensor]:
    """(augmented images, labels [B, 9]): ``draw``, ``apply`` and ``labels`` in one, and their errors."""
    transform = draw(p, seed=seed, sample=sample, step=step)
    _check(images, sample=sample)
    return apply(images, transform), labels(transform)


def _check(images: Tensor, **each: Tensor) -> None:
    if not images.is_floating_point():
        raise TypeError(f"images: expected a floating-point dtype, got {images.dtype}")
    if images.ndim != 4 or min(images.shape[2:]) < _SMALLEST:
        expected = f"[B, C, H, W] with H and W at least {_SMALLEST}"
        raise ValueError(f"images: expected {expected}, got {tuple(images.shape)}")
    for name, value in each.items():
        if value.shape != images.shape[:1] or value.device != images.device:
            got = f"{tuple(value.shape)} on {value.device}"
            raise ValueError(f"{name}: expected shape ({images.shape[0]},) on {images.device}, as of images, got {got}")


def _each(factor: Tensor) -> Tensor:
    return factor[:, None, None, None]


def _source(transform: Transform, width: int, height: int) -> Tensor:
    """[M, -M t] with M = S^-1 R^-1 A^-1, which finds where a place's content comes from: float64 [B, 2, 3].

    R^-1 times the second matrix of A is the same with 2r - theta for 2r. Neutral factors give [1, 0], exactly.
    """
    t = {name: factor.to(torch.float64) for name, factor in vars(transform).items()}
    a, theta = 0.2 * math.log(2) * t["anisotropy"], t["rotation"]
    mirror = 2 * t["axis"] - theta
    shrink = torch.exp2(-0.2 * t["scale"])
    cosh, sinh = shrink * a.cosh(), shrink * a.sinh()
    xx, xy = cosh * theta.cos() - sinh * mirror.cos(), sinh * mirror.sin() - cosh * theta.sin()
    yx, yy = cosh * theta.sin() + sinh * mirror.sin(), cosh * theta.cos() + sinh * mirror.cos()
    right, down = 0.125 * width * t["shift_x"], 0.125 * height * t["shift_y"]
    rows = (xx, xy, -xx * right - xy * down, yx, yy, -yx * right - yy * down)
    return torch.stack(rows, dim=1).unflatten(1, (2, 3))


def _resample(images: Tensor, source: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    fine = _up(_up(F.pad(images, (2, 2, 2, 2), mode="reflect"), 3), 2)
    # Counted in nodes from the centre, the image reaches from 1 - size to size - 1, which grid_sample calls -1 and 1.
    x, y = (
        torch.arange(1 - size - _MARGIN, size + _MARGIN, dtype=images.dtype, device=images.device)
        for size in (width, height)
    )
    places = []
    for row, size in zip(source.to(images.dtype)[..., None, None].unbind(1), (width, height), strict=True):
        of_x, of_y, offset = row.unbind(1)
        places.append((of_x * x + of_y * y[:, None] + 2 * offset) / (size - 1))
    grid = torch.stack(places, dim=-1)
    moved = F.grid_sample(fine, grid, mode="bilinear", padding_mode="reflection", align_corners=True)
    return _down(_down(moved.mT).mT)


# The filters are sums of slices: a convolution or a product of matrices would be rounded to TF32 where that is allowed,
# and fetch the taps from the host.


def _up(x: Tensor, dim: int) -> Tensor:
    """From n pixels with two more on either side to the 2n - 1 nodes on and between them."""
    n = x.shape[dim] - 4
    u0, u1, u2, u3, u4 = (2 * tap for tap in _UP)
    a, b, c, d, e = (x.narrow(dim, k, n) for k in range(5))
    on = (u0 * c).add_(b + d, alpha=u2).add_(a + e, alpha=u4)
    between = (u1 * (c + d)).add_(b + e, alpha=u3)
    return torch.stack((on, between), dim=dim + 1).flatten(dim, dim + 1).narrow(dim, 0, 2 * n - 1)


def _down(x: Tensor) -> Tensor:
    """Along the last axis, from 2n - 1 nodes with _MARGIN more on either side to n pixels."""
    end = x.shape[-1] - _MARGIN
    total = _DOWN[0] * x[..., _MARGIN:end:2]
    for k, tap in enumerate(_DOWN[1:], start=1):
        for first, last in ((_MARGIN - k, end - k), (_MARGIN + k, end + k)):
            total.add_(x[..., first:last:2], alpha=tap)
    return total
