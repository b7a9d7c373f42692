"""Image sources, their observations, and the files this library writes images to.

Each name is loaded on first use, so that what only lists the kinds of sources (`readers`) does not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .array import ImageArray as ImageArray
    from .dataset import ObservedDataset as ObservedDataset
    from .errors import DataError as DataError
    from .readers.bundled import BUNDLED as BUNDLED
    from .source import IN_MEMORY as IN_MEMORY
    from .source import Source as Source
    from .source import open_source as open_source
    from .source import source_name as source_name
    from .write import check_destination as check_destination
    from .write import magnitude as magnitude
    from .write import to_rgb as to_rgb
    from .write import to_uint8 as to_uint8
    from .write import write_npz as write_npz
    from .write import write_png_folder as write_png_folder
    from .write_kspace import write_h5 as write_h5

_MODULES = {
    "BUNDLED": "readers.bundled",
    "DataError": "errors",
    "IN_MEMORY": "source",
    "ImageArray": "array",
    "ObservedDataset": "dataset",
    "Source": "source",
    "check_destination": "write",
    "magnitude": "write",
    "open_source": "source",
    "source_name": "source",
    "to_rgb": "write",
    "to_uint8": "write",
    "write_h5": "write_kspace",
    "write_npz": "write",
    "write_png_folder": "write",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
