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
from .array import to_zero_one, together
from .errors import DataError, first_line

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
    found = []
    masks = set()
    for name in sorted(set(names)):
        parts = PurePosixPath(name).parts
        if any(part.startswith(".") or part == "__MACOSX" for part in parts):
            continue
        if name.lower().endswith(MASK_SUFFIX):
            masks.add(name)
        elif os.path.splitext(name)[1].lower() in _extensions():
            found.append(name)
    if not found:
        raise DataError(f"{where}: holds no image (.png, .jpg, .webp, .tif, .bmp, ...)")
    if not masks:
        return found, []
    of_image = [os.path.splitext(name)[0] + MASK_SUFFIX for name in found]
    for name, mask in zip(found, of_image, strict=True):
        if mask not in masks:
            raise DataError(f"{where}/{name}: has no mask {mask}, as others have")
    orphan = sorted(masks - set(of_image))
    if orphan:
        raise DataError(f"{where}/{orphan[0]}: a mask without an image")
    return found, of_image


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
                return _pixels(image)
        except DataError as error:
            raise DataError(f"{where}/{name}: {error}") from error
        except Image.UnidentifiedImageError as error:
            raise DataError(f"{where}/{name}: not an image that Pillow can read") from error
        except Exception as error:  # on malformed files Pillow's plugins raise nearly anything
            raise DataError(f"{where}/{name}: cannot be decoded ({first_line(error)})") from error

    first, _ = decode(names[0])
    height, width, channels = first.shape
    dtype = np.uint8 if first.dtype == np.uint8 else np.float32
    images = storage.allocate((len(names), channels, height, width), dtype, where)
    missing = storage.allocate((len(names), 1, height, width), np.uint8, where)
    hidden = False

    def fill(start: int) -> None:
        for index in range(start, min(start + _CHUNK, len(names))):
            nonlocal hidden
            pixels, alpha = decode(names[index])
            if pixels.shape != first.shape or pixels.dtype != first.dtype:
                difference = _difference(pixels, first, f"{where}/{names[0]}")
                raise DataError(f"{where}/{names[index]}: {difference}")
            images[index] = pixels.transpose(2, 0, 1)
            if alpha is not None:
                missing[index, 0], hidden = 1 - alpha, True
            if dtype == np.float32:
                images[index] = images[index] / 32767.5 - 1

    with ThreadPoolExecutor(worker_count(first.nbytes)) as pool:
        for _ in pool.map(fill, range(0, len(names), _CHUNK)):
            pass  # in order, so that of several bad files the first is reported
    if not masks:
        return images, np.subtract(1, missing, out=missing) if hidden else None
    if hidden:
        raise DataError(f"{where}/{masks[0]}: a mask of images that have transparent pixels, too; one kind is wanted")
    read, _ = read_images(masks, [], load, where)
    for name, image in zip(masks, read, strict=True):
        if image.shape[0] not in (1, channels) or image.shape[1:] != (height, width):
            found = f"{image.shape[2]}x{image.shape[1]}, {image.shape[0]} channels"
            raise DataError(f"{where}/{name}: a mask of {found}, for images of {width}x{height}, {channels} channels")
    mask = storage.allocate(read.shape, np.uint8, where)
    for index, name in enumerate(masks):
        mask[index] = to_zero_one(read[index], f"{where}/{name}")
    return images, together(mask)


def _pixels(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """[H, W, 1 or 3] uint8, or uint16 [H, W, 1]; and [H, W] uint8, 1 where opaque, None where all is. Its errors lack
    the file's name."""
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
    wanted = "L" if grey else "RGB"
    pixels = np.asarray(image if image.mode == wanted else image.convert(wanted))
    return pixels.reshape(*pixels.shape[:2], -1), opaque


def _difference(pixels: np.ndarray, first: np.ndarray, first_name: str) -> str:
    def size(array: np.ndarray) -> str:
        return f"{array.shape[1]}x{array.shape[0]}"

    def kind(array: np.ndarray) -> str:
        colour = "grey" if array.shape[2] == 1 else "colour"
        return colour if array.dtype == np.uint8 else f"{colour} of 16 bits"

    if pixels.shape[:2] != first.shape[:2]:
        return (
            f"{size(pixels)}, but the first image ({first_name}) is {size(first)}; "
            "all images of a data set must have one size: crop or resize them"
        )
    return (
        f"{kind(pixels)}, but the first image ({first_name}) is {kind(first)}; "
        "all images of a data set must be of one kind: convert them"
    )
