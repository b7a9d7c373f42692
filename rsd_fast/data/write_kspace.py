"""k-space to one of fastMRI's HDF5 files, batch by batch; it appears whole or not at all."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from torch import Tensor

from rsd_fast.files import atomic_file

from .readers.fastmri import SCALE, needs_h5py


def write_h5(
    path: str | os.PathLike[str],
    kspace: Iterable[np.ndarray | Tensor],
    *,
    count: int,
    mask: np.ndarray,
    maps: np.ndarray | None = None,
    reconstruction_rss: np.ndarray | None = None,
) -> None:
    """Write simulated k-space as one fastMRI file that replaces `path`, or leaves it as it was.

    kspace:             batches [B, 2 coils, H, W] float32 as in `KSpace`, `count` = N slices in all, or one such array
                        of N; written as 0 where the mask is 0
    mask:               [N, 1, 1, W] uint8, 0 or 1; one that all slices share is stored once, [W], as fastMRI's are
    maps:               [N, coils, H, W] or a shared [1, coils, H, W], complex64
    reconstruction_rss: [N, H', W'] float32, in the images' units

    Holds one batch at a time. ValueError if shapes, dtypes or numbers do not agree.
    """
    mask = np.asarray(mask)
    if count < 1 or mask.ndim != 4 or mask.shape[:3] != (count, 1, 1) or mask.dtype != np.uint8 or (mask > 1).any():
        raise ValueError(
            f"mask: uint8 [{count}, 1, 1, W] of 0 and 1, one a slice, is wanted, not {mask.dtype} {list(mask.shape)}"
        )
    if reconstruction_rss is not None and (reconstruction_rss.ndim != 3 or len(reconstruction_rss) != count):
        raise ValueError(f"reconstruction_rss: [{count}, H, W] is wanted, not {list(reconstruction_rss.shape)}")
    h5py = needs_h5py()
    with atomic_file(path) as temporary, h5py.File(temporary, "w") as h5:
        written, dataset = 0, None
        for batch in _batches(kspace, width=mask.shape[3]):
            coils, height, width = batch.shape[1] // 2, *batch.shape[2:]
            size = (height, width) if coils == 1 else (coils, height, width)
            if dataset is None:
                dataset = h5.create_dataset("kspace", (count, *size), np.complex64)
                if maps is not None:
                    _write_maps(h5, maps, count, (coils, height, width))
            elif dataset.shape[1:] != size:
                raise ValueError(f"kspace: a batch of slices {list(size)} after one of {list(dataset.shape[1:])}")
            stop = written + len(batch)
            if stop > count:
                raise ValueError(f"kspace: more slices than the {count} announced")
            values = np.zeros((len(batch), coils, height, width), np.complex64)
            kept = mask[written:stop] == 1
            np.copyto(values.real, batch[:, 0::2], where=kept)
            np.copyto(values.imag, batch[:, 1::2], where=kept)
            dataset[written:stop] = values.reshape(len(batch), *size)
            written = stop
        if written != count:
            raise ValueError(f"kspace: {written} slices came, {count} were announced")
        columns = mask[:, 0, 0]
        h5["mask"] = columns[0] if (columns == columns[0]).all() else columns
        if reconstruction_rss is not None:
            h5["reconstruction_rss"] = reconstruction_rss.astype(np.float32)
        h5.attrs[SCALE] = 1.0
        h5.attrs["acquisition"] = "simulated"
        h5.attrs["max"] = 1.0 if reconstruction_rss is None else float(reconstruction_rss.max())


def _batches(kspace: Iterable[np.ndarray | Tensor], width: int) -> Iterator[np.ndarray]:
    for batch in [kspace] if isinstance(kspace, np.ndarray | Tensor) else kspace:
        array = batch.detach().cpu().numpy() if isinstance(batch, Tensor) else batch
        if array.ndim != 4 or array.dtype != np.float32 or array.shape[1] % 2 or array.shape[3] != width:
            raise ValueError(
                f"kspace: float32 [B, 2 coils, H, {width}] is wanted, not {array.dtype} {list(array.shape)}"
            )
        yield array


def _write_maps(h5: Any, maps: np.ndarray, count: int, size: tuple[int, int, int]) -> None:
    if maps.shape not in ((1, *size), (count, *size)) or maps.dtype != np.complex64:
        raise ValueError(
            f"maps: complex64 {[count, *size]} or {[1, *size]} is wanted, not {maps.dtype} {list(maps.shape)}"
        )
    h5["sensitivity_maps"] = maps[0] if len(maps) == 1 else maps
