"""Data sets that come with the packages this library needs anyway, by name."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..reader import READERS, Reader
from ..rules import Contents


def _digits() -> Contents:
    """scikit-learn's handwritten digits: 1797 images [1, 8, 8] of 17 grey levels, labels 0 to 9."""
    from sklearn.datasets import load_digits  # a second of import, for this set only

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return Contents(images[:, None], digits.target.astype(np.int64))


BUNDLED: dict[str, Callable[[], Contents]] = {"digits": _digits}


def _read(name: Path) -> Contents:
    return BUNDLED[str(name)]()


READERS.add(
    "bundled",
    Reader(
        about=f"the name of a bundled set ({', '.join(BUNDLED)})",
        brief=f"a bundled set ({', '.join(BUNDLED)})",
        read=_read,
        names=BUNDLED,
    ),
)
