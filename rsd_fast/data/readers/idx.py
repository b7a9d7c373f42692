"""MNIST-style idx files, `*-idx3-ubyte` and `*-idx3-ubyte.gz`.

A file is two zero bytes, the type (8 for unsigned bytes), the number of dimensions, each dimension as a
big-endian 32-bit integer, and the values.
"""

import gzip
import re
import struct
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np

from .. import storage
from ..errors import DataError, first_line
from ..labels import to_labels
from ..reader import READERS, Reader
from ..rules import Contents, to_channels_first

_UNSIGNED_BYTE = 8
_SUFFIXES = tuple(f"{dot}idx{ndim}-ubyte{packed}" for dot in "-._" for ndim in range(10) for packed in ("", ".gz"))


def read_idx(path: Path) -> Contents:
    """Images [N, C, H, W] uint8, and labels [N] from the file that has `labels` for `images` in its name."""
    images = to_channels_first(_read(path), str(path))
    labels_path = _labels_beside(path)
    if labels_path is None:
        return Contents(images)
    return Contents(images, to_labels(_read(labels_path), len(images), str(labels_path)))


def _labels_beside(path: Path) -> Path | None:
    if "images" not in path.name:
        return None
    name = re.sub(r"idx\d", "idx1", path.name.replace("images", "labels")).removesuffix(".gz")
    candidates = [path.with_name(name + suffix) for suffix in ("", ".gz")]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _read(path: Path) -> np.ndarray:
    with open(path, "rb") as file:
        # GzipFile reads bytes as any binary file does; only its type is another.
        packed = path.name.endswith(".gz")
        stream = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if packed else file
        try:
            zeros, kind, ndim = struct.unpack(">HBB", stream.read(4))
            shape = struct.unpack(f">{ndim}I", stream.read(4 * ndim))
        except struct.error as error:
            raise DataError(f"{path}: not an idx file, too short for a header") from error
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: damaged ({first_line(error)})") from error
        if zeros != 0 or kind != _UNSIGNED_BYTE:
            raise DataError(f"{path}: not an idx file of unsigned bytes")
        try:
            stored = None if packed else (path, file.tell(), path.stat().st_size - file.tell())
            return storage.read_array(stream, shape, np.uint8, str(path), stored=stored)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: damaged ({first_line(error)})") from error


READERS.add(
    "idx",
    Reader(
        about="an MNIST-style file (*-idx3-ubyte or *-idx3-ubyte.gz)",
        brief="idx file",
        read=read_idx,
        suffixes=_SUFFIXES,
    ),
)
