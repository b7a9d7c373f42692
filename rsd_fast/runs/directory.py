"""A run directory and its checkpoints: safetensors and JSON, never pickle; each appears whole or not at all.

RUN/config.json, log.jsonl, metrics.jsonl, samples/, latest
RUN/checkpoints/KIMG/model.safetensors      the product (EMA weights); metadata says kind and config
RUN/checkpoints/KIMG/training.safetensors   weights being trained and the optimisers' moments, newest checkpoint only
RUN/checkpoints/KIMG/state.json             counters
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rsd_fast import config as configs
from rsd_fast import files
from rsd_fast.config import RunConfig

from .model_file import RunError, load_tensors, save_model, save_tensors

POINTERS = ("latest", "best")  # files of a run that name a checkpoint
OWN_NAMES = {
    "config.json",
    "log.jsonl",
    "metrics.jsonl",
    "samples",
    "tensorboard",
    "wandb",
    "checkpoints",
    "latest",
    "best",
    "report.html",
    "teacher.safetensors",
}


@dataclass(frozen=True)
class Run:
    """The directory of a run."""

    path: Path

    @property
    def config_path(self) -> Path:
        return self.path / "config.json"

    @property
    def log_path(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def teacher_path(self) -> Path:
        """A distillation's own copy of its teacher."""
        return self.path / "teacher.safetensors"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @classmethod
    def of(cls, file: Path) -> "Run | None":
        """The run in whose directory a model lies; None for a model that came by itself."""
        folder = file.absolute().parent
        run = cls(folder.parent.parent if folder.parent.name == "checkpoints" else folder)
        return run if run.exists() and (run.path / "checkpoints").is_dir() else None

    def exists(self) -> bool:
        return self.config_path.is_file()

    def refuse_foreign_files(self) -> None:
        """RunError if the path holds anything but a run, or what a run killed in its first moments left."""
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path}: is a file; expected a folder for the run")
        foreign = [entry.name for entry in self.path.iterdir() if not _is_own(entry.name)] if self.path.is_dir() else []
        if foreign:
            raise RunError(f"{self.path}: not empty (it holds {sorted(foreign)[0]}) and not a run; use a new folder")

    def remove_leftovers(self) -> None:
        """Delete what a killed process left under temporary names."""
        for folder in (self.path, self.path / "checkpoints", self.samples):
            files.remove_leftovers(folder)

    def read_config(self) -> RunConfig:
        try:
            return configs.from_json(self.config_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"{self.path}: not a run (it has no config.json)") from None
        except (ValueError, UnicodeDecodeError) as error:
            raise RunError(f"{self.config_path}: {error}") from None

    def write_config(self, config: RunConfig) -> None:
        files.write_text(self.config_path, configs.to_json(config))

    def latest(self) -> Path:
        """The newest checkpoint's folder. Raises RunError if there is none."""
        return self.named("latest")

    def named(self, pointer: str) -> Path:
        """The folder of the checkpoint that RUN/latest or RUN/best names. Raises RunError if there is none."""
        try:
            name = (self.path / pointer).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            raise RunError(f"{self.path}: no checkpoint (not a run, or it was stopped before its first)") from None
        checkpoint = self.path / "checkpoints" / name
        if not (checkpoint / "model.safetensors").is_file():
            raise RunError(f"{checkpoint}: named by {self.path / pointer}, but it holds no model.safetensors")
        return checkpoint

    def save(self, kimg: float, config: RunConfig, product: dict[str, Tensor], training: "TrainingState") -> Path:
        """Write a checkpoint and make it the latest. The one before keeps only its product."""
        folder = self.checkpoint(kimg)
        with files.atomic_folder(folder) as temporary:
            save_model(temporary / "model.safetensors", product, config, kimg)
            save_tensors(temporary / "training.safetensors", training.tensors, {})
            (temporary / "state.json").write_text(json.dumps(training.counters, indent=2) + "\n", encoding="utf-8")
        files.write_text(self.path / "latest", folder.name + "\n")
        self.write_config(config)  # last: a folder is a run once it can be resumed
        for older in folder.parent.glob("*/training.safetensors"):
            if older.parent != folder:
                older.unlink()  # as large as three models; only the newest can be resumed from
        return folder

    def checkpoint(self, kimg: float) -> Path:
        """The folder of the checkpoint at so many images, which need not be there."""
        return self.path / "checkpoints" / checkpoint_name(kimg)

    def log(self) -> list[dict[str, Any]]:
        """The records of log.jsonl, one a tick."""
        return read_lines(self.log_path)

    def metrics(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl, one an evaluation."""
        return read_lines(self.metrics_path)

    def add_metrics(self, records: list[dict[str, Any]]) -> None:
        """Append evaluations."""
        path = self.metrics_path
        cut = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
        with path.open("a", encoding="utf-8") as file:
            file.write("\n" * cut + "".join(json.dumps(record) + "\n" for record in records))

    def load_training(self) -> "TrainingState":
        checkpoint = self.latest()
        tensors, _ = load_tensors(checkpoint / "training.safetensors")
        product, _ = load_tensors(checkpoint / "model.safetensors")
        try:
            counters = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{checkpoint / 'state.json'}: {error}") from None
        return TrainingState(tensors=tensors, product=product, counters=counters)


@dataclass
class TrainingState:
    """All that a resumed run needs, beyond its config."""

    tensors: dict[str, Tensor]
    counters: dict[str, Any]
    product: dict[str, Tensor]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines. Lines that are no objects are left out, as one that a kill cut short is."""
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def checkpoint_name(kimg: float) -> str:
    """Sorts by age: 000064, or 000064.128 where thousands do not divide."""
    return f"{kimg:06.0f}" if kimg == int(kimg) else f"{kimg:010.3f}"


def refuse_existing(path: Path) -> None:
    """RunError where something is there already, but for an empty folder."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise RunError(f"{path}: exists already")


def _is_own(name: str) -> bool:
    return name in OWN_NAMES or name.startswith(files.TEMPORARY_PREFIX)
