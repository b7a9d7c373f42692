"""A metric's value, and all that it was computed from."""

import importlib.metadata
import platform
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch

from rsd_fast import __version__


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One metric's value, and all it was computed from."""

    metric: str
    value: float
    standard_error: float | None = None  # as another sample of that number would scatter it; None: not known
    floor: float | None = None  # the value that as many images of the reference's kind would have
    num: int  # samples
    reference: str | None
    num_reference: int | None
    reference_hash: str | None = None  # SHA-256 of what it holds
    features: str = "pixels"
    features_hash: str | None = None  # SHA-256 of the network's weights
    settings: dict[str, Any] = field(default_factory=dict)  # of the metric, where it has some
    sampling: dict[str, Any] = field(default_factory=dict)  # how a run's samples were drawn, or images observed
    seed: int | None = None  # of the samples, where they were drawn from a run
    kimg: float | None = None
    checkpoint: str | None = None
    model_hash: str | None = None  # SHA-256 of the model's file
    training: bool = False  # by the run itself, while it trained
    versions: dict[str, str] = field(default_factory=dict)


def software() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    versions = {"rsd-fast": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for package in ("numpy", "torch-fidelity", "torchmetrics"):
        if find_spec(package.replace("-", "_")):
            versions[package] = importlib.metadata.version(package)
    return versions
