"""Image sources, their observations, and the files this library writes images to."""

import os
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from .array import ImageArray, Read, to_channels_first, to_pixels
from .bundled import BUNDLED
from .dataset import ObservedDataset
from .edm_zip import read_zip
from .errors import DataError
from .fastmri import read_h5, write_h5
from .folder import read_folder
from .idx import IDX_NAME, read_idx
from .numpy_file import read_npy, read_npz
from .write import magnitude, to_rgb, to_uint8, write_npz, write_png_folder

__all__ = [
    "BUNDLED",
    "IN_MEMORY",
    "DataError",
    "ImageArray",
    "ObservedDataset",
    "Source",
    "magnitude",
    "open_source",
    "source_name",
    "to_rgb",
    "to_uint8",
    "write_h5",
    "write_npz",
    "write_png_folder",
]

IN_MEMORY = "(given in memory)"  # what a config says of data that have no path
Source = str | os.PathLike[str] | np.ndarray | torch.Tensor | Dataset

_KINDS = (
    "a folder of images, an EDM-style .zip, an .npy or .npz file, an MNIST-style file (*-idx3-ubyte or "
    f"*-idx3-ubyte.gz), a fastMRI .h5 file or a folder of them, or the name of a bundled set ({', '.join(BUNDLED)})"
)


def source_name(src: Source) -> str:
    """What the config of a run keeps of a source: its path or name, or IN_MEMORY."""
    return os.fspath(src) if isinstance(src, str | os.PathLike) else IN_MEMORY


def open_source(src: Source, *, observations: bool = False, sigma_obs_max: float = 0.0) -> ImageArray:
    """The images of a source, in memory or, where they are more than 1 GiB, mapped; DataError, one line that names the
    file, if it cannot be read.

    Mapped are arrays of uint8 or float32 in an .npy file, an .npz that is not compressed or an idx file; others are
    decoded to a temporary file, in the folder that TMPDIR names. A file must not change while it is mapped.

    src:           a folder, a file or a bundled name; for a folder called digits write ./digits
    observations:  the source holds noisy observations, whose floats may leave [-1, 1] by 10 sigma_obs_max
    sigma_obs_max: the largest standard deviation of that noise, in units of [-1, 1] pixels
    """
    if not isinstance(src, str | os.PathLike):
        return _in_memory(src, 1 + 10 * sigma_obs_max if observations else 1.0)
    if src == IN_MEMORY:
        raise DataError(
            "the data were given in memory; give them again (Python: rsd_fast.pretrain(data, ..., resume=True)), "
            "or a path"
        )
    if src in BUNDLED:
        images, labels = BUNDLED[str(src)]()
        return ImageArray(images=images, labels=labels, name=str(src))
    if not os.fspath(src):
        raise DataError(f"no source given; a source is {_KINDS}")
    path = Path(src)
    try:
        if is_kspace(path):
            found = read_h5(path)
            return ImageArray(
                images=found.kspace, mask=found.mask, maps=found.maps, kspace=True, name=_short_name(path)
            )
        read = _read(path)
    except OSError as error:
        raise DataError(f"{error.filename or path}: {error.strerror or error}") from error
    sigma_obs_max = max(sigma_obs_max, 0.0 if read.sigma is None else float(read.sigma.max()))
    limit = 1 + 10 * sigma_obs_max if observations else 1.0
    return ImageArray(
        images=to_pixels(read.images, str(path), limit, read.mask),
        labels=read.labels,
        mask=read.mask,
        sigma=read.sigma,
        name=_short_name(path),
    )


def _in_memory(src: np.ndarray | torch.Tensor | Dataset, limit: float) -> ImageArray:
    if isinstance(src, np.ndarray | torch.Tensor):
        images, labels = np.asarray(src), None
    else:
        items = [src[i] for i in range(len(src))]  # type: ignore[arg-type]
        pairs = [item if isinstance(item, tuple) else (item, None) for item in items]
        images = np.stack([np.asarray(image) for image, _ in pairs])
        labels = None if pairs[0][1] is None else np.array([int(label) for _, label in pairs])
    images = to_pixels(to_channels_first(images, IN_MEMORY), IN_MEMORY, limit)
    return ImageArray(images=images, labels=labels, name=IN_MEMORY)


def is_kspace(path: Path) -> bool:
    """An HDF5 file, or a folder that holds some?"""
    if path.is_dir():
        return next((True for suffix in ("*.h5", "*.hdf5") for _ in path.rglob(suffix)), False)
    return path.name.lower().endswith((".h5", ".hdf5")) and path.exists()


def _read(path: Path) -> Read:
    name = path.name.lower()
    if path.is_dir():
        return read_folder(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; a source is {_KINDS}")
    if name.endswith(".zip"):
        return read_zip(path)
    if name.endswith(".npy"):
        return read_npy(path)
    if name.endswith(".npz"):
        return read_npz(path)
    if IDX_NAME.search(name):
        return read_idx(path)
    raise DataError(f"{path}: not a source; a source is {_KINDS}")


def _short_name(path: Path) -> str:
    name = path.resolve().name
    return name if path.is_dir() else IDX_NAME.sub("", name).removesuffix(path.suffix)
