"""A folder of images, nested to any depth; links to files are followed, links to folders are not."""

import os
from pathlib import Path

from ..decode import image_names, read_images
from ..labels import JSON_NAME, labels_from_json
from ..reader import READERS, Reader
from ..rules import Contents


def read_folder(folder: Path) -> Contents:
    """Images [N, C, H, W] in the order of their relative paths, their masks, and labels if there is a `dataset.json`.

    Names of subfolders are not taken for classes.
    """

    def refuse(error: OSError) -> None:  # a folder that cannot be listed must not pass for an empty one
        raise error

    files = [
        os.path.relpath(os.path.join(root, file), folder).replace(os.sep, "/")
        for root, _, files in os.walk(folder, onerror=refuse)
        for file in files
    ]
    names, masks = image_names(files, str(folder))
    images, mask = read_images(names, masks, lambda name: os.path.join(folder, name), str(folder))
    index = folder / JSON_NAME
    labels = labels_from_json(index.read_bytes(), names, str(index)) if index.is_file() else None
    return Contents(images, labels, mask)


READERS.add(
    "folder",
    Reader(about="a folder of images", brief="folder", read=read_folder, claims=Path.is_dir, fallback=True),
)
