"""Image sources of every kind: what lies at a path, what has a name, and what a program holds."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from .array import ImageArray
from .errors import DataError
from .in_memory import read_array, read_dataset
from .readers import kinds, reader_of
from .rules import Contents, to_pixels

Source = str | os.PathLike[str] | np.ndarray | Tensor | Dataset[Any] | ImageArray

IN_MEMORY = "(given in memory)"  # what the config of a run says of data that have no path


def source_name(src: Source) -> str:
    """What the config of a run keeps of a source: its path or name, or IN_MEMORY."""
    return os.fspath(src) if isinstance(src, str | os.PathLike) else IN_MEMORY


def open_source(src: Source, *, observations: bool = False, sigma_obs_max: float = 0.0) -> ImageArray:
    """The images of a source, in memory or, where they are more than 1 GiB, mapped.

    Mapped are arrays of uint8 or float32 in an .npy file, an .npz that is not compressed or an idx file; others are
    decoded to a temporary file, in the folder that TMPDIR names. A file must not change while it is mapped, nor an
    array while it is used, of which no copy is made where none is needed.

    src:           a folder, a file or a bundled name (for a folder called digits write ./digits); an array or a tensor
                   [N, H, W], [N, H, W, C] or [N, C, H, W]; or a map-style `Dataset` whose items are images, or tuples
                   of an image and perhaps its class (`in_memory.read_dataset`). Pixels are uint8, or float in [-1, 1].
                   An ImageArray is returned as it is.
    observations:  the source holds noisy observations, whose floats may leave [-1, 1] by 10 sigma_obs_max
    sigma_obs_max: the largest standard deviation of that noise, in units of [-1, 1] pixels

    Raises DataError, one line that names the file, where the source cannot be read.
    """
    if isinstance(src, ImageArray):
        return src
    if isinstance(src, str | os.PathLike):
        where = os.fspath(src)
        name, contents = _read_path(src)
    else:
        where = name = _kind_in_memory(src)
        contents = read_dataset(src, where) if isinstance(src, Dataset) else read_array(src, where)
    images = contents.images
    if not contents.kspace:
        sigma = contents.sigma
        sigma_obs_max = max(sigma_obs_max, 0.0 if sigma is None else float(sigma.max()))
        images = to_pixels(images, where, 1 + 10 * sigma_obs_max if observations else 1.0, contents.mask)
    return ImageArray(name=name, **contents._replace(images=images)._asdict())


def _read_path(src: str | os.PathLike[str]) -> tuple[str, Contents]:
    """(short name, contents)."""
    if not os.fspath(src):
        raise DataError(f"no source given; a source is {kinds()}")
    if src == IN_MEMORY:
        raise DataError(
            "the data were given in memory; give them again (Python: rsd_fast.pretrain(data, ..., resume=True), "
            "rsd_fast.distill(teacher, data=...), rsd_fast.evaluate(run, observations=...)), or a path"
        )
    path = Path(src)
    try:
        reader = reader_of(src)
        if reader is not None:
            return reader.short_name(path), reader.open(path)
    except OSError as error:
        raise DataError(f"{error.filename or path}: {error.strerror or error}") from error
    problem = "not a source" if path.exists() else "no such file or folder"
    raise DataError(f"{path}: {problem}; a source is {kinds()}")


def _kind_in_memory(src: object) -> str:
    """The words for data that have no name of their own."""
    if isinstance(src, np.ndarray):
        return "the array"
    if isinstance(src, Tensor):
        return "the tensor"
    if isinstance(src, Dataset):
        return "the data set"
    raise DataError(
        f"{type(src).__name__}: not a source; a source is {kinds()}; in Python also an array, a tensor, or a torch "
        "Dataset of images"
    )
