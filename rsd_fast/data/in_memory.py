"""Images that a program holds: arrays, tensors, and data sets of PyTorch, with the checks that files have."""

import sys
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset
from tqdm import tqdm

from .decode import pixels_of
from .errors import DataError
from .labels import to_labels
from .rules import Contents, to_channels_first
from .stack import ImageStack

_MANY = 10_000  # items, the reading of which is shown on a terminal


def read_array(data: np.ndarray | Tensor, where: str) -> Contents:
    """[N, H, W], [N, H, W, C] or [N, C, H, W] of any dtype, not copied where that is not needed."""
    return Contents(to_channels_first(_to_numpy(data), where))


def read_dataset(dataset: Dataset[Any], where: str) -> Contents:
    """A map-style data set, each item of which is read once: what is random in it is drawn for ever.

    An item is an image: a tensor or an array [C, H, W], [H, W, C] or [H, W], uint8 or float in [-1, 1], or a picture of
    Pillow; or a tuple that begins with one. Where the tuples go on with an integer, it is the label.
    """
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise DataError(f"{where}: its items have no numbers; one with __len__ and __getitem__ is wanted")
    count = len(dataset)
    if count == 0:
        raise DataError(f"{where}: holds no image")
    stack: ImageStack | None = None
    labels: list[int | None] = []
    for index in tqdm(range(count), desc="data", unit="images", disable=count <= _MANY or not sys.stderr.isatty()):
        name = f"{where}[{index}]"
        image, label = _split(dataset[index])
        labels.append(label)
        if (label is None) != (labels[0] is None):
            this, first = ("no label", "one") if label is None else ("a label", "none")
            raise DataError(f"{name}: has {this}, but the first item has {first}")
        pixels, opaque = _pixels(image, name)
        stack = stack or ImageStack(count, pixels, name, where)
        stack.put(index, pixels, opaque, name)
    assert stack is not None
    return Contents(
        stack.images, None if labels[0] is None else to_labels(np.array(labels), count, where), stack.mask()
    )


def _split(item: Any) -> tuple[Any, int | None]:
    """(image, label) of an item; no label where the second of a tuple is none."""
    if not isinstance(item, tuple | list) or not item:
        return item, None
    label = item[1] if len(item) > 1 else None
    if isinstance(label, Tensor | np.ndarray | np.generic) and label.ndim == 0:
        label = label.item()
    return item[0], label if isinstance(label, int) and not isinstance(label, bool) else None


def _pixels(image: Any, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels [H, W, C], and [H, W] uint8, 1 where opaque, or None where all is."""
    if isinstance(image, Image.Image):
        try:
            return pixels_of(image)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
    if not isinstance(image, Tensor | np.ndarray):
        raise DataError(f"{name}: {type(image).__name__}; a tensor, an array or a picture of Pillow is wanted")
    array = _to_numpy(image)
    if array.ndim not in (2, 3):
        raise DataError(f"{name}: shape {list(array.shape)}; [C, H, W] or [H, W] is wanted")
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise DataError(f"{name}: dtype {array.dtype}; uint8, or float in [-1, 1], is wanted")
    return to_channels_first(array[None], name)[0].transpose(1, 2, 0), None


def _to_numpy(data: np.ndarray | Tensor) -> np.ndarray:
    if isinstance(data, np.ndarray):
        return data
    data = data.detach().cpu()
    return (data.float() if data.dtype == torch.bfloat16 else data).numpy()
