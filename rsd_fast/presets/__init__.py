"""Settings by name: one small file each, and the choice of one by image size and device.

A preset holds NETWORK (fields of config.Network), PRETRAIN and DISTILL (fields of config.Training), and
DISTILLATION (fields of config.Distillation). What it leaves out has the config's default; the command line overrides.
"""

import importlib
import pkgutil
from types import ModuleType


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> ModuleType:
    """The preset of that name. Raises ValueError that lists the known ones."""
    if name not in names():
        raise ValueError(f"unknown preset '{name}'; known: auto, {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")


def choose(image_size: int, device: str) -> str:
    """What `auto` means: the published settings for the size on a GPU, what a CPU can carry there."""
    if image_size <= 16:
        return "digits"
    if device == "cpu":
        return "small"
    return "cifar10" if image_size <= 32 else "ffhq64"
