"""Class labels: arrays and the `dataset.json` of EDM-style data sets, as [N] int64 class indices."""

import json
from collections.abc import Sequence

import numpy as np

from .errors import DataError, first_line

JSON_NAME = "dataset.json"


def to_labels(labels: np.ndarray, count: int, where: str) -> np.ndarray:
    """[N] integers or [N, K] one-hot rows as [N] int64; `where` names their file in errors."""
    if len(labels.shape) not in (1, 2) or len(labels) != count:
        raise DataError(f"{where}: labels of shape {list(labels.shape)} for {count} images; one an image is wanted")
    if labels.ndim == 2:
        if labels.dtype.kind not in "biuf" or not (
            ((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all()
        ):
            raise DataError(f"{where}: labels of shape {list(labels.shape)} that are not one-hot rows")
        return labels.argmax(axis=1).astype(np.int64)
    if labels.dtype.kind not in "iu":
        raise DataError(f"{where}: labels of dtype {labels.dtype}; integers are wanted")
    if labels.min() < 0 or labels.max() > np.iinfo(np.int32).max:
        raise DataError(f"{where}: labels {labels.min()} to {labels.max()}; class indices 0, 1, 2, ... are wanted")
    return labels.astype(np.int64)


def labels_from_json(text: bytes, names: Sequence[str], where: str) -> np.ndarray | None:
    """Labels of the images `names` out of {"labels": [[name, label], ...] or null}.

    A label is a class index or a one-hot list. Every image must have one, and every label an image.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise DataError(f'{where}: an object with "labels" is wanted')
    entries = content.get("labels")
    if entries is None:
        return None
    if not isinstance(entries, list) or not all(
        isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str) for entry in entries
    ):
        raise DataError(f'{where}: "labels" is not a list of [name, label]')

    by_name = dict(entries)
    missing = [name for name in names if name not in by_name]
    if missing:
        raise DataError(f"{where}: {len(missing)} of {len(names)} images have no label, the first is {missing[0]}")
    if len(entries) != len(names):
        raise DataError(f"{where}: {len(entries)} labels for {len(names)} images")
    try:
        labels = np.array([by_name[name] for name in names])
    except (ValueError, OverflowError) as error:
        raise DataError(f"{where}: labels are neither all class indices nor one-hot lists of one length") from error
    return to_labels(labels, len(names), where)
