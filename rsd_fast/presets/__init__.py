"""Settings by name: one small file each, and the choice of one by image size and device.

A preset is a module whose docstring says what it is for, with any of

    OBSERVATIONS   options of the data: corruption, sigma_obs, cond
    OBJECTIVE      fields of config.Objective
    NETWORK        architecture, and fields of its settings; in_channels and label_dim come with the data
    PRETRAIN       fields of config.Training, of stage 1; augment_probability, for clean images
    DISTILL        fields of config.Training, of stage 2
    DISTILLATION   fields of config.Distillation

What it leaves out has the config's default; the command line overrides.
"""

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Any

from rsd_fast.errors import FieldError, nearest

SECTIONS = ("OBSERVATIONS", "OBJECTIVE", "NETWORK", "PRETRAIN", "DISTILL", "DISTILLATION")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The settings of one of the modules here; `observations` is its OBSERVATIONS, and so on."""

    name: str
    about: str
    augment_probability: float
    observations: dict[str, Any]
    objective: dict[str, Any]
    network: dict[str, Any]
    pretrain: dict[str, Any]
    distill: dict[str, Any]
    distillation: dict[str, Any]


def names() -> list[str]:
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Preset:
    """The preset of that name. FieldError that lists the known ones for an unknown one."""
    if name not in names():
        raise FieldError("preset", f"unknown preset '{name}'; known: {', '.join(names())}{nearest(name, names())}")
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    sections = {section.lower(): dict(getattr(module, section, {})) for section in SECTIONS}
    augment_probability = sections["pretrain"].pop("augment_probability", 0.0)
    return Preset(name=name, about=(module.__doc__ or "").strip(), augment_probability=augment_probability, **sections)


def choose(image_size: int, device: str) -> str:
    """What `auto` means: the published settings for the size on a GPU, what a CPU can carry there."""
    if image_size <= 16:
        return "digits"
    if device == "cpu":
        return "small"
    return "cifar10" if image_size <= 32 else "ffhq64"
