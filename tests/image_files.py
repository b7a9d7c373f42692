"""Images and files of them, for tests."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsd_fast.data import DataError, open_source


def random_pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save_png(path: Path, pixels: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def idx_bytes(array: np.ndarray, shape: tuple[int, ...] | None = None) -> bytes:
    """An idx file of unsigned bytes whose header claims `shape`."""
    shape = array.shape if shape is None else shape
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + array.tobytes()


def assert_refused(src: object, *needles: str, **options: object) -> None:
    """`src` raises DataError: one line that holds every needle."""
    with pytest.raises(DataError) as caught:
        open_source(src, **options)
    message = str(caught.value)
    assert "\n" not in message
    for needle in needles:
        assert str(needle) in message, message
