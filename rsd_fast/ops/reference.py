"""Every op in plain PyTorch, under its public name: what the other backends are tested against.

``blur`` here is ``blur_reference`` of the file that has ``ops.blur``, and so on.
"""

from collections.abc import Callable
from typing import Any

from . import _library

_SUFFIX = "_reference"


def __getattr__(name: str) -> Callable[..., Any]:
    for module in _library.modules():
        if hasattr(module, name + _SUFFIX):
            return getattr(module, name + _SUFFIX)
    raise AttributeError(f"rsd_fast.ops has no public op {name!r}")


def __dir__() -> list[str]:
    names = {name for module in _library.modules() for name in vars(module) if name.endswith(_SUFFIX)}
    return sorted(name.removesuffix(_SUFFIX) for name in names)
