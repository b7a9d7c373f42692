"""k-space in fastMRI's HDF5 files (`data.write_kspace` writes them).

A file is a volume: `kspace`, complex, [slices, coils, H, W], or [slices, H, W] of a single coil; optionally `mask`,
`sensitivity_maps`, `reconstruction_rss` or `reconstruction_esc`. k-space is the centred orthonormal Fourier transform
of the image, its DC sample at (H // 2, W // 2); whole columns, along W, are sampled or not.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import storage
from ..errors import DataError, first_line, optional_package
from ..reader import READERS, Reader
from ..rules import Contents

_SUFFIXES = (".h5", ".hdf5")
SCALE = "rsd_fast_scale"  # the attribute by which our own files say what to divide their k-space by: 1


@dataclass(frozen=True, kw_only=True, eq=False)
class KSpace:
    """k-space of N slices, scaled so that images are about 1 at most, and exactly 0 where it is not sampled.

    kspace:         [N, 2 coils, H, W] float32: coil 0 real, coil 0 imaginary, coil 1 real, ...
    mask:           [N, 1, 1, W] uint8, 1 where a phase-encode column is sampled
    maps:           [N, coils, H, W] complex64 sensitivity maps, [1, coils, H, W] where a file's slices share one; None
                    unless every file has them
    reconstruction: [N, H', W'] float32 magnitude images of the fully sampled data, scaled alike; None unless every
                    file has them, of one size
    """

    kspace: np.ndarray
    mask: np.ndarray
    maps: np.ndarray | None = None
    reconstruction: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.kspace)

    @property
    def coils(self) -> int:
        return self.kspace.shape[1] // 2


@dataclass(frozen=True)
class _Header:
    """What a file holds, by its headers only, checked for agreement."""

    file: Path
    slices: int
    size: tuple[int, int, int]  # (coils, H, W)
    has_maps: bool
    maps_shared: bool
    reconstruction: str  # the dataset's name, "" if there is none
    reconstruction_size: tuple[int, ...]


def read_h5(path: str | os.PathLike[str]) -> KSpace:
    """The slices of a file, or of all .h5 and .hdf5 files of a folder, nested, in the order of their relative paths.

    Each volume is divided by a scale: its attribute `rsd_fast_scale`, else `max`, else the maximum of its
    reconstruction, else the 99.9th percentile of its zero-filled root-sum-of-squares images. The mask is the
    dataset `mask`, [W] or [slices, W], else the columns where any k-space of the slice is not 0.
    DataError, one line that names the file, where one cannot be read or differs from the first in size or coils.
    """
    path = Path(path)
    headers = []
    for file in _files(path):
        with _opened(file) as h5:
            headers.append(_header(h5, file))
    first = headers[0]
    for header in headers:
        if header.size != first.size:
            raise DataError(
                f"{header.file}: slices of {_size_text(header.size)}, but {first.file} has {_size_text(first.size)}; "
                "all must agree: crop or resample the images, combine or compress the coils"
            )

    count = sum(header.slices for header in headers)
    coils, height, width = first.size
    has_maps = all(header.has_maps for header in headers)
    one_map = has_maps and len(headers) == 1 and first.maps_shared
    has_reconstruction = bool(first.reconstruction) and all(
        header.reconstruction and header.reconstruction_size == first.reconstruction_size for header in headers
    )

    def room(dtype: type, *shape: int) -> np.ndarray:
        return storage.allocate(shape, dtype, str(path))

    kspace = room(np.float32, count, 2 * coils, height, width)
    mask = room(np.uint8, count, 1, 1, width)
    maps = room(np.complex64, 1 if one_map else count, *first.size) if has_maps else None
    reconstruction = room(np.float32, count, *first.reconstruction_size) if has_reconstruction else None

    start = 0
    for header in headers:
        place = slice(start, start + header.slices)
        start += header.slices
        with _opened(header.file) as h5:
            columns = _columns(h5, header)
            scale = _scale(h5, header, columns)
            _read_kspace(h5, header, columns, scale, kspace[place], mask[place])
            if maps is not None:
                _read_maps(h5, header, maps[place])
            if reconstruction is not None:
                reconstruction[place] = _reconstruction(h5, header) / scale
    return KSpace(kspace=kspace, mask=mask, maps=maps, reconstruction=reconstruction)


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if not path.is_dir():
        return [path]

    def refuse(error: OSError) -> None:  # a folder that cannot be listed must not pass for an empty one
        raise DataError(f"{error.filename or path}: {error.strerror or error}") from error

    files = [Path(root, name).relative_to(path) for root, _, names in os.walk(path, onerror=refuse) for name in names]
    names = [name for name in files if name.suffix.lower() in _SUFFIXES]
    names = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    if not names:
        raise DataError(f"{path}: holds no .h5 file")
    return [path / name for name in sorted(names, key=Path.as_posix)]


def needs_h5py() -> Any:
    """The module h5py; DataError where it is not there."""
    return optional_package("h5py", extra="mri", purpose="reading or writing .h5 files")


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """The h5py.File; whatever goes wrong with it becomes a DataError."""
    h5py = needs_h5py()
    try:
        with h5py.File(file, "r") as h5:
            yield h5
    except (DataError, MemoryError):
        raise
    except Exception as error:  # on damaged files h5py raises half a dozen kinds
        if isinstance(error, OSError) and error.errno:
            raise DataError(f"{file}: {os.strerror(error.errno)}") from error
        if "file signature not found" in str(error):
            raise DataError(f"{file}: not an HDF5 file") from error
        raise DataError(f"{file}: cannot be read ({first_line(error)})") from error


def _dataset(h5: Any, name: str, file: Path) -> Any:
    """A dataset whose values are all in the file: HDF5 makes up the missing ones, terabytes of them if need be."""
    h5py = needs_h5py()
    dataset = h5[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise DataError(f"{file}: `{name}` is no array")
    if dataset.is_virtual or dataset.external:
        raise DataError(f"{file}: the values of `{name}` lie in other files; copy them into this one")
    if dataset.size and dataset.id.get_space_status() != h5py.h5d.SPACE_STATUS_ALLOCATED:
        raise DataError(f"{file}: `{name}` claims to be {list(dataset.shape)}, but not all of it was written")
    return dataset


def _header(h5: Any, file: Path) -> _Header:
    if "kspace" not in h5:
        raise DataError(f"{file}: no dataset `kspace`; it holds {', '.join(h5) or 'nothing'}")
    dataset = _dataset(h5, "kspace", file)
    shape = dataset.shape
    if dataset.dtype.kind != "c":
        raise DataError(f"{file}: `kspace` is {dataset.dtype}; complex numbers are wanted")
    if len(shape) not in (3, 4) or 0 in shape:
        raise DataError(
            f"{file}: `kspace` is {list(shape)}; [slices, coils, H, W], or [slices, H, W] of a single coil, is wanted"
        )
    slices, size = shape[0], (1, *shape[1:]) if len(shape) == 3 else shape[1:]

    maps_shared = False
    if "sensitivity_maps" in h5:
        maps = _dataset(h5, "sensitivity_maps", file)
        maps_shared = maps.shape == size
        if maps.dtype.kind != "c" or not (maps_shared or maps.shape == (slices, *size)):
            raise DataError(
                f"{file}: `sensitivity_maps` is {maps.dtype} {list(maps.shape)}; by its `kspace`, complex "
                f"{[slices, *size]}, or {list(size)} for all slices, is wanted"
            )
    names = ["reconstruction_esc", "reconstruction_rss"]  # a single coil has both, and the first is its own
    name = next((name for name in (names if size[0] == 1 else names[::-1]) if name in h5), "")
    reconstruction: tuple[int, ...] = _dataset(h5, name, file).shape if name else ()
    if name and (len(reconstruction) != 3 or reconstruction[0] != slices or h5[name].dtype.kind != "f"):
        raise DataError(
            f"{file}: `{name}` is {h5[name].dtype} {list(reconstruction)}; floats [{slices}, H, W] are wanted"
        )
    return _Header(
        file=file,
        slices=slices,
        size=size,
        has_maps="sensitivity_maps" in h5,
        maps_shared=maps_shared,
        reconstruction=name,
        reconstruction_size=reconstruction[1:],
    )


def _columns(h5: Any, header: _Header) -> np.ndarray | None:
    """[slices, W] bool from the dataset `mask`, None where there is none."""
    if "mask" not in h5:
        return None
    dataset = _dataset(h5, "mask", header.file)
    shape = (header.slices, header.size[2])
    if dataset.shape not in (shape, shape[1:]):
        raise DataError(
            f"{header.file}: `mask` is {list(dataset.shape)}; by its `kspace`, [{shape[1]}] or {list(shape)} is wanted"
        )
    values = dataset[()]
    if not ((values == 0) | (values == 1)).all():
        raise DataError(f"{header.file}: `mask` holds other values than 0 and 1")
    return np.broadcast_to(values == 1, shape)


def _blocks(dataset: Any) -> Iterator[tuple[int, np.ndarray]]:
    """(index of the first slice, some slices) after another: as many as share a chunk, which is unpacked as a whole."""
    step = dataset.chunks[0] if dataset.chunks else 1
    for start in range(0, len(dataset), step):
        yield start, dataset[start : start + step]


def _kspace_blocks(
    h5: Any, header: _Header, columns: np.ndarray | None
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(index of the first slice, complex [B, coils, H, W], sampled columns [B, W] bool), 0 where not sampled."""
    for start, block in _blocks(h5["kspace"]):
        values = block.reshape(len(block), *header.size)
        if columns is None:
            sampled = (values != 0).any((1, 2))
        else:
            sampled = columns[start : start + len(values)]
            np.copyto(values, 0, where=~sampled[:, None, None])
        if not sampled.any(1).all():
            raise DataError(f"{header.file}: slice {start + int(sampled.any(1).argmin())} has no sampled column")
        _check_finite(values, start, "kspace", header.file)
        yield start, values, sampled


def _scale(h5: Any, header: _Header, columns: np.ndarray | None) -> np.float64:
    """What the images of a volume are divided by."""
    if SCALE in h5.attrs:
        scale = _number(h5.attrs[SCALE])
        if not 0 < scale < np.inf:
            raise DataError(f"{header.file}: attribute `{SCALE}` is {h5.attrs[SCALE]}; a positive number is wanted")
        return scale
    if "max" in h5.attrs and 0 < (scale := _number(h5.attrs["max"])) < np.inf:
        return scale
    if header.reconstruction:
        scale = np.float64(_reconstruction(h5, header).max())
    else:
        # No shifts: of the image's only magnitudes remain, and those of k-space are but a phase of the image.
        images = (np.fft.ifft2(values, norm="ortho") for _, values, _ in _kspace_blocks(h5, header, columns))
        magnitudes = [np.sqrt((np.abs(image) ** 2).sum(1)) for image in images]
        scale = np.float64(np.percentile(np.concatenate(magnitudes), 99.9))
    if not scale > 0:
        raise DataError(f"{header.file}: its images are 0 everywhere")
    return scale


def _number(value: Any) -> np.float64:
    """An attribute, which some programs write as text; NaN where it is no number."""
    try:
        return np.float64(np.asarray(value).item())
    except (TypeError, ValueError):
        return np.float64("nan")


def _read_kspace(
    h5: Any, header: _Header, columns: np.ndarray | None, scale: np.float64, kspace: np.ndarray, mask: np.ndarray
) -> None:
    """Fill kspace [slices, 2 coils, H, W] float32 and mask [slices, 1, 1, W] uint8."""
    for start, values, sampled in _kspace_blocks(h5, header, columns):
        place = slice(start, start + len(values))
        with np.errstate(over="ignore"):  # float64 that does not fit in float32 is infinite, and refused
            kspace[place, 0::2] = values.real / scale
            kspace[place, 1::2] = values.imag / scale
        _check_finite(kspace[place], start, "kspace", header.file)
        mask[place, 0, 0] = sampled


def _read_maps(h5: Any, header: _Header, maps: np.ndarray) -> None:
    """Fill maps [slices, coils, H, W] complex64; only the first where one is shared and there is room for one."""
    dataset = h5["sensitivity_maps"]
    if header.maps_shared:
        maps[:] = dataset[()]
        _check_finite(maps[:1], 0, "sensitivity_maps", header.file)
    else:
        for start, block in _blocks(dataset):
            place = slice(start, start + len(block))
            maps[place] = block
            _check_finite(maps[place], start, "sensitivity_maps", header.file)


def _reconstruction(h5: Any, header: _Header) -> np.ndarray:
    values = h5[header.reconstruction][()]
    _check_finite(values, 0, header.reconstruction, header.file)
    return values


def _check_finite(values: np.ndarray, start: int, name: str, file: Path) -> None:
    finite = np.isfinite(values).all(tuple(range(1, values.ndim)))
    if not finite.all():
        raise DataError(f"{file}: slice {start + int(finite.argmin())} of `{name}` holds NaN or infinity")


def _size_text(size: tuple[int, int, int]) -> str:
    coils, height, width = size
    return f"{height}x{width}, {coils} coil{'s' * (coils > 1)}"


def _read(path: Path) -> Contents:
    volumes = read_h5(path)
    return Contents(volumes.kspace, mask=volumes.mask, maps=volumes.maps, kspace=True)


def _is_folder_of_volumes(path: Path) -> bool:
    return path.is_dir() and any(True for suffix in _SUFFIXES for _ in path.rglob(f"*{suffix}"))


READERS.add(
    "fastmri",
    Reader(
        about="a fastMRI .h5 file or a folder of them",
        brief=".h5",
        read=_read,
        suffixes=_SUFFIXES,
        claims=_is_folder_of_volumes,
        package="h5py",
        extra="mri",
    ),
)
