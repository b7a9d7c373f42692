"""Trained networks from a run directory, a checkpoint folder, a model.safetensors file or the Hugging Face hub."""

import os
from pathlib import Path
from typing import NamedTuple

import torch

from . import corruptions
from .build import build_denoiser
from .config import Distill, Pretrain, RunConfig
from .corruptions import Corruption
from .generator import Generator
from .hub import fetch, means_id
from .networks import Denoiser, place
from .runs import POINTERS, Run, RunError, load_into, load_model, read_record


def load_generator(
    path: str | os.PathLike, device: str | torch.device = "cpu", *, corruption: Corruption | None = None
) -> Generator:
    """The one-step generator of a distillation, averaged weights, in evaluation mode.

    path: a run directory (its latest checkpoint), a checkpoint folder, a model.safetensors file, or the id of a model
    on the Hugging Face hub, `user/name` or `user/name@revision`. corruption: the operator, where its SPEC says too
    little.
    Raises RunError, one line that names the path, where it holds none.
    """
    denoiser, config, _ = load(path, device, corruption=corruption)
    if not isinstance(config, Distill):
        raise RunError(f"{path}: holds a teacher, not a one-step generator; make one with rsd-fast distill")
    return Generator(denoiser, config, corruption).eval()


def load_denoiser(
    path: str | os.PathLike, device: str | torch.device = "cpu", *, corruption: Corruption | None = None
) -> Denoiser:
    """The teacher D(x, sigma) of a pretraining, averaged weights, in evaluation mode. Arguments as load_generator."""
    denoiser, config, _ = load(path, device, corruption=corruption)
    if not isinstance(config, Pretrain):
        raise RunError(f"{path}: holds a one-step generator, not a teacher; use load_generator")
    return denoiser


class Loaded(NamedTuple):
    network: Denoiser  # averaged weights, frozen
    config: RunConfig  # the settings of its run
    kimg: float  # thousand images that it was trained on


def load(
    path: str | os.PathLike,
    device: str | torch.device = "cpu",
    *,
    trusted: bool = False,
    corruption: Corruption | None = None,
) -> Loaded:
    """The product of a run of either kind. Arguments and errors as load_generator.

    An operator in a module of one's own is imported only for runs, and for files that are `trusted`.
    """
    file = model_file(path)
    tensors, metadata = load_model(file)
    try:
        config, kimg = read_record(metadata)
        if not trusted and corruption is None and Run.of(file) is None:
            refuse_foreign(config)
        with torch.device("meta"):  # so that nothing is allocated that the file does not hold
            denoiser = build_denoiser(config, corruption)
    except ValueError as error:
        raise RunError(f"{file}: {error}") from None
    denoiser.hold_banks(tensors)
    load_into(denoiser, tensors, file, assign=True)
    return Loaded(place(denoiser, device).eval().requires_grad_(False), config, kimg)


def refuse_foreign(config: RunConfig) -> None:
    """Raise ValueError for a SPEC that names no operator, or one in a module that is not imported yet.

    A file must not choose what is imported.
    """
    try:
        with corruptions.without_imports():
            corruptions.parse(config.observations.corruption)
    except RecursionError:
        raise ValueError("names an operator of too many parts") from None


def model_file(path: str | os.PathLike) -> Path:
    """The model.safetensors that `path` means.

    path: such a file, a checkpoint's folder, RUN, which means its newest checkpoint, RUN/best, or a model's id on the
    hub. Raises RunError.
    """
    name, path = path, Path(path)
    if path.is_file() and path.name in POINTERS:
        return Run(path.parent).named(path.name) / "model.safetensors"
    if path.is_file():
        return path
    if not path.exists() and means_id(name):
        return fetch(os.fspath(name))
    if not path.exists():
        raise RunError(f"{path}: no such run, checkpoint folder or file")
    if (path / "model.safetensors").is_file():
        return path / "model.safetensors"
    if not (path / "config.json").is_file():
        raise RunError(f"{path}: not a run (it has no config.json)")
    return Run(path).latest() / "model.safetensors"
