"""Image files of one size and one kind, by whatever Pillow plugin, to one array; decoded in threads."""

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from io import BytesIO
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from . import storage
from .errors import DataError, first_line
from .rules import to_zero_one, together
from .stack import ImageStack

# Stubs that decode nothing, and vector formats that call an outside program or the operating system.
_REFUSED_FORMATS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_CHUNK = 128  # images a task: one by one, the queue costs as much as decoding small images


@cache
def _formats() -> tuple[str, ...]:
    """Pillow's format names, the two usual ones first because they are tried in order."""
    Image.init()
    usual = ("PNG", "JPEG")
    return usual + tuple(sorted(set(Image.OPEN) - _REFUSED_FORMATS - set(usual)))


@cache
def _extensions() -> frozenset[str]:
    known = Image.registered_extensions()
    return frozenset(extension for extension, name in known.items() if name in _formats())


def worker_count(image_bytes: int) -> int:
    """Threads worth having for images of so many bytes of pixels.

    Pillow holds the interpreter's lock for about the time that 8 KB take to decode without it: on smaller
    images threads only wait for each other, and two are slower than one.
    """
    return min(os.cpu_count() or 1, 1 + image_bytes // 8192)


MASK_SUFFIX = ".mask.png"


def image_names(names: Sequence[str], where: str) -> tuple[list[str], list[str]]:
    """(images, masks): those of `names` (relative, with '/') that are images by their extension, sorted: the order of
    indices; and the mask of each, image.mask.png beside image.EXT, or none at all.

    Hidden files and folders, and those a Mac adds to archives, are left out.
    """
    images, masks = [], set()
    for name in sorted(set(names)):
        parts = PurePosixPath(name).parts
        if any(part.startswith(".") or part == "__MACOSX" for part in parts):
            continue
        if name.lower().endswith(MASK_SUFFIX):
            masks.add(name)
        elif os.path.splitext(name)[1].lower() in _extensions():
            images.append(name)
    if not images:
        raise DataError(f"{where}: holds no image (.png, .jpg, .webp, .tif, .bmp, ...)")
    if not masks:
        return images, []
    mask_of_each = [os.path.splitext(name)[0] + MASK_SUFFIX for name in images]
    for name, mask in zip(images, mask_of_each, strict=True):
        if mask not in masks:
            raise DataError(f"{where}/{name}: has no mask {mask}, as others have")
    orphan = sorted(masks - set(mask_of_each))
    if orphan:
        raise DataError(f"{where}/{orphan[0]}: a mask without an image")
    return images, mask_of_each


def read_images(
    names: Sequence[str], masks: Sequence[str], load: Callable[[str], str | BytesIO], where: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """(images, mask): [N, C, H, W] uint8, or float32 in [-1, 1] for images of 16 bits, C 1 (grey) or 3; and uint8
    [N, 1 or C, H, W], 1 where observed, from files `masks` or the images' alpha channels, None where neither hides
    anything.

    `load` gives a path or the bytes of a name; an error names the file as `where`/name.
    """

    def decode(name: str) -> tuple[np.ndarray, np.ndarray | None]:
        try:
            with Image.open(load(name), formats=_formats()) as image:
                return pixels_of(image)
        except DataError as error:
            raise DataError(f"{where}/{name}: {error}") from error
        except Image.UnidentifiedImageError as error:
            raise DataError(f"{where}/{name}: not an image that Pillow can read") from error
        except Exception as error:  # on malformed files Pillow's plugins raise nearly anything
            raise DataError(f"{where}/{name}: cannot be decoded ({first_line(error)})") from error

    first, _ = decode(names[0])
    stack = ImageStack(len(names), first, f"{where}/{names[0]}", where)

    def fill(start: int) -> None:
        for index in range(start, min(start + _CHUNK, len(names))):
            stack.put(index, *decode(names[index]), f"{where}/{names[index]}")

    with ThreadPoolExecutor(worker_count(first.nbytes)) as pool:
        for _ in pool.map(fill, range(0, len(names), _CHUNK)):
            pass  # in order, so that of several bad files the first is reported
    transparency = stack.mask()
    if not masks:
        return stack.images, transparency
    if transparency is not None:
        raise DataError(f"{where}/{masks[0]}: a mask of images that have transparent pixels, too; one kind is wanted")
    mask_images, _ = read_images(masks, [], load, where)
    return stack.images, _to_mask(mask_images, stack.images.shape[1:], [f"{where}/{name}" for name in masks], where)


def _to_mask(images: np.ndarray, shape: tuple[int, ...], names: Sequence[str], where: str) -> np.ndarray:
    """Images of masks, one for each image of `shape` (C, H, W), as uint8 [N, 1 or C, H, W] of 0 and 1."""
    channels, height, width = shape
    mask_channels, mask_height, mask_width = images.shape[1:]
    if mask_channels not in (1, channels) or (mask_height, mask_width) != (height, width):
        size = f"{mask_width}x{mask_height}, {mask_channels} channels"
        raise DataError(f"{names[0]}: a mask of {size}, for images of {width}x{height}, {channels} channels")
    mask = storage.allocate(images.shape, np.uint8, where)
    for index, name in enumerate(names):
        mask[index] = to_zero_one(images[index], name)
    return together(mask)


def pixels_of(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """[H, W, 1 or 3] uint8, or uint16 [H, W, 1]; and [H, W] uint8, 1 where opaque, None where all is.

    The errors lack the image's name.
    """
    # Cameras put a preview beside the picture (MPO); other files with several frames are no single image.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise DataError("holds several frames; one image a file is wanted")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return np.asarray(image).astype(np.uint16)[:, :, None], None
    if image.mode in ("I", "F"):
        raise DataError("32 bits a pixel; 8 or 16 are wanted (floats in [-1, 1] may come as .npy)")
    if any(re.search(r";16[BLN]", str(tile[3])) for tile in getattr(image, "tile", ())):
        raise DataError("16 bits a channel in colour, which Pillow cuts to 8; convert it to 8 bits")
    grey = image.mode in ("1", "L", "LA", "La")
    opaque = None
    if image.has_transparency_data:
        image = image.convert("LA" if grey else "RGBA")
        alpha = np.asarray(image)[:, :, -1]
        if ((alpha > 0) & (alpha < 255)).any():
            raise DataError("has half-transparent pixels; a mask is either there, 255, or not, 0")
        if alpha.min() == 0:
            opaque = (alpha == 255).astype(np.uint8)
    mode = "L" if grey else "RGB"
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels.reshape(*pixels.shape[:2], -1), opaque
