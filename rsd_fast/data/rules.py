"""The rules by which an array of unknown origin becomes images, or their mask."""

import warnings
from typing import NamedTuple

import numpy as np

from . import storage
from .errors import DataError

RANGE_TOLERANCE = 1e-3
CHANNEL_COUNTS = range(1, 5)


class Contents(NamedTuple):
    """What a reader finds in a source, with the meaning it has for `ImageArray`; images of any dtype."""

    images: np.ndarray
    labels: np.ndarray | None = None
    mask: np.ndarray | None = None
    sigma: np.ndarray | None = None
    maps: np.ndarray | None = None
    kspace: bool = False


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
    zero_one = storage.allocate(mask.shape, np.uint8, where)
    for i in every:
        zero_one[i] = mask[i] != 0
    return zero_one


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
    is_ready = array.dtype == np.float32 and mask is None
    pixels = array if is_ready else storage.allocate(array.shape, np.float32, where)
    low, high = np.inf, -np.inf
    for block in storage.blocks(array):
        values = array[block] if mask is None else np.where(mask[block], array[block], 0)
        least, most = float(values.min()), float(values.max())  # NaN if there is one anywhere
        if not np.isfinite([least, most]).all():
            index = next(i for i, image in enumerate(values, block.start) if not np.isfinite(image).all())
            raise DataError(f"{where}: image {index} holds NaN or infinity")
        low, high = min(low, least), max(high, most)
        if not is_ready and max(-low, high) <= limit + RANGE_TOLERANCE:
            pixels[block] = values
    if max(-low, high) > limit + RANGE_TOLERANCE:
        why = "" if limit == 1 else " (1 + 10 sigma_obs)"
        hint = "; store 0..255 as uint8, or divide it by 127.5 and subtract 1" if low >= 0 else ""
        raise DataError(f"{where}: values {low:.4g} to {high:.4g}, outside [-{limit:g}, {limit:g}]{why}{hint}")
    if low >= 0 and high > 0.5:
        warnings.warn(
            f"{where}: no value is negative, so these images may lie in [0, 1]; they are read as [-1, 1]",
            stacklevel=3,
        )
    return storage.settle(pixels, where)
