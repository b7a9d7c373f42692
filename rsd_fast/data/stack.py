"""Images of one size and one kind that come one by one, in one array."""

import numpy as np

from . import storage
from .errors import DataError


class ImageStack:
    """Room for `count` images like the first, which several threads may fill in.

    first: pixels [H, W, C] of the first image, uint8, uint16 (0 stands for -1, 65535 for 1) or floating-point;
    first_name: the image in errors; where: the source in errors. `images` is [N, C, H, W], uint8 or float32.
    """

    def __init__(self, count: int, first: np.ndarray, first_name: str, where: str) -> None:
        height, width, channels = first.shape
        dtype = np.uint8 if first.dtype == np.uint8 else np.float32
        self.images = storage.allocate((count, channels, height, width), dtype, where)
        self._missing = storage.allocate((count, 1, height, width), np.uint8, where)
        self._is_masked = False
        self._first, self._first_name = first, first_name

    def put(self, index: int, pixels: np.ndarray, opaque: np.ndarray | None, name: str) -> None:
        """Image number `index`: its pixels [H, W, C], and [H, W] uint8, 1 where opaque, or None where all of it is.

        DataError, which begins with `name`, for an image of another size or kind than the first.
        """
        if pixels.shape != self._first.shape or pixels.dtype != self._first.dtype:
            raise DataError(f"{name}: {_difference(pixels, self._first, self._first_name)}")
        self.images[index] = pixels.transpose(2, 0, 1)
        if pixels.dtype == np.uint16:
            self.images[index] = self.images[index] / 32767.5 - 1
        if opaque is not None:
            self._missing[index, 0], self._is_masked = 1 - opaque, True

    def mask(self) -> np.ndarray | None:
        """uint8 [N, 1, H, W], 1 where an image is opaque; None where all images are everywhere. To be asked once."""
        return np.subtract(1, self._missing, out=self._missing) if self._is_masked else None


def _difference(pixels: np.ndarray, first: np.ndarray, first_name: str) -> str:
    if pixels.shape[:2] != first.shape[:2]:
        return (
            f"{_size(pixels)}, but the first image ({first_name}) is {_size(first)}; "
            "all images of a data set must have one size: crop or resize them"
        )
    return (
        f"{_kind(pixels)}, but the first image ({first_name}) is {_kind(first)}; "
        "all images of a data set must be of one kind: convert them"
    )


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def _kind(pixels: np.ndarray) -> str:
    channels = pixels.shape[2]
    colour = {1: "grey", 3: "colour"}.get(channels, f"of {channels} channels")
    depth = {"uint8": "", "uint16": " of 16 bits"}.get(pixels.dtype.name, f" in {pixels.dtype.name}")
    return colour + depth
