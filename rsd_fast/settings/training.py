"""The engine's settings of either stage: a preset's under those that were given."""

import dataclasses
import os
import shutil
from typing import Any

from rsd_fast import presets, processes
from rsd_fast.config import Training

from .device import resolve_precision
from .names import Settings, about, fields_of

COMPILED_STEPS = 2000  # a run of so many steps or more is compiled, unless the user says otherwise


def resolve_preset(name: str | None) -> presets.Preset | None:
    """The preset of that name; None for "auto". FieldError for an unknown one."""
    if name in (None, "auto"):
        return None
    with about("preset"):
        return presets.load(str(name))


def resolve_training(preset: dict[str, Any], settings: Settings, device: str, *, distilling: bool = False) -> Training:
    """preset: fields of config.Training. Raises FieldError, also where processes do not fit the batch."""
    precision = resolve_precision(settings["precision"], device)
    training = Training(**{**preset, **fields_of(Training, settings), "device": device, "precision": precision})
    if distilling and settings["compile"] is None and "compile" not in preset:
        training = dataclasses.replace(training, compile=compile_pays(training))
    processes.share(training.batch, training.micro_batch)  # for its error, before anything is written
    return training


def compile_pays(training: Training) -> bool:
    """Is it a gain to compile the networks of a distillation? On a CPU that takes a minute or two and a C++ compiler,
    and a tenth off a step then; what it does on a GPU has not been measured. Of `pretrain` it made nothing faster."""
    steps = training.kimg * 1000 / training.batch
    has_compiler = shutil.which(os.environ.get("CXX", "g++")) is not None
    return training.device == "cpu" and steps >= COMPILED_STEPS and has_compiler
