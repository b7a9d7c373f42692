"""`rsd_fast.cli` and `rsd_fast.kernels` in a checkout, where their folders lie beside this package and not in it."""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).parent
ROOT = PACKAGE.parent
FOLDERS = {f"{PACKAGE.name}.{name}": ROOT / name for name in ("cli", "kernels")}


class BesideThePackage(MetaPathFinder):
    """Finds the two packages, and leaves all that is in them to Python's own finders."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        folder = FOLDERS.get(fullname)
        if folder is None:
            return None
        return spec_from_file_location(fullname, folder / "__init__.py", submodule_search_locations=[str(folder)])


def is_checkout() -> bool:
    """Is this package in its source tree, rather than installed as a whole?"""
    return not (PACKAGE / "cli" / "__init__.py").is_file() and (ROOT / "setup.py").is_file()


def install_finder() -> None:
    """Let a checkout import what `pip install` would have put into the package, before what is installed elsewhere."""
    if is_checkout():
        sys.meta_path.insert(0, BesideThePackage())
