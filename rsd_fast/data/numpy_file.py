"""Arrays saved by NumPy: `.npy`, and `.npz` with optional labels. Never unpickles."""

import math
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np

from .array import to_channels_first
from .errors import DataError, first_line
from .labels import to_labels
from .stream import read_exactly

_IMAGE_KEYS = ("images", "x", "arr_0")  # in order of preference
_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npy(path: Path) -> tuple[np.ndarray, None]:
    """Images [N, C, H, W] of any dtype."""
    try:
        # Mapping fails at once, without allocating, where the header claims more than the file holds.
        array = np.array(np.lib.format.open_memmap(path, mode="r"))
    except (ValueError, EOFError, SyntaxError) as error:
        raise DataError(f"{path}: cannot be read as a plain .npy array ({first_line(error)})") from error
    return to_channels_first(array, str(path)), None


def read_npz(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Images [N, C, H, W] of any dtype, from `images`, else `x`, else `arr_0`, else the only array there is
    besides `labels`; and those labels [N] or None."""
    try:
        archive = ZipFile(path)
    except BadZipFile as error:
        raise DataError(f"{path}: not an .npz archive ({first_line(error)})") from error
    with archive:
        keys = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        if "mask" in keys:
            raise DataError(f"{path}: holds `mask`; masks are not supported yet")
        key = _image_key(keys, path)
        images = to_channels_first(_read_member(archive, key, path), f"{path}[{key}]")
        if "labels" not in keys:
            return images, None
        return images, to_labels(_read_member(archive, "labels", path), len(images), f"{path}[labels]")


def _image_key(keys: Sequence[str], path: Path) -> str:
    for key in _IMAGE_KEYS:
        if key in keys:
            return key
    others = [key for key in keys if key != "labels"]
    if len(others) != 1:
        raise DataError(f"{path}: no array `images`; it holds {', '.join(keys) or 'no array'}")
    return others[0]


def _read_member(archive: ZipFile, key: str, path: Path) -> np.ndarray:
    where = f"{path}[{key}]"
    try:
        with archive.open(f"{key}.npy") as stream:
            version = np.lib.format.read_magic(stream)
            if version not in _HEADER_READERS:
                raise DataError(f"{where}: .npy format {version} is not read")
            shape, fortran_order, dtype = _HEADER_READERS[version](stream)
            if dtype.hasobject:
                raise DataError(f"{where}: dtype {dtype}; Python objects are not read")
            data = read_exactly(stream, math.prod(shape) * dtype.itemsize, where)
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran_order else "C")
    except DataError:
        raise
    except Exception as error:  # zipfile and the header's parser raise half a dozen kinds on damaged files
        raise DataError(f"{where}: cannot be read ({first_line(error)})") from error
