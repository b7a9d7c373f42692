"""`rsd_fast.evaluate`: how far the samples of a run, or a set of images, are from a reference."""

import os
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from rsd_fast import processes
from rsd_fast.errors import FieldError, nearest
from rsd_fast.evaluation import Evaluation, HowCompared, HowObserved, evaluate_path
from rsd_fast.evaluation.samples import is_run, named
from rsd_fast.sampler import Sampling
from rsd_fast.settings.device import resolve_device, resolve_precision


def evaluate(
    run: Any,
    *,
    metrics: str | Sequence[str] = "pixel-fd",
    reference: Any = None,
    num: int | None = None,
    seed: int = 0,
    device: str = "auto",
    **options: Any,
) -> list[Evaluation]:
    """Measure how far samples are from a reference; a run's results are also appended to its metrics.jsonl.

    run:       a run (its folder, RUN/best, a checkpoint, a model file, an id of the hub, or what `rsd_fast.pretrain`
               and `rsd_fast.distill` return), or images: a source, an array or tensor [N, C, H, W], a `Dataset`
    metrics:   names, as a sequence or with commas between; `rsd-fast evaluate --help` lists them
    reference: clean images, or an npz of published `mu` and `sigma` for fid; of only proximal metrics, what a run's
               data was
    num:       samples to draw, or images to use; by default as many as the reference has
    options:   those of `rsd-fast evaluate`, by their names: observations, corruption, sigma_obs, simulate; steps,
               truncate, precision, compile, cuda_graphs; features, features_weights, batch, cache; also progress (show
               bars on a terminal) and watch (a `Stopwatch`, which gets the seconds of each stage)

    Returns an `Evaluation` a metric. Raises FieldError, also for an option that is not known or does not apply,
    ValueError, DataError or RunError. Of several processes each draws a share of the samples and returns all results.
    """
    how = _grouped(options)
    source = run if isinstance(run, str | os.PathLike) else getattr(run, "path", run)
    device = resolve_device(device)
    if options.get("precision") is not None and not is_run(source):
        raise FieldError("precision", f"{named(source)} is no run, but a set of images")
    how["sampled"]["precision"] = resolve_precision(options.get("precision"), device)
    names = metrics.split(",") if isinstance(metrics, str) else metrics
    with processes.process_group(processes.local_device(device)):
        results = evaluate_path(
            [name.strip() for name in names if name.strip()],
            source,
            reference=reference,
            num=num,
            observed=HowObserved(**how["observed"]),
            sampled=Sampling(**how["sampled"]),
            compared=HowCompared(**how["compared"], seed=seed, device=device),
        )
        processes.barrier()
    return results


def _grouped(options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The options by what they say: of observations, samples or the comparison. FieldError for one that is unknown."""
    kinds = {"observed": HowObserved, "sampled": Sampling, "compared": HowCompared}
    groups = {field.name: group for group, kind in kinds.items() for field in fields(kind)}
    grouped: dict[str, dict[str, Any]] = {group: {} for group in kinds}
    for name, value in options.items():
        if name not in groups:
            raise FieldError(name, f"unknown option of evaluate{nearest(name, groups)}")
        grouped[groups[name]][name] = value
    return grouped
