"""A folder of images, nested to any depth; links to files are followed, links to folders are not."""

import os
from pathlib import Path

import numpy as np

from .decode import image_names, read_images
from .labels import JSON_NAME, labels_from_json


def read_folder(folder: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Images [N, C, H, W] in the order of their relative paths, and labels [N] if there is a `dataset.json`.

    Names of subfolders are not taken for classes.
    """

    def refuse(error: OSError) -> None:  # a folder that cannot be listed must not pass for an empty one
        raise error

    files = [
        os.path.relpath(os.path.join(root, file), folder).replace(os.sep, "/")
        for root, _, files in os.walk(folder, onerror=refuse)
        for file in files
    ]
    names = image_names(files, str(folder))
    images = read_images(names, lambda name: os.path.join(folder, name), str(folder))
    index = folder / JSON_NAME
    labels = labels_from_json(index.read_bytes(), names, str(index)) if index.is_file() else None
    return images, labels
