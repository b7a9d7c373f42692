"""Evaluating what a path names: a run, whose samples are drawn, or images already there."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

from torch import Tensor

from rsd_fast import corruptions
from rsd_fast.config import Observations
from rsd_fast.corruptions import DrawnCorruption, NoiseLevels
from rsd_fast.data import ObservedDataset, open_source
from rsd_fast.engine import Run, distributed
from rsd_fast.hub.fetch import means_id
from rsd_fast.loading import Sampler
from rsd_fast.train import noise_levels, open_observations

from .metrics import METRICS, Evaluation, Reference, evaluate, in_batches

PROXIMAL_SEED = 0x5851F42D4C957F2D  # added to the seed: masks, levels and noise apart from the data's own


def evaluate_path(
    metrics: list[str],
    path: str,
    *,
    reference: str | None = None,
    observations: str | None = None,
    corruption: str | None = None,
    sigma_obs: float | None = None,
    simulate: bool = False,
    num: int | None = None,
    steps: int = 18,
    truncate: bool = False,
    batch: int = 256,
    seed: int = 0,
    device: str = "cpu",
    precision: str = "fp32",
    compile: bool = False,
    cuda_graphs: bool = False,
) -> list[Evaluation]:
    """The named metrics of `path`; a run's are also appended to its metrics.jsonl.

    path: a run, checkpoint folder or model file, or a source of images. reference: clean images; where only proximal
    metrics are asked for, what a run's --data was. observations: real observations, by default those the run was
    trained on; with simulate, clean images still to be corrupted. corruption, sigma_obs: how they came about, for a
    path that is no run. num: samples, by default as many as there are reference images.
    Raises ValueError, also for options that do not apply, DataError or RunError.
    """
    if not metrics:
        raise ValueError(f"metrics: none given; known: {', '.join(METRICS)}")
    for metric in metrics:
        if metric not in METRICS:
            raise ValueError(f"metrics: unknown metric '{metric}'; known: {', '.join(METRICS)}")
    proximal = [metric for metric in metrics if metric.startswith("proximal-")]
    if len(proximal) < len(metrics) and reference is None:
        raise ValueError("reference: the metric compares with clean images; say which")
    how = {"corruption": corruption, "sigma_obs": sigma_obs, "simulate": simulate or None, "observations": observations}
    for name, value in how.items():
        if value is not None and not proximal:
            raise ValueError(f"{name}: applies to proximal metrics, and none is asked for")
    sampler = None
    if is_run(path):
        sampler = Sampler(
            path,
            device,
            steps=steps,
            truncate=truncate,
            precision=precision,
            compile=compile,
            cuda_graphs=cuda_graphs,
        )
        if corruption is not None or sigma_obs is not None:
            name = "corruption" if corruption is not None else "sigma_obs"
            raise ValueError(f"{name}: {path} is a run, and says itself how its observations came about")
    elif truncate:
        raise ValueError(f"truncate: {path} is no run, but a set of images")
    if proximal == metrics and observations is None and reference is not None:
        observations = reference
        simulate = simulate or (sampler is not None and sampler.config.observations.simulate)
    if simulate and observations is None:
        raise ValueError("simulate: applies to --observations, and none are given")

    references: dict[str, Reference] = {}
    count = 0
    if proximal:
        config = sampler.config.observations if sampler is not None else None
        data = _observations(config, observations, corruption, sigma_obs, simulate, seed)
        count = len(data)
        references["observed"] = Reference(name=data.source.name, batches=in_batches(count, data.pictures))
    if len(proximal) < len(metrics):
        clean = open_source(str(reference))
        count = len(clean)
        read: Callable[[Tensor], Tensor] = clean.tensor
        if clean.kspace:
            if sampler is None:
                raise ValueError(f"reference: {reference} is k-space; only a run says how to make images of it")
            operator = corruptions.parse(sampler.config.observations.corruption)
            read = ObservedDataset(clean, corruption=operator, sigma_obs=0.0, seed=seed, simulate=False).pictures
        references["clean"] = Reference(name=clean.name, batches=in_batches(count, read))

    samples: Iterator[Tensor]
    if sampler is not None:
        num = num or count
        samples = sampler.batches(num, seed, batch)
    else:
        images = open_source(path)
        samples = in_batches(min(num or count, len(images)), images.tensor)

    def observe(images: Tensor, index: Tensor) -> Tensor:
        operator = data.corruption.pooled() if isinstance(data.corruption, DrawnCorruption) else data.corruption
        if sampler is not None and not sampler.one_step and not sampler.config.objective.conditional:
            operator = corruptions.Identity()  # such a teacher makes A x already
        own = (seed + PROXIMAL_SEED) % 2**64
        levels = replace(data.levels, pool=True).of(index, own)
        seen = corruptions.observation(operator, images, index=index, sigma_obs=levels, seed=own)
        return operator.picture(seen.y, seen.draw)

    results = evaluate(metrics, samples, observe=observe, **references)
    if sampler is not None:
        checkpoint = sampler.file.parent.name
        results = [replace(result, seed=seed, kimg=sampler.kimg, checkpoint=checkpoint) for result in results]
        run = Run(Path(path))
        if run.exists() and distributed.rank() == 0:
            with run.metrics_path.open("a", encoding="utf-8") as log:
                log.writelines(json.dumps(asdict(result)) + "\n" for result in results)
    return results


def is_run(path: str) -> bool:
    """Does the path name a run, a checkpoint folder, a model file or one on the hub (rather than images)?"""
    folder = Path(path)
    if not folder.exists() and means_id(path):
        return True
    return folder.suffix == ".safetensors" or any((folder / n).is_file() for n in ("config.json", "model.safetensors"))


def _observations(
    run: Observations | None,
    source: str | None,
    corruption: str | None,
    sigma_obs: float | None,
    simulate: bool,
    seed: int,
) -> ObservedDataset:
    """The real observations to compare with: the run's, or those of `source`."""
    if run is not None and source is None:
        return open_observations(run)
    if source is None:
        raise ValueError("observations: a proximal metric compares with real observations; say which")
    levels: float | NoiseLevels
    if run is not None:
        simulate, seed, corruption = simulate or run.simulate, run.seed, run.corruption
        images = open_source(source, observations=not simulate, sigma_obs_max=run.sigma_obs)
        levels = noise_levels(run, images)
    else:
        if corruption is None or sigma_obs is None:
            raise ValueError("observations: say how they came about, with --corruption and --sigma-obs")
        images = open_source(source, observations=not simulate, sigma_obs_max=sigma_obs)
        if images.sigma is not None:
            raise ValueError(f"observations: {source} holds sigma_obs of each image; evaluate a run, which knows of it")
        levels = sigma_obs
    return ObservedDataset(
        images, corruption=corruptions.parse(corruption), sigma_obs=levels, seed=seed, simulate=simulate
    )
