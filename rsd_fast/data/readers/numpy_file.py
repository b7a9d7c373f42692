"""Arrays saved by NumPy: `.npy`, and `.npz` with optional labels. Never unpickles."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np

from .. import storage
from ..errors import DataError, first_line
from ..labels import to_labels
from ..reader import READERS, Reader
from ..rules import Contents, to_channels_first, to_mask

_IMAGE_KEYS = ("images", "x", "arr_0")  # in order of preference
_OTHER_KEYS = ("labels", "mask", "sigma_obs")
_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npy(path: Path) -> Contents:
    """Images [N, C, H, W] of any dtype; a large file is mapped."""
    try:
        # Mapping fails at once, without allocating, where the header claims more than the file holds.
        array: np.ndarray = np.lib.format.open_memmap(path, mode="r")
        if array.nbytes <= storage.MAP_BYTES:
            array = np.array(array)
    except (ValueError, EOFError, SyntaxError) as error:
        raise DataError(f"{path}: cannot be read as a plain .npy array ({first_line(error)})") from error
    return Contents(to_channels_first(array, str(path)))


def read_npz(path: Path) -> Contents:
    """Images [N, C, H, W] of any dtype, from `images`, else `x`, else `arr_0`, else the only array there is besides
    `labels`, `mask` and `sigma_obs`; and those, where they are there.

    A large array that is not compressed is mapped, and its checksum not looked at, which would take reading it.
    """
    try:
        archive = ZipFile(path)
    except BadZipFile as error:
        raise DataError(f"{path}: not an .npz archive ({first_line(error)})") from error
    with archive:
        keys = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        key = _image_key(keys, path)
        images = to_channels_first(_read_member(archive, key, path), f"{path}[{key}]")
        others = {name: _read_member(archive, name, path) for name in _OTHER_KEYS if name in keys}
    labels, mask, sigma = (others.get(name) for name in _OTHER_KEYS)
    return Contents(
        images,
        None if labels is None else to_labels(labels, len(images), f"{path}[labels]"),
        None if mask is None else to_mask(mask, images, f"{path}[mask]"),
        None if sigma is None else _to_sigma(sigma, len(images), f"{path}[sigma_obs]"),
    )


def _to_sigma(sigma: np.ndarray, count: int, where: str) -> np.ndarray:
    if sigma.shape != (count,) or sigma.dtype.kind not in "fiu":
        raise DataError(
            f"{where}: {sigma.dtype} of shape {list(sigma.shape)}; one number an image, [{count}], is wanted"
        )
    if not np.isfinite(sigma).all() or sigma.min() < 0:
        raise DataError(f"{where}: noise levels {sigma.min()} to {sigma.max()}; finite ones of at least 0 are wanted")
    return sigma.astype(np.float32)


def _image_key(keys: Sequence[str], path: Path) -> str:
    for key in _IMAGE_KEYS:
        if key in keys:
            return key
    others = [key for key in keys if key not in _OTHER_KEYS]
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
            stored = _stored(archive, f"{key}.npy", path, stream.tell())
            order: Literal["C", "F"] = "F" if fortran_order else "C"
            return storage.read_array(stream, shape, dtype, where, order=order, stored=stored)
    except DataError:
        raise
    except Exception as error:  # zipfile and the header's parser raise half a dozen kinds on damaged files
        raise DataError(f"{where}: cannot be read ({first_line(error)})") from error


def _stored(archive: ZipFile, name: str, path: Path, start: int) -> tuple[Path, int, int] | None:
    """(file, offset, bytes) of a member from its byte `start` on, where it is neither compressed nor encrypted."""
    member = archive.getinfo(name)
    if member.compress_type != ZIP_STORED or member.flag_bits & 1:
        return None
    with path.open("rb") as file:  # the local header's names have lengths of their own
        file.seek(member.header_offset + 26)
        offset = member.header_offset + 30 + sum(struct.unpack("<HH", file.read(4))) + start
    return path, offset, member.file_size - start


READERS.add("npz", Reader(about="an .npz archive", brief=".npz", read=read_npz, suffixes=(".npz",)))
READERS.add("npy", Reader(about="an .npy array", brief=".npy", read=read_npy, suffixes=(".npy",)))
