"""What a run says of itself in its files, old and broken ones included: what cannot be read is left out."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rsd_fast.config import Distill, RunConfig
from rsd_fast.evaluation.metrics import METRICS, family, is_proximal
from rsd_fast.runs import POINTERS, Run, RunError, read_lines

Line = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One line of metrics.jsonl; NaN where it does not say."""

    metric: str
    features: str
    value: float
    error: float  # standard error of the value
    floor: float  # the distance that as many real images would have
    num: float
    kimg: float
    checkpoint: str
    line: Line  # all that the file says

    @property
    def proximal(self) -> bool:
        return is_proximal(self.metric)

    @property
    def distance(self) -> bool:
        """Is less of it better? Not of a metric that is not known, as that of somebody else's file."""
        return family(self.metric) in METRICS and METRICS[family(self.metric)].lower_is_better

    @property
    def measure(self) -> tuple[str, ...]:
        """By what it was measured, whoever made the samples."""
        reference = self.line.get("reference_hash") or self.line.get("reference")
        others = (self.line.get(name) for name in ("features_hash", "num_reference", "settings"))
        return self.metric, self.features, f"{self.num:g}", str(reference), *map(str, others)

    @property
    def comparable(self) -> tuple[str, ...]:
        """Measurements of one model's checkpoints are compared only where this is equal."""
        return *self.measure, str(self.line.get("sampling"))


@dataclass(frozen=True, kw_only=True)
class Record:
    """A run, as its files tell it."""

    run: Run
    config: RunConfig
    log: list[Line]  # by kimg
    measurements: list[Measurement]
    of_teacher: list[Measurement]  # of the checkpoint that was distilled, where its run is still there
    grids: list[tuple[str, Path]]  # (kimg, picture), oldest first
    best: str | None  # name of a checkpoint
    newest: str | None

    def column(self, name: str) -> np.ndarray:
        """A value of every log line; NaN where it is missing or no finite number."""
        return finite([number(line.get(name)) for line in self.log])

    @property
    def kimg(self) -> np.ndarray:
        return self.column("kimg")

    @property
    def edges(self) -> list[float]:
        """Where the bands of noise levels begin and end, by which the log tells losses apart; none in old logs."""
        all_edges = [part["edges"] for part in map(_parts, self.log) if isinstance(part.get("edges"), list)]
        return [number(edge) for edge in all_edges[-1]] if all_edges else []

    def by_sigma(self, name: str) -> np.ndarray:
        """[lines, bands] of a statistic; NaN where a band had none, or the log does not tell."""
        bands = max(len(self.edges) - 1, 0)
        rows = [_parts(line).get(name) for line in self.log]
        fitting = [row if isinstance(row, list) and len(row) == bands else [None] * bands for row in rows]
        return finite([[number(value) for value in row] for row in fitting]).reshape(len(rows), bands)

    def names(self, suffix: str) -> list[str]:
        """The names of the log's values that end so, in the order of their appearance."""
        return list(dict.fromkeys(name for line in self.log for name in line if name.endswith(suffix)))

    @property
    def sampled(self) -> str | None:
        """The checkpoint that the report draws from."""
        return self.best or self.newest

    @property
    def seconds(self) -> float:
        return last(self.column("seconds"))


def read_record(path: str | os.PathLike) -> Record:
    """Raises RunError where there is no run."""
    path = Path(path)
    run = Run(path.parent if path.is_file() and path.name in POINTERS else path)
    if not run.path.exists():
        raise RunError(f"{run.path}: no such run")
    config = run.read_config()
    log = [line for line in read_lines(run.log_path) if math.isfinite(number(line.get("kimg")))]
    return Record(
        run=run,
        config=config,
        log=sorted(log, key=lambda line: number(line["kimg"])),
        measurements=_measurements(run),
        of_teacher=_of_teacher(config) if isinstance(config, Distill) else [],
        grids=_grids(run.samples),
        best=_named(run, "best"),
        newest=_named(run, "latest"),
    )


def number(value: Any) -> float:
    """The number that a JSON value is; NaN where it is none."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def finite(values: Any) -> np.ndarray:
    """float64, NaN for whatever is not finite."""
    array = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(array), array, np.nan)


def last(values: np.ndarray) -> float:
    """The last that is a number; NaN where there is none."""
    known = values[np.isfinite(values)]
    return float(known[-1]) if len(known) else math.nan


def _parts(line: Line) -> Line:
    """What a log line says by noise level."""
    parts = line.get("by_sigma")
    return parts if isinstance(parts, dict) else {}


def _measurements(run: Run) -> list[Measurement]:
    return [
        Measurement(
            metric=line["metric"],
            features=str(line.get("features") or "pixels"),
            value=number(line.get("value")),
            error=number(line.get("standard_error")),
            floor=number(line.get("floor")),
            num=number(line.get("num")),
            kimg=number(line.get("kimg")),
            checkpoint=str(line.get("checkpoint") or ""),
            line=line,
        )
        for line in run.metrics()
        if isinstance(line.get("metric"), str)
    ]


def _of_teacher(config: Distill) -> list[Measurement]:
    checkpoint = Path(config.teacher).parent
    run = Run(checkpoint.parent.parent)
    return [measurement for measurement in _measurements(run) if measurement.checkpoint == checkpoint.name]


def _grids(folder: Path) -> list[tuple[str, Path]]:
    """The sample grids KIMG.png that are whole."""
    grids = []
    for path in folder.glob("*.png"):
        try:
            with Image.open(path) as picture:
                picture.verify()
            grids.append((float(path.stem), path))
        except (ValueError, OSError, SyntaxError):  # the observations, a stranger's, or a broken one
            continue
    return [(f"{kimg:g}", path) for kimg, path in sorted(grids)]


def _named(run: Run, file: str) -> str | None:
    """The checkpoint that RUN/best or RUN/latest names, if it is there."""
    try:
        name = (run.path / file).read_text(encoding="utf-8").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return name if name and (run.path / "checkpoints" / name / "model.safetensors").is_file() else None
