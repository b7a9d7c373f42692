"""Stage 1: from settings to a config, with the preset's and the data's own under those that were given."""

from collections.abc import Mapping
from typing import Any

import torch

from rsd_fast import augmentation, objectives, presets
from rsd_fast.build import build_denoiser
from rsd_fast.config import Network, Objective, Observations, Pretrain, choose_network
from rsd_fast.corruptions import Corruption
from rsd_fast.errors import FieldError

from .device import resolve_device
from .monitoring import resolve_monitoring
from .names import Settings, about, complete, fields_of
from .observations import operator_object, resolve_observations
from .resolved import Resolved
from .resume import resume_run, run_to_resume
from .training import resolve_preset, resolve_training


def resolve_pretrain(settings: Mapping[str, Any]) -> Resolved[Pretrain]:
    """The config of a run of `rsd_fast.pretrain`, from its settings. Nothing is written.

    Raises FieldError about a setting, DataError about the data, and RunError about the run's directory.
    """
    settings = complete("pretrain", settings)
    run = run_to_resume(settings)
    if run is not None:
        return resume_run(run, Pretrain, settings)
    preset = resolve_preset(settings["preset"])
    if preset is not None:
        # What noise real observations hold, a preset cannot know.
        known = {k: v for k, v in preset.observations.items() if k != "sigma_obs" or settings["simulate"]}
        settings |= {name: value for name, value in known.items() if settings[name] is None}
    observations, source, corruption = resolve_observations(settings)
    with about("objective"):
        name = objectives.resolve(
            settings["objective"] or "auto", observations.sigma_obs, corruption, observations.image_shape
        )
    device = resolve_device(settings["device"])
    preset = preset or presets.load(presets.choose(observations.observation_shape[1], device))
    objective = Objective(**{**preset.objective, **fields_of(Objective, settings), "name": name})
    refuse_idle(settings, objective, corruption)
    augment_probability = resolve_augmentation(settings, preset, observations)
    config = Pretrain(
        preset=preset.name,
        observations=observations,
        network=resolve_network(settings, preset, observations, augment_probability),
        objective=objective,
        training=resolve_training(preset.pretrain, settings, device),
        augment_probability=augment_probability,
        monitoring=resolve_monitoring(settings, device, observations),
    )
    operator = operator_object(settings)
    with about("data"), torch.device("meta"):  # a network that costs nothing, for its errors
        build_denoiser(config, operator)
    return Resolved(config=config, source=source, corruption=operator)


def resolve_augmentation(settings: Settings, preset: presets.Preset, observations: Observations) -> float:
    """augment_probability as given; else the preset's where the images are clean, 0 where they are not."""
    if settings["augment_probability"] is not None:
        return float(settings["augment_probability"])
    return preset.augment_probability if observations.clean else 0.0


def resolve_network(
    settings: Settings, preset: presets.Preset, observations: Observations, augment_probability: float
) -> Network:
    """The preset's network under the settings that were given."""
    with about("data"):  # whose images may not fit
        network = choose_network(preset.network, settings, observations.observation_shape[1])
    return network.augmented(augmentation.LABELS if augment_probability else 0)


def refuse_idle(settings: Settings, objective: Objective, corruption: Corruption) -> None:
    """FieldError for a setting that would change nothing."""
    conditional = objective.conditional
    if settings["delta"] is not None and not conditional:
        raise FieldError("delta", f"objective '{objective.name}' hides nothing")
    if settings["delta"] is not None and not corruption.further_hides_by_share:
        raise FieldError("delta", f"{corruption} hides a second box instead")
    if settings["masked_loss"] is not None and objective.name != "ambient":
        raise FieldError("masked_loss", f"is of objective 'ambient', not '{objective.name}'")
    if settings["hidden_noise"] is not None and not conditional:
        raise FieldError("hidden_noise", f"objective '{objective.name}' hides nothing")
    if settings["label_dropout"] is not None and not settings["cond"]:
        raise FieldError("label_dropout", "without --cond there are no labels")
    for name in ("consistency_steps", "consistency_primes"):
        if settings[name] is not None and not settings["consistency"]:
            raise FieldError(name, "without --consistency there is no such term")
