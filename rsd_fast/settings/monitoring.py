"""How a run is watched: which metrics of its checkpoints can be had, and where it logs to."""

import dataclasses
import math
from importlib.util import find_spec
from pathlib import Path

from rsd_fast.config import Monitoring, Observations
from rsd_fast.errors import FieldError
from rsd_fast.evaluation.frechet import MAX_FEATURES
from rsd_fast.evaluation.metrics import needs_features
from rsd_fast.evaluation.training import refuse_metrics

from .names import Settings, about, fields_of

EVAL_NUM = {"cpu": 1000, "cuda": 10_000}  # samples
LOGS = ("tensorboard", "wandb")  # which watch a run that is not evaluated, too
OF_EVALUATIONS = ("eval_num", "eval_metrics", "eval_features", "eval_features_weights")


def resolve_monitoring(
    settings: Settings, device: str, observations: Observations, saved: Monitoring | None = None
) -> Monitoring:
    """The settings that were given, under them those `saved` of a run that is resumed, under these the defaults.

    Raises FieldError for what cannot be evaluated or is not installed.
    """
    defaults: Settings = {"eval_num": EVAL_NUM[device], "eval_metrics": default_metrics(observations)}
    if saved is not None:
        kept = dataclasses.asdict(saved)
        defaults |= kept if saved.eval_kimg else {name: kept[name] for name in LOGS}
        if settings["eval_metrics"] is not None and settings["eval_features"] is None:
            defaults |= {"eval_features": None, "eval_features_weights": None}
        if settings["eval_kimg"] == 0:
            defaults["stop_patience"] = None
    monitoring = Monitoring(**{**defaults, **fields_of(Monitoring, settings)})
    if monitoring.eval_kimg:
        monitoring = with_features(monitoring, observations)
    else:
        for name in OF_EVALUATIONS:
            if settings[name] is not None:
                raise FieldError(name, "without --eval-kimg nothing is evaluated")
    for name in LOGS:
        if getattr(monitoring, name) and find_spec(name) is None:
            raise FieldError(name, f"needs {name}; pip install 'rsd-fast[{name}]'")
    return monitoring


def asks_for_evaluation(settings: Settings) -> bool:
    """Was any setting of the evaluations given?"""
    return any(name not in LOGS for name in fields_of(Monitoring, settings))


def default_metrics(observations: Observations) -> tuple[str, ...]:
    """Pixels of small images: over the checkpoints of distillations they order as the distance to clean images does,
    which features of EfficientNet do not (benchmarks/selection.py). Those of larger ones are too many."""
    return ("proximal-pixel-fd",) if few_pixels(observations) else ("proximal-fid",)


def few_pixels(observations: Observations) -> bool:
    """Are the pixels of an observation, shown as an image, few enough for a Frechet distance?"""
    shapes = observations.image_shape, observations.observation_shape  # k-space, the larger, is shown as an image
    return min(map(math.prod, shapes)) <= MAX_FEATURES


def with_features(monitoring: Monitoring, observations: Observations) -> Monitoring:
    """With the default network for metrics that need one. FieldError for metrics that cannot be had."""
    refuse_metrics(monitoring)
    metrics = ", ".join(monitoring.eval_metrics)
    of_pixels = [metric for metric in monitoring.eval_metrics if not needs_features(metric)]
    if of_pixels and not few_pixels(observations):
        raise FieldError("eval_metrics", f"{of_pixels[0]} is for images of at most {MAX_FEATURES} values")
    weights = monitoring.eval_features_weights
    if weights is not None and not Path(weights).is_file():
        raise FieldError("eval_features_weights", f"{weights}: no such file")
    if not any(map(needs_features, monitoring.eval_metrics)):
        for name in ("eval_features", "eval_features_weights"):
            if getattr(monitoring, name) is not None:
                raise FieldError(name, f"{metrics} needs none")
        return monitoring
    if find_spec("torch_fidelity") is None:
        raise FieldError("eval_metrics", f"{metrics} needs torch-fidelity; pip install 'rsd-fast[metrics]'")
    from rsd_fast.evaluation import efficientnet, features

    name = monitoring.eval_features or efficientnet.NAME
    with about("eval_features"):
        features.extractor(name)  # for its error
        if name == efficientnet.NAME and weights is None:
            efficientnet.find_weights()  # likewise
    return dataclasses.replace(monitoring, eval_features=name)
