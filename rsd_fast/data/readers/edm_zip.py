"""An EDM-style zip: images in nested folders, labels in `dataset.json`, read in place."""

from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from ..decode import image_names, read_images
from ..errors import DataError, first_line
from ..labels import JSON_NAME, labels_from_json
from ..reader import READERS, Reader
from ..rules import Contents


def read_zip(path: Path) -> Contents:
    """Images [N, C, H, W] in the order of their names in the archive, their masks and labels, where it has them."""
    try:
        archive = ZipFile(path)
    except BadZipFile as error:
        raise DataError(f"{path}: not a zip archive ({first_line(error)})") from error
    with archive:
        members = archive.namelist()
        names, masks = image_names(members, str(path))
        images, mask = read_images(names, masks, lambda name: BytesIO(archive.read(name)), str(path))
        if JSON_NAME not in members:
            return Contents(images, mask=mask)
        where = f"{path}/{JSON_NAME}"
        try:
            text = archive.read(JSON_NAME)
        except Exception as error:  # zipfile raises half a dozen kinds on damaged members
            raise DataError(f"{where}: cannot be read ({first_line(error)})") from error
        return Contents(images, labels_from_json(text, names, where), mask)


READERS.add("zip", Reader(about="an EDM-style .zip", brief=".zip", read=read_zip, suffixes=(".zip",)))
