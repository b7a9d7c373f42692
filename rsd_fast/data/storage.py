"""Where arrays lie: in memory, or above MAP_BYTES in files that are mapped, of which a page is read when it is touched.

Such a file is the one that the user gave, where its bytes are the array's, else a temporary one, already unlinked, in
the folder that TMPDIR names.
"""

import math
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np

from .errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

MAP_BYTES = 1 << 30
_BLOCK_BYTES = 1 << 26
_CHUNK_BYTES = 1 << 24


def is_mapped(array: np.ndarray) -> bool:
    """Does the array lie in a file rather than in memory?"""
    return isinstance(array, np.memmap)


def allocate(shape: tuple[int, ...], dtype: Any, where: str) -> np.ndarray:
    """Zeros, to be filled in. DataError, which begins with `where`, if there is no room for them."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    try:
        if size <= MAP_BYTES:
            return np.zeros(shape, dtype)
        with tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):  # a disk found full when a page is written back would kill the process
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype, "r+", shape=shape)
    except MemoryError as error:
        raise DataError(f"{where}: an array {list(shape)} of {np.dtype(dtype)} does not fit in memory") from error
    except (OSError, OverflowError, ValueError) as error:
        raise _no_room(where, size) from error


def read_array(
    stream: IO[bytes],
    shape: tuple[int, ...],
    dtype: Any,
    where: str,
    *,
    order: Literal["C", "F"] = "C",
    stored: tuple[Path, int, int] | None = None,
) -> np.ndarray:
    """The array whose bytes are the rest of `stream`, no more and no fewer: DataError, which begins with `where`.

    Neither memory nor disk is taken for what is not there, so that a header that lies about gigabytes costs nothing.
    stored: (file, offset, bytes), where the rest of the stream lies in a file as it is: it may be mapped from there,
    read-only.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= MAP_BYTES:
        held = bytearray()
        _copy(stream, held.extend, size, where)
        return np.frombuffer(held, dtype).reshape(shape, order=order)
    if stored is not None:
        path, offset, promised = stored
        _check_size(size, min(promised, path.stat().st_size - offset), where)
        return np.memmap(path, dtype, "r", offset, shape, order)
    with tempfile.TemporaryFile() as file:

        def write(chunk: bytes) -> None:
            try:
                file.write(chunk)
                file.flush()
            except OSError as error:
                raise _no_room(where, size) from error

        _copy(stream, write, size, where)
        return np.memmap(file, dtype, "r+", 0, shape, order)


def settle(array: np.ndarray, where: str) -> np.ndarray:
    """The array itself if its rows can be taken as they lie (`take`), else a copy in C order."""
    if array.flags.c_contiguous or (is_mapped(array) and _as_stored(array).flags.c_contiguous):
        return array
    copied = allocate(array.shape, array.dtype, where)
    for block in blocks(array):
        copied[block] = array[block]
    return copied


def blocks(array: np.ndarray) -> Iterator[slice]:
    """Parts of the first axis, one after the other, each as much of a mapped array as may be in memory at once."""
    step = max(1, _BLOCK_BYTES // max(1, array.nbytes // max(1, len(array))))
    for start in range(0, len(array), step):
        yield slice(start, min(start + step, len(array)))


def row_numbers(indices: np.ndarray, count: int) -> np.ndarray:
    """`indices` [B] of an array of `count` rows as 0 to count - 1: -1 is the last. IndexError for one out of range."""
    if indices.size and not (-count <= indices.min() and indices.max() < count):
        raise IndexError(f"indices: {indices.min()} to {indices.max()}, of {count} images")
    return indices % count


def empty_rows(array: np.ndarray, count: int, *, pinned: bool = False) -> "Tensor":
    """Room on the host for so many rows of `array` in the order in which it is stored; pinned: for copies to a GPU."""
    import torch  # here, so that what only lists the readers does not wait for it

    stored = _as_stored(array)
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    rows = torch.empty((count, *stored.shape[1:]), dtype=dtype, pin_memory=pinned)
    return rows if stored is array else rows.movedim(-1, 1)


def take(array: np.ndarray, indices: np.ndarray, out: "Tensor") -> None:
    """out[i] = array[indices[i]], of indices 0 to N - 1; `out` from `empty_rows`."""
    stored, target = _as_stored(array), out.numpy()
    if not stored.flags.c_contiguous:
        target[...] = array[indices]
        return
    target = target if stored is array else np.moveaxis(target, 1, -1)
    # As bytes: a whole array that is not aligned, as in an .npz, would be copied first. Nor does "clip" need a buffer.
    rows = _bytes(stored)
    if is_mapped(array):
        _read_ahead(rows, indices)
    np.take(rows, indices, axis=0, out=_bytes(target), mode="clip")


def _as_stored(array: np.ndarray) -> np.ndarray:
    """[N, H, W, C] of images [N, C, H, W] that are stored so, else the array itself."""
    if array.ndim != 4 or array.flags.c_contiguous:
        return array
    moved = np.moveaxis(array, 1, -1)
    return moved if moved.flags.c_contiguous else array


def _bytes(array: np.ndarray) -> np.ndarray:
    """[N, bytes of a row] uint8, a view."""
    return array.reshape(len(array), math.prod(array.shape[1:])).view(np.uint8)


def _read_ahead(rows: np.ndarray, indices: np.ndarray) -> None:
    """Ask the system for all these rows at once: waiting for a disk page after page takes ten times as long."""
    mapping: Any = rows
    while isinstance(mapping, np.ndarray):
        mapping = mapping.base
    if not isinstance(mapping, mmap.mmap) or not hasattr(mapping, "madvise"):
        return
    size = rows.shape[1]
    first = rows.ctypes.data - np.frombuffer(mapping, np.uint8).ctypes.data + indices * size
    pages = first // mmap.PAGESIZE * mmap.PAGESIZE
    for start, length in zip(pages.tolist(), (first - pages + size).tolist(), strict=True):
        mapping.madvise(mmap.MADV_WILLNEED, start, length)


def _copy(stream: IO[bytes], write: Callable[[bytes], Any], size: int, where: str) -> None:
    copied = 0
    while chunk := stream.read(min(_CHUNK_BYTES, size + 1 - copied)):
        write(chunk)
        copied += len(chunk)
    _check_size(size, copied, where)


def _check_size(size: int, available: int, where: str) -> None:
    if available != size:
        what = "more follow" if available > size else f"only {max(available, 0)} are there"
        raise DataError(f"{where}: the header promises {size} bytes of data, {what}")


def _no_room(where: str, size: int) -> DataError:
    return DataError(
        f"{where}: {size / 1e9:.3g} GB are too many for {tempfile.gettempdir()}; let TMPDIR name a folder with room"
    )
