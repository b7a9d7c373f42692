"""The tensors of a checkpoint as safetensors files, and what a model's file says of itself; never pickle."""

import json
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rsd_fast import config as configs
from rsd_fast.config import RunConfig

KINDS = {"pretrain": "denoiser", "distill": "generator"}  # what the product of a run is


class RunError(Exception):
    """A run directory that cannot be used as asked; one line that names it."""


def save_model(path: Path, tensors: dict[str, Tensor], config: RunConfig, kimg: float) -> None:
    save_tensors(path, tensors, {"rsd_fast": model_record(config, kimg)})


def model_record(config: RunConfig, kimg: float) -> str:
    """What a model.safetensors says of itself, as JSON; `read_record` reads it."""
    return json.dumps({"kind": KINDS[config.kind], "config": configs.to_json(config), "kimg": f"{kimg:g}"})


def read_record(record: dict[str, str]) -> tuple[RunConfig, float]:
    """(config, kimg). Raises ValueError."""
    try:
        config, kimg = configs.from_json(record["config"]), float(record["kimg"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"not written by rsd-fast ({error})") from None
    if not 0 <= kimg < float("inf"):
        raise ValueError(f"kimg: expected at least 0, got {kimg}")
    return config, kimg


def load_model(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(state dict, {"kind", "config", "kimg"}) of a model.safetensors that rsd-fast wrote. Raises RunError."""
    tensors, metadata = load_tensors(path)
    try:
        return tensors, json.loads(metadata["rsd_fast"])
    except (KeyError, ValueError, RecursionError):
        raise RunError(f"{path}: not a model of rsd-fast (its metadata lacks 'rsd_fast')") from None


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise RunError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path}: not a readable safetensors file ({error})") from None


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    try:
        safetensors.torch.save_file(tensors, path, metadata)
    except SafetensorError as error:  # its message for a full disk does not name the file
        raise OSError(f"{path}: {error}") from None


def load_into(module: torch.nn.Module, tensors: dict[str, Tensor], path: Path | str, *, assign: bool = False) -> None:
    """Load a state dict strictly, by copies, or with `assign` the tensors themselves.

    Raises RunError, which names the first tensor that does not fit.
    """
    if assign:  # a copy would have had the module's dtype
        tensors = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    try:
        module.load_state_dict(tensors, assign=assign)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        if "size mismatch" not in reason:  # but all that are missing, or too much
            reason = reason.partition(", ")[0]
        raise RunError(f"{path}: does not fit its own configuration: {reason}") from None
