"""Evaluating what a path names: a run, whose samples are drawn, or images already there."""

import warnings
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from rsd_fast import processes
from rsd_fast.config import RunConfig
from rsd_fast.corruptions import Corruption
from rsd_fast.errors import FieldError
from rsd_fast.runs import Run
from rsd_fast.sampler import Sampler, Sampling

from .evaluator import Evaluator, FeatureNetwork
from .images import ImageSet, Stopwatch
from .metrics import INCEPTION, Metric, PairMetric, family, find, is_proximal, names, needs_features, of_networks
from .observed import OBSERVED, HowObserved
from .pairs import evaluate_pairs
from .references import References, open_references
from .results import Evaluation
from .samples import (
    SAMPLED,
    given_operator,
    given_source,
    is_run,
    named,
    of_model,
    open_images,
    refuse_sampling,
    samples_of,
)


@dataclass(frozen=True, kw_only=True)
class HowCompared:
    """Features and their weights' file; the seed and the device of all, images at a time; what is kept and shown."""

    features: str | None = None  # None: Inception's
    features_weights: str | None = None
    seed: int = 0
    device: str = "cpu"
    batch: int = 256
    cache: bool = True
    progress: bool = False
    watch: Stopwatch | None = None

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise FieldError("batch", f"expected at least 1, got {self.batch}")


COMPARED = HowCompared()  # the default


def evaluate_path(
    metrics: list[str],
    path: Any,
    *,
    reference: Any = None,
    num: int | None = None,
    observed: HowObserved = OBSERVED,
    sampled: Sampling = SAMPLED,
    compared: HowCompared = COMPARED,
) -> list[Evaluation]:
    """The named metrics of `path`; a run's checkpoint's are also appended to its metrics.jsonl.

    path: a run, RUN/best, checkpoint folder or model file, or a source of images. reference: clean images, or an npz of
    their features' published `mu` and `sigma`; where only proximal metrics are asked for, what a run's --data was.
    num: samples, by default as many as there are reference images. Raises ValueError, also for options that do not
    apply, DataError or RunError.
    """
    metrics = list(dict.fromkeys(metrics))
    operator = given_operator(path)
    if is_run(path) and not isinstance(observed.corruption, str | None):
        operator, observed = observed.corruption, replace(observed, corruption=None)
    refuse_options(metrics, reference, observed, compared)
    sampler = open_sampler(path, observed, sampled, compared.device, operator)
    config = None if sampler is None else sampler.config
    observed = with_observations(observed, metrics, reference, config)
    references = open_references(metrics, reference, config, observed, compared.seed, operator, given_source(path))
    pairs = are_pairs(metrics)
    if sampler is None:
        samples = open_images(path, num, None if pairs else references.count)
    elif pairs:
        raise ValueError(f"{metrics[0]}: of images and the truth of each; what a run makes has none")
    else:
        num = references.count if num is None else num
        if num is None:
            raise FieldError("num", "say how many samples; the reference has no number of images")
        samples = samples_of(sampler, num, compared.seed, compared.batch, sampled)
    if not compared.cache:
        samples, references = replace(samples, kept=False), references.unkept()
    if pairs:
        return compare_pairs(metrics, samples, truth_of(metrics, references, reference, num), compared)
    results = compare_sets(metrics, samples, references, compared)
    if sampler is not None:
        results = of_model(results, sampler, compared.seed, sampled)
        record(sampler.file, results)
    elif any(map(is_proximal, metrics)):
        how = {"corruption": str(observed.corruption), "sigma_obs": observed.sigma_obs}
        results = [replace(result, seed=compared.seed, sampling=how) for result in results]
    return results


def refuse_options(metrics: list[str], reference: Any, observed: HowObserved, compared: HowCompared) -> None:
    """FieldError for metrics and options that do not go together."""
    if not metrics:
        raise FieldError("metrics", f"none given; known: {', '.join(names())}")
    pairs = [metric for metric in metrics if isinstance(find(metric, Metric), PairMetric)]
    if pairs and len(pairs) < len(metrics):
        raise FieldError("metrics", f"{pairs[0]} compares pairs of images, others sets of them; evaluate one at a time")
    clean = [metric for metric in metrics if not is_proximal(metric) and find(metric, Metric).has_reference]
    if clean and reference is None:
        raise FieldError("reference", f"{clean[0]} compares with clean images; say which")
    if not any(map(is_proximal, metrics)):
        for option in fields(observed):
            if getattr(observed, option.name) is not option.default:
                raise FieldError(option.name, "applies to proximal metrics, and none is asked for")
    if not any(map(needs_features, metrics)):
        for name in ("features", "features_weights"):
            if getattr(compared, name) is not None:
                raise FieldError(name, f"applies to {', '.join(of_networks())}, and none is asked for")


def are_pairs(metrics: list[str]) -> bool:
    return isinstance(find(metrics[0], Metric), PairMetric)


def open_sampler(
    path: Any, observed: HowObserved, sampled: Sampling, device: str, operator: Corruption | None
) -> Sampler | None:
    """What draws the samples of a run; None for images. FieldError for options that do not apply.

    operator: the run's, where it was given as an object.
    """
    if not is_run(path):
        refuse_sampling(path, sampled)
        return None
    sampler = Sampler(path, processes.local_device(device), corruption=operator, **asdict(sampled))
    for name in ("corruption", "sigma_obs"):
        if getattr(observed, name) is not None:
            raise FieldError(name, f"{named(path)} is a run, and says itself how its observations came about")
    return sampler


def with_observations(
    observed: HowObserved, metrics: list[str], reference: Any, config: RunConfig | None
) -> HowObserved:
    """Where all metrics are proximal, the reference, which none of them takes, is what a run's --data was."""
    if all(map(is_proximal, metrics)) and observed.observations is None and reference is not None:
        simulate = observed.simulate or (config is not None and config.observations.simulate)
        return replace(observed, observations=reference, simulate=simulate)
    if observed.simulate and observed.observations is None:
        raise FieldError("simulate", "applies to --observations, and none are given")
    return observed


def truth_of(metrics: list[str], references: References, reference: Any, num: int | None) -> ImageSet:
    """The truth of the first `num` images, or of all."""
    truth = references.clean
    if not isinstance(truth, ImageSet):
        raise ValueError(f"{metrics[0]}: needs the truth of each image, and {named(reference)} holds statistics")
    return truth if num is None else replace(truth, count=min(num, truth.count))


def compare_pairs(metrics: list[str], images: ImageSet, truth: ImageSet, compared: HowCompared) -> list[Evaluation]:
    return evaluate_pairs(
        metrics,
        images,
        truth,
        device=compared.device,
        batch=compared.batch,
        progress=compared.progress,
        watch=compared.watch,
    )


def compare_sets(
    metrics: list[str], samples: ImageSet, references: References, compared: HowCompared
) -> list[Evaluation]:
    evaluator = Evaluator(
        metrics,
        clean=references.clean,
        observed=references.observations,
        observe=references.observe,
        features=features_of(metrics, compared),
        batch=compared.batch,
        progress=compared.progress,
    )
    return evaluator(samples, compared.watch)


def features_of(metrics: list[str], compared: HowCompared) -> FeatureNetwork | None:
    """The `Features` of metrics, if any needs some."""
    needing = list(dict.fromkeys(family(metric) for metric in metrics if needs_features(metric)))
    if not needing:
        return None
    try:
        from .features import Features
    except ModuleNotFoundError as error:
        raise FieldError("metrics", f"{needing[0]} needs {error.name}; pip install 'rsd-fast[metrics]'") from None
    return Features(
        compared.features or INCEPTION,
        needing,
        weights=compared.features_weights,
        device=processes.local_device(compared.device),
    )


def record(file: Path, results: list[Evaluation]) -> None:
    """Append them to the metrics.jsonl of the run of whose checkpoints the model is one, if it is."""
    run = Run.of(file) if file.parent.parent.name == "checkpoints" else None
    if run is None or processes.rank() != 0:
        return
    try:
        run.add_metrics([asdict(result) for result in results])
    except OSError as error:
        warnings.warn(f"{run.metrics_path}: not recorded there ({error.strerror})", stacklevel=2)
