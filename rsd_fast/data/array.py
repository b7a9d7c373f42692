"""A data set as arrays, and the rules by which an array of unknown origin becomes one."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rsd_fast import corruptions

from . import storage
from .errors import DataError

RANGE_TOLERANCE = 1e-3
CHANNEL_COUNTS = range(1, 5)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageArray:
    """All images of a source, in the order that gives each its permanent index, in memory or mapped (`storage`).

    images: [N, C, H, W] uint8, or float32 in [-1, 1] (observations: beyond that by their noise); or k-space, float32
            [N, 2 coils, H, W] as `corruptions.Fourier` observes it
    labels: [N] int64 class indices, or None
    name:   short, for pictures and logs
    mask:   uint8, 1 where observed: pixels [N, 1 or C, H, W], or of k-space columns [N, 1, 1, W]; None: all of it
    maps:   coil sensitivities of k-space, complex64 [N or 1, coils, H, W], or None
    sigma:  float32 [N], the noise level of each image, or None where the source does not say
    kspace: images are k-space
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    name: str
    mask: np.ndarray | None = None
    maps: np.ndarray | None = None
    sigma: np.ndarray | None = None
    kspace: bool = False

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype not in (np.uint8, np.float32):
            raise ValueError(
                f"images: uint8 or float32 [N, C, H, W] is wanted, not {self.images.dtype} {list(self.images.shape)}"
            )
        for name, array in (("mask", self.mask), ("sigma", self.sigma)):
            if array is not None and len(array) != len(self.images):
                raise ValueError(f"{name}: one an image is wanted, {len(self.images)}, not {len(array)}")
        if self.labels is not None and self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels: shape [{len(self.images)}] is wanted, one an image, not {list(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    @property
    def label_dim(self) -> int:
        """Number of classes, the largest label plus one; 0 without labels."""
        return 0 if self.labels is None else int(self.labels.max()) + 1

    def pixels(self, indices: Tensor | np.ndarray | Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """Images [B, C, H, W] as they are stored, uint8 or float32, at `indices` [B], in memory of their own."""
        rows = np.asarray(indices.cpu() if isinstance(indices, Tensor) else indices, dtype=np.int64)
        images = storage.empty_rows(self.images, len(rows))
        storage.take(self.images, storage.row_numbers(rows, len(self)), images)
        return images.to(device)

    def tensor(self, indices: Tensor | np.ndarray | Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """`pixels` as float32 in [-1, 1].

        The bits of an image depend neither on the batch it is read in nor on the device.
        """
        images = self.pixels(indices, device)
        index = torch.zeros(len(images), dtype=torch.int64, device=device)  # of no noise
        return corruptions.observe(corruptions.Identity(), images, index=index, sigma_obs=0.0, seed=0)


class Read(NamedTuple):
    """What a reader finds in a file, with the meaning it has for `ImageArray`; images of any dtype."""

    images: np.ndarray
    labels: np.ndarray | None = None
    mask: np.ndarray | None = None
    sigma: np.ndarray | None = None


def to_channels_first(array: np.ndarray, where: str) -> np.ndarray:
    """[N, H, W], [N, H, W, C] or [N, C, H, W] as [N, C, H, W], a view; `where` names the file in errors.

    The channel axis is the one of length 1 to 4. Where both axis 1 and the last are that short, the array is
    taken as [N, C, H, W], the order in which this library writes.
    """
    shape = list(array.shape)
    if array.ndim not in (3, 4):
        raise DataError(f"{where}: shape {shape}; [N, H, W], [N, H, W, C] or [N, C, H, W] is wanted")
    if array.ndim == 3:
        array = array[:, None]
    elif shape[1] not in CHANNEL_COUNTS and shape[3] in CHANNEL_COUNTS:
        array = np.moveaxis(array, 3, 1)
    if 0 in shape:
        raise DataError(f"{where}: shape {shape} holds no {'image' if shape[0] == 0 else 'pixel'}")
    if array.shape[1] not in CHANNEL_COUNTS:
        raise DataError(f"{where}: shape {shape} has no axis of 1 to 4 channels, second or last")
    return array


def to_mask(mask: np.ndarray, images: np.ndarray, where: str) -> np.ndarray:
    """`mask` of images [N, C, H, W] as uint8 [N, 1 or C, H, W], 1 where observed; `where` names its file in errors.

    It is [N, H, W], [N, 1 or C, H, W] or [N, H, W, 1 or C], of 0 and another number.
    """
    shape = list(mask.shape)
    if mask.ndim == 4 and mask.shape[1:3] == images.shape[2:] and mask.shape[3] in (1, images.shape[1]):
        mask = np.moveaxis(mask, 3, 1)
    elif mask.ndim == 3:
        mask = mask[:, None]
    if mask.ndim != 4 or len(mask) != len(images) or mask.shape[2:] != images.shape[2:]:
        raise DataError(f"{where}: mask of shape {shape} for images of {list(images.shape)}; one an image, of its size")
    if mask.shape[1] not in (1, images.shape[1]):
        raise DataError(f"{where}: mask of shape {shape} for images of {images.shape[1]} channels; 1 or as many")
    return together(to_zero_one(mask, where))


def together(mask: np.ndarray) -> np.ndarray:
    """A mask [N, C, H, W] with one channel for all, where they are alike."""
    alike = mask.shape[1] > 1 and all((mask[i] == mask[i, :1]).all() for i in storage.blocks(mask))
    return mask[:, :1] if alike else mask


def to_zero_one(mask: np.ndarray, where: str) -> np.ndarray:
    """A mask of any shape as uint8 of 0 and 1; it must hold 0 and at most one other number."""
    if mask.dtype.kind not in "buif":
        raise DataError(f"{where}: mask of dtype {mask.dtype}; 0 where a pixel is missing, 1 where not, is wanted")
    highest = mask.max(initial=0)
    every = list(storage.blocks(mask))
    if not all(((mask[i] == 0) | (mask[i] == highest)).all() for i in every) or highest < 0:
        raise DataError(f"{where}: a mask of more than two values; 0 where a pixel is missing, 1 where not, is wanted")
    if mask.dtype == bool or (mask.dtype == np.uint8 and highest <= 1):
        return storage.settle(mask, where).view(np.uint8)
    found = storage.allocate(mask.shape, np.uint8, where)
    for i in every:
        found[i] = mask[i] != 0
    return found


def to_pixels(array: np.ndarray, where: str, limit: float, mask: np.ndarray | None = None) -> np.ndarray:
    """`array` [N, C, H, W] as uint8 or float32 whose rows can be taken as they lie (`storage.settle`).

    Floats are checked to lie within -limit .. limit where `mask` [N, 1 or C, H, W] is not 0, and are 0 elsewhere,
    whatever stands there, NaN perhaps. A mapped array that holds all this already stays where it is; of uint8 it is not
    even read.
    """
    if array.dtype == np.uint8:
        return storage.settle(array, where)
    if array.dtype.kind == "c":
        raise DataError(f"{where}: complex numbers; give images as 2 channels, the real and the imaginary part")
    if array.dtype.kind != "f":
        raise DataError(f"{where}: dtype {array.dtype}; uint8, or float in [-1, 1], is wanted")
    as_wanted = array.dtype == np.float32 and mask is None
    found = array if as_wanted else storage.allocate(array.shape, np.float32, where)
    low, high = np.inf, -np.inf
    for block in storage.blocks(array):
        values = array[block] if mask is None else np.where(mask[block], array[block], 0)
        least, most = float(values.min()), float(values.max())  # NaN if there is one anywhere
        if not np.isfinite([least, most]).all():
            index = next(i for i, image in enumerate(values, block.start) if not np.isfinite(image).all())
            raise DataError(f"{where}: image {index} holds NaN or infinity")
        low, high = min(low, least), max(high, most)
        if not as_wanted and max(-low, high) <= limit + RANGE_TOLERANCE:
            found[block] = values
    if max(-low, high) > limit + RANGE_TOLERANCE:
        why = "" if limit == 1 else " (1 + 10 sigma_obs)"
        hint = "; store 0..255 as uint8, or divide it by 127.5 and subtract 1" if low >= 0 else ""
        raise DataError(f"{where}: values {low:.4g} to {high:.4g}, outside [-{limit:g}, {limit:g}]{why}{hint}")
    if low >= 0 and high > 0.5:
        warnings.warn(
            f"{where}: no value is negative, so these images may lie in [0, 1]; they are read as [-1, 1]",
            stacklevel=3,
        )
    return storage.settle(found, where)
