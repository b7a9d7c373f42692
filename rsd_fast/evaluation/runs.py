"""Evaluating what a path names: a run, whose samples are drawn, or images already there."""

import warnings
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from rsd_fast import corruptions, processes
from rsd_fast.config import Observations, Pretrain, RunConfig
from rsd_fast.corruptions import NoiseLevels
from rsd_fast.data import DataError, ImageArray, ObservedDataset, open_source
from rsd_fast.errors import FieldError
from rsd_fast.hub import means_id
from rsd_fast.run_dataset import noise_levels, open_observations
from rsd_fast.runs import POINTERS, Run
from rsd_fast.sampler import Sampler

from . import cache
from .images import ImageSet, Stopwatch
from .metrics import (
    INCEPTION,
    METRICS,
    NETWORK,
    PAIRS,
    PROXIMAL,
    Evaluation,
    Evaluator,
    Observe,
    Statistics,
    check,
    family,
)
from .pairs import evaluate_pairs

PROXIMAL_SEED = 0x5851F42D4C957F2D  # added to the seed: masks, levels and noise apart from the data's own


@dataclass(frozen=True, kw_only=True)
class HowObserved:
    """How observations at a path came about, where that path is not a run's own data."""

    observations: str | None = None
    corruption: str | None = None
    sigma_obs: float | None = None
    simulate: bool = False


@dataclass(frozen=True, kw_only=True)
class HowSampled:
    """How a run's samples are drawn."""

    steps: int = 18
    truncate: bool = False
    precision: str = "fp32"
    compile: bool = False
    cuda_graphs: bool = False


@dataclass(frozen=True, kw_only=True)
class HowCompared:
    """Features, their weights' file, images at a time, and what is shown and kept."""

    features: str | None = None  # None: Inception's
    features_weights: str | None = None
    batch: int = 256
    cache: bool = True
    progress: bool = False
    watch: Stopwatch | None = None


OBSERVED, SAMPLED, COMPARED = HowObserved(), HowSampled(), HowCompared()  # the defaults


def evaluate_path(
    metrics: list[str],
    path: str,
    *,
    reference: str | None = None,
    num: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    observed: HowObserved = OBSERVED,
    sampled: HowSampled = SAMPLED,
    compared: HowCompared = COMPARED,
) -> list[Evaluation]:
    """The named metrics of `path`; a run's checkpoint's are also appended to its metrics.jsonl.

    path: a run, RUN/best, checkpoint folder or model file, or a source of images. reference: clean images, or an npz of
    their features' published `mu` and `sigma`; where only proximal metrics are asked for, what a run's --data was.
    num: samples, by default as many as there are reference images. Raises ValueError, also for options that do not
    apply, DataError or RunError.
    """
    metrics = list(dict.fromkeys(metrics))
    refuse_options(metrics, path, reference, observed, compared)
    proximal = [metric for metric in metrics if metric.startswith(PROXIMAL)]
    sampler = None
    if is_run(path):
        sampler = Sampler(path, processes.local_device(device), **asdict(sampled))
        if observed.corruption is not None or observed.sigma_obs is not None:
            name = "corruption" if observed.corruption is not None else "sigma_obs"
            raise FieldError(name, f"{path} is a run, and says itself how its observations came about")
    else:
        for name in ("steps", "truncate", "compile", "cuda_graphs"):
            if getattr(sampled, name) != getattr(SAMPLED, name):
                raise FieldError(name, f"{path} is no run, but a set of images")
    if proximal == metrics and observed.observations is None and reference is not None:
        simulate = observed.simulate or (sampler is not None and sampler.config.observations.simulate)
        observed = replace(observed, observations=reference, simulate=simulate)
    if observed.simulate and observed.observations is None:
        raise FieldError("simulate", "applies to --observations, and none are given")

    config, given = None if sampler is None else sampler.config, num
    data = open_data(config, observed, seed) if proximal else None
    clean = open_clean(str(reference), config, seed) if len(proximal) < len(metrics) and reference else None
    seen = None if data is None else pictures_of(data)
    pairs = [metric for metric in metrics if metric in PAIRS]
    if num is None and not (pairs and sampler is None):
        num = clean.count if isinstance(clean, ImageSet) else seen.count if seen is not None else None
    if sampler is not None:
        if num is None:
            raise FieldError("num", "say how many samples; the reference has no number of images")
        samples = samples_of(sampler, num, seed, compared.batch, sampled)
    else:
        images = open_source(path)
        if given is not None and given > len(images):
            raise FieldError("num", f"{path} holds {len(images)} images, fewer than {given}")
        samples = ImageSet(
            name=images.name,
            count=min(num or len(images), len(images)),
            read=images.tensor,
            digest=array_digest(images),
        )
    if not compared.cache:
        clean, seen, samples = (_unkept(images) for images in (clean, seen, samples))

    if pairs:
        if sampler is not None:
            raise ValueError(f"{pairs[0]}: of images and the truth of each; what a run makes has none")
        if not isinstance(clean, ImageSet):
            raise ValueError(f"{pairs[0]}: needs the truth of each image, and {reference} holds statistics")
        results = evaluate_pairs(
            pairs,
            samples,
            clean if given is None else replace(clean, count=min(given, clean.count)),
            device=device,
            batch=compared.batch,
            progress=compared.progress,
            watch=compared.watch,
        )
    else:
        evaluator = Evaluator(
            metrics,
            clean=clean,
            observed=seen,
            observe=None if data is None else observe_as(data, config, seed),
            features=features_of(metrics, compared, device),
            batch=compared.batch,
            progress=compared.progress,
        )
        results = evaluator(samples, compared.watch)
    if sampler is not None:
        results = of_model(results, sampler, seed, sampled)
        record(sampler.file, results)
    elif proximal:
        how = {"corruption": observed.corruption, "sigma_obs": observed.sigma_obs}
        results = [replace(result, seed=seed, sampling=how) for result in results]
    return results


def refuse_options(
    metrics: list[str], path: str, reference: str | None, observed: HowObserved, compared: HowCompared
) -> None:
    """ValueError for metrics and options that do not go together."""
    if not metrics:
        raise FieldError("metrics", f"none given; known: {', '.join((*METRICS, *PAIRS))}")
    for metric in metrics:
        check(metric, (*METRICS, *PAIRS))
    pairs = [metric for metric in metrics if metric in PAIRS]
    if pairs and len(pairs) < len(metrics):
        raise FieldError("metrics", f"{pairs[0]} compares pairs of images, others sets of them; evaluate one at a time")
    clean = [metric for metric in metrics if not metric.startswith(PROXIMAL) and metric != "is"]
    if clean and reference is None:
        raise FieldError("reference", f"{clean[0]} compares with clean images; say which")
    if not any(metric.startswith(PROXIMAL) for metric in metrics):
        for name, value in asdict(observed).items():
            if value:
                raise FieldError(name, "applies to proximal metrics, and none is asked for")
    if not any(map(needs_features, metrics)):
        for name in ("features", "features_weights"):
            if getattr(compared, name) is not None:
                raise FieldError(name, f"applies to {', '.join(NETWORK)}, and none is asked for")


def needs_features(metric: str) -> bool:
    return family(metric) in NETWORK


def features_of(metrics: list[str], compared: HowCompared, device: str) -> Any:
    """The `Features` of metrics, if any needs some."""
    wanted = list(dict.fromkeys(family(metric) for metric in metrics if needs_features(metric)))
    if not wanted:
        return None
    try:
        from .features import Features
    except ModuleNotFoundError as error:
        raise FieldError("metrics", f"{wanted[0]} needs {error.name}; pip install 'rsd-fast[metrics]'") from None
    return Features(
        compared.features or INCEPTION,
        wanted,
        weights=compared.features_weights,
        device=processes.local_device(device),
    )


def samples_of(sampler: Sampler, num: int, seed: int, batch: int, how: HowSampled) -> ImageSet:
    """What a model makes."""
    model = cache.file_digest(sampler.file)
    return ImageSet(
        name=str(sampler.file),
        count=num,
        read=sampler.reader(seed, batch),
        # The batch, the processes and the device matter to rounding alone, but to that they do.
        digest=cache.key(
            model=model,
            seed=seed,
            batch=batch,
            processes=processes.world_size(),
            device=sampler.device.type,
            **asdict(how),
        ),
        index_device=sampler.device,
        threaded=not (how.compile or how.cuda_graphs),
    )


def of_model(results: list[Evaluation], sampler: Sampler, seed: int, how: HowSampled) -> list[Evaluation]:
    """With what is to be said of the model, and of how it was sampled."""
    sampling: dict[str, Any] = {"precision": how.precision}
    if not sampler.one_step:
        sampling |= {"steps": how.steps, "truncate": how.truncate}
    model = cache.file_digest(sampler.file)
    return [
        replace(
            result,
            sampling=sampling,
            seed=seed,
            kimg=sampler.kimg,
            checkpoint=sampler.file.parent.name,
            model_hash=model,
        )
        for result in results
    ]


def record(file: Path, results: list[Evaluation]) -> None:
    """Append them to the metrics.jsonl of the run of whose checkpoints the model is one, if it is."""
    run = Run.of(file) if file.parent.parent.name == "checkpoints" else None
    if run is None or processes.rank() != 0:
        return
    try:
        run.add_metrics([asdict(result) for result in results])
    except OSError as error:
        warnings.warn(f"{run.metrics_path}: not recorded there ({error.strerror})", stacklevel=2)


def array_digest(source: ImageArray) -> str:
    return cache.digest(source.images, source.mask, source.sigma, source.maps)


def pictures_of(data: ObservedDataset) -> ImageSet:
    """Observations as images to look at."""
    levels = data.levels
    digest = cache.key(
        source=array_digest(data.source),
        corruption=data.corruption.spec,
        levels=[levels.highest, levels.lowest, levels.clean_share],
        seed=data.seed,
        simulate=data.simulate,
    )
    # Somebody's own operator may do something else tomorrow under the same name.
    kept = corruptions.is_ours(data.corruption)
    return ImageSet(name=data.source.name, count=len(data), read=data.pictures, digest=digest, kept=kept)


def observe_as(data: ObservedDataset, config: RunConfig | None, seed: int) -> Observe:
    """Observations of samples as the data came about, as images; other noise, masks and levels than the data's."""
    operator = data.corruption.pooled()
    if isinstance(config, Pretrain) and not config.objective.conditional:
        operator = corruptions.Identity()  # such a teacher makes A x already
    own, levels = (seed + PROXIMAL_SEED) % 2**64, replace(data.levels, pool=True)

    def observe(images: Tensor, index: Tensor) -> Tensor:
        seen = corruptions.observation(operator, images, index=index, sigma_obs=levels.of(index, own), seed=own)
        return seen.operator.picture(seen.y)

    return observe


def open_clean(reference: str, config: RunConfig | None, seed: int) -> ImageSet | Statistics:
    """Clean images, or published statistics of their features."""
    statistics = read_statistics(reference)
    if statistics is not None:
        return statistics
    clean = open_source(reference)
    read: Callable[[Tensor], Tensor] = clean.tensor
    digest = array_digest(clean)
    if clean.kspace:
        if config is None:
            raise FieldError("reference", f"{reference} is k-space; only a run says how to make images of it")
        operator = corruptions.parse(config.observations.corruption)
        data = ObservedDataset(clean, corruption=operator, sigma_obs=0.0, seed=seed, simulate=False)
        read, digest = data.pictures, cache.key(source=digest, corruption=operator.spec)
    return ImageSet(name=clean.name, count=len(clean), read=read, digest=digest)


def read_statistics(path: str) -> Statistics | None:
    """Of an npz with `mu` and `sigma`; None for anything else. Raises DataError where they do not fit."""
    if not path.endswith(".npz") or not zipfile.is_zipfile(path):
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if "images" in arrays or not {"mu", "sigma"} <= set(arrays.files):
                return None
            mean, covariance = np.asarray(arrays["mu"], np.float64), np.asarray(arrays["sigma"], np.float64)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: {error}") from None
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise DataError(f"{path}: mu {list(mean.shape)} and sigma {list(covariance.shape)} are no mean and covariance")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise DataError(f"{path}: mu or sigma holds NaN or infinity")
    return Statistics(name=Path(path).stem, mean=mean, covariance=covariance, digest=cache.file_digest(path))


def _unkept(images: Any) -> Any:
    return replace(images, kept=False) if isinstance(images, ImageSet) else images


def is_run(path: str) -> bool:
    """Does the path name a run, a checkpoint folder, a model file or one on the hub (rather than images)?"""
    folder = Path(path)
    if not folder.exists() and means_id(path):
        return True
    if folder.is_file() and folder.name in POINTERS:
        return True
    return folder.suffix == ".safetensors" or any((folder / n).is_file() for n in ("config.json", "model.safetensors"))


def open_data(config: RunConfig | None, how: HowObserved, seed: int) -> ObservedDataset:
    """The real observations to compare with: the run's, or those of `how`."""
    source = how.observations
    run: Observations | None = None if config is None else config.observations
    if run is not None and source is None:
        return open_observations(run)
    if source is None:
        raise FieldError("observations", "a proximal metric compares with real observations; say which")
    simulate, corruption = how.simulate, how.corruption
    levels: float | NoiseLevels
    if run is not None:
        simulate, seed, corruption = simulate or run.simulate, run.seed, run.corruption
        images = open_source(source, observations=not simulate, sigma_obs_max=run.sigma_obs)
        levels = noise_levels(run, images)
    else:
        if corruption is None or how.sigma_obs is None:
            raise FieldError("observations", "say how they came about, with --corruption and --sigma-obs")
        images = open_source(source, observations=not simulate, sigma_obs_max=how.sigma_obs)
        if images.sigma is not None:
            raise FieldError(
                "observations", f"{source} holds sigma_obs of each image; evaluate a run, which knows of it"
            )
        levels = how.sigma_obs
    data = ObservedDataset(
        images, corruption=corruptions.parse(corruption), sigma_obs=levels, seed=seed, simulate=simulate
    )
    if run is not None and data.observation_shape != run.observation_shape:
        shapes = list(data.observation_shape), list(run.observation_shape)
        raise DataError(f"{source}: observations of shape {shapes[0]}, but the run's are {shapes[1]}")
    return data
