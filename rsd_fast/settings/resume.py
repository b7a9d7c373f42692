"""Going on with a run: its saved config, and the few settings that may change between its sittings."""

import dataclasses
import filecmp
from pathlib import Path
from typing import Any

from rsd_fast.config import Distill, Monitoring, Observations, Pretrain, RunConfig
from rsd_fast.data import source_name
from rsd_fast.errors import FieldError
from rsd_fast.loading import model_file
from rsd_fast.run_dataset import run_operator
from rsd_fast.runs import Run, RunError

from .device import resolve_device, resolve_precision
from .monitoring import resolve_monitoring
from .names import Settings, fields_of
from .noise import NoiseSetting
from .observations import open_again, operator_object, spec_of, symmetries
from .resolved import Config, Resolved

# What may differ between the sittings of a run: how long and where it runs, not what it computes.
CHANGEABLE = {
    *("kimg", "log_kimg", "snapshot_kimg", "device", "data", "micro_batch"),
    *("compile", "cuda_graphs", "checkpoint_activations", "concurrent_scores"),
}


def run_to_resume(settings: Settings) -> Run | None:
    """The run at `out` that is to be gone on with; None where one is to be started.

    Raises FieldError for settings that exclude each other, and RunError where a run is there and none was expected, or
    the other way round.
    """
    run, resume, either = Run(Path(settings["out"])), settings["resume"], settings["resume_or_start"]
    if resume and either:
        raise FieldError("resume", "it and --resume-or-start exclude each other")
    if run.exists():
        if not (resume or either):
            raise RunError(f"{run.path}: already holds a run; go on with --resume, or use a new folder")
        return run
    if resume:
        raise RunError(f"{run.path}: no run to resume (it has no config.json)")
    run.refuse_foreign_files()
    return None


def resume_run(run: Run, stage: type[Config], settings: Settings) -> Resolved[Config]:
    """The saved config, with those of the given settings that may change. FieldError for any other that differs."""
    config = run.read_config()
    if not isinstance(config, stage):
        raise RunError(f"{run.path}: is a run of rsd-fast {config.kind}")
    operator = operator_object(settings)
    run_operator(config.observations, operator)  # for its error
    refuse_other_noise(run, config.observations, settings.get("sigma_obs"))
    asked = in_the_configs_terms(settings, config.observations)
    refuse_changes(run, config, asked)
    config = with_changes(run, config, asked)
    # Are they still to be had?
    resolve_precision(config.training.precision, resolve_device(config.training.device))
    source = open_again(settings["data"], config.observations)
    return Resolved(config=config, resume=True, source=source, corruption=operator)


def in_the_configs_terms(settings: Settings, observations: Observations) -> Settings:
    """The settings as the config of a run of these observations has them; None for "auto", which asks for no change."""
    asked = {
        name: None if isinstance(value, str) and value == "auto" and name != "micro_batch" else value
        for name, value in settings.items()
    }
    asked["sigma_obs"] = None  # `refuse_other_noise` has compared it
    if settings["data"] is not None:
        asked["data"] = source_name(settings["data"])
    if settings["corruption"] is not None:
        asked["corruption"] = spec_of(settings["corruption"], observations)
    augment = asked.get("augment")
    if augment is not None:
        operator = run_operator(observations, operator_object(settings))
        asked["augment"] = symmetries(augment, operator, observations.observation_shape)
    return asked


def refuse_other_noise(run: Run, observations: Observations, sigma_obs: Any) -> None:
    """FieldError where sigma_obs is given and is not what the run was started with."""
    if sigma_obs in (None, "estimate"):  # an estimate was made when the run was started
        return
    asked = NoiseSetting.of(sigma_obs)
    least, greatest = observations.sigma_obs_min, observations.sigma_obs
    if observations.sigma_obs_in_data:
        saved, in_words = NoiseSetting(source="data"), "data"
    else:
        saved = NoiseSetting(least=least, greatest=greatest)
        in_words = f"{greatest}" if least is None else f"{least:g}:{greatest:g}"
    if asked != saved:
        raise changed(run, "sigma_obs", in_words)


def refuse_changes(run: Run, config: RunConfig, asked: Settings) -> None:
    """FieldError for a setting that differs and is no field of the config's sections, or another one there."""
    saved: Settings = {"preset": config.preset, "objective": config.objective.name}
    if isinstance(config, Pretrain):
        height = config.observations.observation_shape[1]
        network = type(config.network).as_options(vars(config.network), height)
        saved["attn_resolutions"] = network.get("attn_resolutions")
        saved["augment_probability"] = config.augment_probability
        saved["cond"] = bool(config.observations.label_dim)
    for name, value in saved.items():
        if asked.get(name) not in (None, value):
            raise changed(run, name, value)
    if isinstance(config, Distill) and asked["teacher"] is not None:
        file = model_file(asked["teacher"])
        if str(file) != config.teacher and not filecmp.cmp(file, run.teacher_path, shallow=False):
            raise changed(run, "teacher", config.teacher)


def with_changes(run: Run, config: Config, asked: Settings) -> Config:
    """The config with what is asked for. FieldError for what may not change."""
    sections: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        section = getattr(config, field.name)
        if not dataclasses.is_dataclass(section) or isinstance(section, Monitoring | type):
            continue
        of_section = fields_of(type(section), asked)
        if isinstance(config, Distill) and field.name == "observations":
            of_section.pop("seed", None)  # the observations are the teacher's; --seed is of the distillation
        changes = {name: value for name, value in of_section.items() if value != getattr(section, name)}
        for name in changes:
            if name not in CHANGEABLE:
                raise changed(run, name, getattr(section, name))
        sections[field.name] = dataclasses.replace(section, **changes)
    config = dataclasses.replace(config, **sections)
    if not fields_of(Monitoring, asked):
        return config
    device = resolve_device(config.training.device)
    monitoring = resolve_monitoring(asked, device, config.observations, config.monitoring)
    return dataclasses.replace(config, monitoring=monitoring)


def changed(run: Run, name: str, saved: object) -> FieldError:
    """What to raise for a setting that a resumed run keeps."""
    return FieldError(name, f"{run.path} was started with {saved}; a resumed run keeps it")
