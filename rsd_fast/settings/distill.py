"""Stage 2: from settings and a teacher to a config."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from rsd_fast import presets
from rsd_fast.config import Distill, Distillation, Monitoring, Observations, Pretrain
from rsd_fast.corruptions import Corruption
from rsd_fast.data import DataError, ImageArray, source_name
from rsd_fast.errors import FieldError
from rsd_fast.generator_losses import LOSSES
from rsd_fast.loading import load, model_file
from rsd_fast.run_dataset import open_observations, run_operator
from rsd_fast.runs import RunError

from .device import resolve_device
from .monitoring import asks_for_evaluation, default_metrics, resolve_monitoring, with_features
from .names import Settings, complete, fields_of
from .observations import open_again, operator_object, spec_of
from .resolved import Resolved
from .resume import resume_run, run_to_resume
from .say import say
from .training import resolve_preset, resolve_training


def resolve_distill(settings: Mapping[str, Any]) -> Resolved[Distill]:
    """The config of a run of `rsd_fast.distill`, from its settings. Nothing is written.

    Raises FieldError about a setting, DataError about the observations, RunError and convert.CheckpointError about the
    teacher or the run's directory.
    """
    settings = complete("distill", settings)
    run = run_to_resume(settings)
    if run is not None:
        return resume_run(run, Distill, settings)
    if settings["teacher"] is None:
        raise FieldError("teacher", "missing; give a run of rsd-fast pretrain, or its model file")
    file = model_file(settings["teacher"])
    operator = operator_object(settings)
    teacher = load(file, corruption=operator).config
    if not isinstance(teacher, Pretrain):
        name = os.fspath(settings["teacher"])
        raise RunError(f"{name}: holds a one-step generator; --teacher wants a run of rsd-fast pretrain")
    observations = resolve_teachers_observations(settings, teacher.observations)
    run_operator(observations, operator)  # for its error
    device = resolve_device(settings["device"])
    preset = resolve_preset(settings["preset"]) or presets.load(teacher.preset)
    loss = settings["loss"] or Distillation.loss
    if settings["alpha"] is not None and not LOSSES[loss].uses_alpha:
        raise FieldError("alpha", f"the loss '{loss}' has none")
    training = resolve_training(preset.distill, settings, device, distilling=True)
    source = open_again(settings["data"], observations)
    if settings["eval_kimg"] is None:
        source = observations_at_hand(settings, observations, source, operator)
        settings["eval_kimg"] = training.snapshot_kimg if source is not None else None
    config = Distill(
        preset=preset.name,
        teacher=str(file),
        observations=observations,
        network=teacher.network.without_dropout(),
        objective=teacher.objective,
        distillation=Distillation(**{**preset.distillation, **fields_of(Distillation, settings)}),
        training=training,
        monitoring=resolve_monitoring(settings, device, observations),
    )
    return Resolved(config=config, source=source, corruption=operator)


def resolve_teachers_observations(settings: Settings, observations: Observations) -> Observations:
    """What the teacher observed, perhaps at another place now. FieldError for another operator than the teacher's."""
    corruption = settings["corruption"]
    if corruption is not None and spec_of(corruption, observations) != observations.corruption:
        raise FieldError("corruption", f"the teacher was trained with {observations.corruption}, not {corruption}")
    if settings["data"] is None:
        return observations
    return dataclasses.replace(observations, data=source_name(settings["data"]))


def observations_at_hand(
    settings: Settings, observations: Observations, source: ImageArray | None, operator: Corruption | None
) -> ImageArray | None:
    """The observations to evaluate a distillation with, of which nothing was said. If that is impossible, says why."""
    asked = asks_for_evaluation(settings) or source is not None
    try:
        if not asked:
            with_features(Monitoring(eval_metrics=default_metrics(observations)), observations)
        return open_observations(observations, source, operator).source
    except (DataError, OSError, ValueError) as error:
        if asked:
            raise
        say(f"checkpoints are not evaluated: {str(error).splitlines()[0]}")
        return None
