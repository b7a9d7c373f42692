"""Images to one `.npz` or to a folder of PNGs, batch by batch; it appears whole or not at all."""

import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rsd_fast.errors import FieldError
from rsd_fast.files import TEMPORARY_PREFIX, atomic_file

from .decode import MASK_SUFFIX, worker_count
from .errors import DataError
from .labels import JSON_NAME

Batch = Tensor | np.ndarray
_NAME_DIGITS = 6


def check_destination(out: str | os.PathLike[str], suffixes: tuple[str, ...]) -> None:
    """Can a set of images be written to `out`, a file of one of these suffixes or a folder?

    Raises FieldError for a name that is neither, and DataError where `out` exists, unless it is an empty folder.
    """
    path = Path(out)
    if path.suffix and path.suffix not in suffixes and not path.is_dir():
        raise FieldError("out", f"expected {', '.join('FILE' + suffix for suffix in suffixes)} or a folder, got {out}")
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise DataError(f"{out}: exists already")


def to_uint8(images: Tensor) -> Tensor:
    """Images of any shape in [-1, 1], values beyond it clipped, to the nearest of 0..255."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def magnitude(images: Tensor) -> Tensor:
    """Complex images [N, 2, H, W] as grey ones to look at, [N, 1, H, W]: black at magnitude 0, white at 1."""
    return 2 * images.float().norm(dim=1, keepdim=True) - 1


def to_rgb(images: Tensor) -> Tensor:
    """[N, C, H, W] in [-1, 1] -> [N, 3, H, W] uint8: one channel is grey, two channels, complex images, are shown by
    their magnitude, of others the first three are taken."""
    if images.shape[1] == 2:
        images = magnitude(images)
    return to_uint8(images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images[:, :3])


def write_npz(
    path: str | os.PathLike[str],
    images: Batch | Iterable[Batch],
    labels: np.ndarray | None = None,
    *,
    count: int | None = None,
    **others: np.ndarray | None,
) -> None:
    """Write `images` and `labels` under these keys, uncompressed, replacing `path`.

    images: [N, C, H, W] float32 or uint8, or an iterable of batches of it, which hold `count` = N in all; a batch is
    written while the next ones are made, and must not be overwritten
    labels: [N] integers, or None
    others: further arrays by key, `mask` and `sigma_obs` perhaps, or None
    ValueError if shapes, dtypes or numbers do not agree; then `path` is as it was before.
    """
    batches = _batches(images)
    if isinstance(images, Tensor | np.ndarray):
        count = len(images)
    elif count is None:
        raise ValueError("count: the number of images is wanted where they come in batches")
    if labels is not None and np.shape(labels) != (count,):
        raise ValueError(f"labels: shape [{count}] is wanted, one an image, not {list(np.shape(labels))}")
    first, batches = _first(batches)
    header = {"descr": first.dtype.str, "fortran_order": False, "shape": (count, *first.shape[1:])}

    with atomic_file(path) as temporary, ZipFile(temporary, "w", ZIP_STORED) as archive:
        with archive.open("images.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            written = 0

            def append(batch: np.ndarray) -> None:
                nonlocal written
                member.write(np.ascontiguousarray(batch).data)
                written += len(batch)

            _write_behind(batches, append)
        if written != count:
            raise ValueError(f"images: {written} came, {count} were announced")
        others["labels"] = None if labels is None else np.asarray(labels, np.int64)
        for key, array in others.items():
            if array is not None:
                with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)


def write_png_folder(
    path: str | os.PathLike[str],
    images: Batch | Iterable[Batch],
    labels: Sequence[int] | None = None,
    *,
    masks: np.ndarray | None = None,
) -> None:
    """Write 000000.png, 000001.png, ... and, given labels, `dataset.json` into the new folder `path`.

    images: uint8 [N, C, H, W] with C 1 or 3, or an iterable of batches of it, as for `write_npz`; a million at most
    labels: [N] integers, or None
    masks: uint8 [N, 1 or C, H, W] of 0 and 1, of which each becomes 000000.mask.png
    DataError if `path` is there and not an empty folder. Files are not synced one by one.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise DataError(f"{path}: exists already, and is not an empty folder")
    first, batches = _first(_batches(images))
    if first.dtype != np.uint8 or first.shape[1] not in (1, 3):
        raise ValueError(f"images: uint8 [N, 1 or 3, H, W] is wanted, not {first.dtype} {list(first.shape)}")

    path.parent.mkdir(parents=True, exist_ok=True)
    # Not atomic_folder: its sync of every file takes minutes for 60,000.
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{os.getpid()}")
    temporary.mkdir()
    try:

        def save(name: str, image: np.ndarray) -> None:
            pixels = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
            Image.fromarray(pixels).save(temporary / name, compress_level=1)

        written = 0
        with ThreadPoolExecutor(worker_count(first[0].nbytes)) as pool:

            def append(batch: np.ndarray) -> None:
                nonlocal written
                if written + len(batch) > 10**_NAME_DIGITS:
                    raise ValueError(f"images: more than {10**_NAME_DIGITS} for one folder; write an .npz")
                names = [_png_name(index) for index in range(written, written + len(batch))]
                list(pool.map(save, names, batch))
                if masks is not None:
                    mask_names = [name.removesuffix(".png") + MASK_SUFFIX for name in names]
                    list(pool.map(save, mask_names, masks[written : written + len(batch)] * np.uint8(255)))
                written += len(batch)

            _write_behind(batches, append)
        if labels is not None:
            if len(labels) != written:
                raise ValueError(f"labels: {len(labels)} for {written} images")
            entries = [[_png_name(index), int(label)] for index, label in enumerate(labels)]
            (temporary / JSON_NAME).write_text(json.dumps({"labels": entries}))
        if path.exists():
            path.rmdir()
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_behind(batches: Iterable[np.ndarray], write: Callable[[np.ndarray], None], waiting: int = 2) -> None:
    """write(batch) of each, one after another in a thread, while the next ones are made, of which so many may wait.

    An exception of either side ends both: what `write` raises when the next batch has come, and what waits is dropped.
    """
    thread, unfinished = ThreadPoolExecutor(1), deque[Future[None]]()
    try:
        for batch in batches:
            while unfinished and (len(unfinished) > waiting or unfinished[0].done()):
                unfinished.popleft().result()
            unfinished.append(thread.submit(write, batch))
        for future in unfinished:
            future.result()
    finally:
        thread.shutdown(cancel_futures=True)  # and waits for what is being written


def _png_name(index: int) -> str:
    return f"{index:0{_NAME_DIGITS}d}.png"


def _batches(images: Batch | Iterable[Batch]) -> Iterator[np.ndarray]:
    """Arrays [B, C, H, W], all of one dtype and image shape."""
    expected = None
    for batch in [images] if isinstance(images, Tensor | np.ndarray) else images:
        array = batch.detach().cpu().numpy() if isinstance(batch, Tensor) else batch
        if array.ndim != 4 or array.dtype not in (np.uint8, np.float32):
            raise ValueError(f"images: uint8 or float32 [N, C, H, W] is wanted, not {array.dtype} {list(array.shape)}")
        kind = (array.dtype, array.shape[1:])
        expected = expected or kind
        if kind != expected:
            raise ValueError(f"images: a batch of {kind[0]} {kind[1]} after one of {expected[0]} {expected[1]}")
        yield array


def _first(batches: Iterator[np.ndarray]) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    first = next(batches, None)
    if first is None:
        raise ValueError("images: none came")
    return first, chain([first], batches)
