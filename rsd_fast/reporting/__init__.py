"""One page about a run, for somebody who knows neither the paper nor the code: did it work, and how can one tell?"""

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from rsd_fast import files, pictures
from rsd_fast.corruptions import Corruption
from rsd_fast.data import DataError, ImageArray, ObservedDataset
from rsd_fast.errors import FieldError
from rsd_fast.run_dataset import open_observations
from rsd_fast.runs import RunError
from rsd_fast.sampler import Sampler

from . import figures, from_model
from .page import Content, render
from .reading import Record, read_record
from .verdict import judge, signs

__all__ = ["Written", "write_report"]

PICTURED = 64  # observations in a grid, as many as samples


class Written(NamedTuple):
    """The page, and what it says first."""

    path: Path
    headline: str


def write_report(
    run: str | os.PathLike,
    out: str | os.PathLike | None = None,
    *,
    png: str | os.PathLike | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    corruption: Corruption | None = None,
    source: ImageArray | None = None,
) -> Written:
    """Write the report of the run directory `run` as one HTML file, by default RUN/report.html, over an older one.

    png: a folder for its figures as PNG files. seed, device: of the samples that are drawn for it. corruption: the
    run's operator, where it was given as an object. source: its data, where they were given in memory.
    Raises FieldError for another suffix or a folder, and RunError where there is no run. What the run lacks is left
    out, and the page says so.
    """
    record = read_record(run)
    path = record.run.path / "report.html" if out is None else Path(out)
    if path.suffix not in (".html", ".htm"):
        raise FieldError("out", f"expected FILE.html, got {path}")
    if path.is_dir():
        raise FieldError("out", f"{path} is a folder")
    content = gather(record, seed, device, corruption, source)
    if png is not None:
        write_figures(content, Path(png))
    files.write_text(path, render(content))
    return Written(path, content.verdict.headline)


def gather(
    record: Record,
    seed: int,
    device: str | torch.device,
    corruption: Corruption | None = None,
    source: ImageArray | None = None,
) -> Content:
    """Everything that the page shows."""
    dataset, sampler = _dataset(record, corruption, source), _sampler(record, device, corruption)
    neighbours = _neighbours(sampler, dataset, seed)
    verdict = judge(record)
    return Content(
        record=record,
        verdict=verdict,
        signs=signs(record, None if isinstance(neighbours, str) else neighbours.share),
        parameters=None if isinstance(sampler, str) else from_model.parameters_of(sampler),
        observations=_observations(record, dataset),
        neighbours=neighbours,
        paths=_paths(sampler, seed),
        bars=figures.verdict_bars(verdict),
        metrics=figures.metric_curves(record),
        losses=figures.losses(record),
        signals=figures.signals(record),
        throughput=figures.throughput(record),
    )


def _dataset(record: Record, corruption: Corruption | None, source: ImageArray | None) -> ObservedDataset | str:
    try:
        return open_observations(record.config.observations, source, corruption)
    except (DataError, OSError, ValueError) as error:  # also of an operator that is no longer there
        return str(error)


def _sampler(record: Record, device: str | torch.device, corruption: Corruption | None) -> Sampler | str:
    if record.sampled is None:
        return "the run has no checkpoint"
    try:
        return Sampler(record.run.path / "checkpoints" / record.sampled, device, corruption=corruption)
    except (RunError, ValueError) as error:
        return str(error)


def _neighbours(sampler: Sampler | str, dataset: ObservedDataset | str, seed: int) -> from_model.Neighbours | str:
    if isinstance(sampler, str):
        return sampler
    if isinstance(dataset, str):
        return f"the data cannot be opened: {dataset}"
    if len(dataset) <= from_model.NEAREST:
        return "there are too few observations"
    return from_model.neighbours(sampler, dataset, seed)


def _paths(sampler: Sampler | str, seed: int) -> Image.Image | str:
    if isinstance(sampler, str):
        return sampler
    if not sampler.one_step:
        return "only a one-step generator makes an image of one latent"
    return pictures.grid(from_model.paths(sampler, seed), columns=from_model.COLUMNS)


def _observations(record: Record, dataset: ObservedDataset | str) -> Image.Image | str:
    """As training showed them, or from the data: a distillation's run has no picture of them."""
    path = record.run.samples / "observations.png"
    with contextlib.suppress(OSError):  # there is none, or a broken one
        return Image.open(path).convert("RGB")
    if isinstance(dataset, str):
        return dataset
    return pictures.grid(dataset.pictures(torch.arange(min(PICTURED, len(dataset)))))


def write_figures(content: Content, folder: Path) -> None:
    """All figures as PNG files, and the pictures that are drawn for the page."""
    for figure in content.figures:
        with files.atomic_file(folder / f"{figure.name}.png") as temporary:
            figure.save(temporary)
    if isinstance(content.paths, Image.Image):
        pictures.save(content.paths, folder / "interpolation.png")
    n = content.neighbours
    if not isinstance(n, str):
        rows = [("sample", n.samples), ("corrupted", n.corrupted)]
        rows += [(f"observation,\n{k + 1}. nearest", n.nearest[:, k]) for k in range(n.nearest.shape[1])]
        pictures.save(pictures.labelled_rows(rows), folder / "neighbours.png")
