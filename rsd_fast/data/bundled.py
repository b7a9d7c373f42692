"""Data sets that come with the packages this library needs anyway, by name."""

from collections.abc import Callable

import numpy as np


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's handwritten digits: 1797 images [1, 8, 8] of 17 grey levels, labels 0 to 9."""
    from sklearn.datasets import load_digits  # a second of import, for this set alone

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return images[:, None], digits.target.astype(np.int64)


BUNDLED: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {"digits": _digits}
