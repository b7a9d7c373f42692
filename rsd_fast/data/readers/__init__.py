"""The kinds of sources, one module each, which registers a `Reader`.

All modules here are imported with the package, in the order of their names: a new kind is a new file. They import torch
nowhere, so that the help of `--data` can list them at once, and the packages that only they need where they read.
"""

import importlib
import pkgutil

from ..reader import READERS, Reader, brief_kinds, kinds, reader_of

__all__ = ["READERS", "Reader", "brief_kinds", "kinds", "reader_of"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
