"""Fashion-MNIST at 16x16, from the Debian package dataset-fashion-mnist (MIT licence)."""

import os
import sys
from pathlib import Path

import numpy as np

from rsd_fast.data import open_source

FOLDER = Path("/usr/share/datasets/fashion-mnist")
VARIABLE = "RSD_FAST_FASHION_MNIST"


def find() -> Path:
    """train-images-idx3-ubyte.gz: what the environment variable names (the file or its folder), or the package's."""
    path = Path(os.environ.get(VARIABLE) or FOLDER)
    if path.is_dir():
        path /= "train-images-idx3-ubyte.gz"
    if not path.is_file():
        sys.exit(f"{path}: no such file; apt-get install dataset-fashion-mnist, or set {VARIABLE} to the file")
    return path


def small_images(size: int = 16) -> np.ndarray:
    """[60000, 1, size, size] uint8: padded with background from 28x28 to 32x32, then means of square blocks, rounded.

    The order is the file's, whose labels lie in train-labels-idx1-ubyte.gz. Raises ValueError unless size divides 32.
    """
    if size < 1 or 32 % size:
        raise ValueError(f"size: a divisor of 32 is wanted, not {size}")
    images = np.pad(open_source(find()).images, [(0, 0), (0, 0), (2, 2), (2, 2)])  # [N, 1, 32, 32]
    block = 32 // size
    sums = images.reshape(len(images), 1, size, block, size, block).sum((3, 5), dtype=np.uint32)
    return ((sums + block**2 // 2) // block**2).astype(np.uint8)
