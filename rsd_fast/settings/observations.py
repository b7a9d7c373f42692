"""What observations are, and how they came about: from settings and data to `config.Observations`."""

from typing import Any, NamedTuple

from rsd_fast import corruptions
from rsd_fast.config import AUGMENTATIONS, Observations
from rsd_fast.corruptions import TRANSPOSE, Corruption
from rsd_fast.data import ImageArray, ObservedDataset, open_source, source_name
from rsd_fast.errors import FieldError
from rsd_fast.run_dataset import run_operator

from .names import Settings, about
from .noise import NoiseSetting

MISSING = {
    "data": "missing; give a path, a bundled set (digits), or in Python the images themselves",
    "sigma_obs": "missing; give the standard deviation of the observations' noise, images in [-1, 1], or 0",
}


class ResolvedObservations(NamedTuple):
    """What the settings say of the data, the data, and A with what the data say of it."""

    observations: Observations
    source: ImageArray
    corruption: Corruption


def resolve_observations(settings: Settings) -> ResolvedObservations:
    """Open the data and check them against the settings. Raises FieldError, and DataError for the data's own faults."""
    for name, problem in MISSING.items():
        if settings[name] is None:
            raise FieldError(name, problem)
    operator = operator_of(settings["corruption"] or "identity")
    simulate, seed, name = bool(settings["simulate"]), settings["seed"] or 0, source_name(settings["data"])
    noise = NoiseSetting.of(settings["sigma_obs"])
    noise.refuse(simulate)
    source = open_source(settings["data"], observations=not simulate, sigma_obs_max=noise.most)
    least, greatest = noise.levels(source, name, simulate)
    with about("corruption"):
        dataset = ObservedDataset(source, corruption=operator, sigma_obs=greatest, seed=seed, simulate=simulate)
        image_shape, observation_shape = dataset.image_shape, dataset.observation_shape
    observations = Observations(
        data=name,
        simulate=simulate,
        corruption=dataset.corruption.spec,
        sigma_obs=greatest,
        sigma_obs_min=least,
        clean_share=settings["clean_share"] or 0.0,
        sigma_obs_in_data=noise.source == "data",
        seed=seed,
        num_images=len(source),
        image_shape=image_shape,
        observation_shape=observation_shape,
        label_dim=source.label_dim if settings["cond"] else 0,
        augment=symmetries(settings["augment"] or "none", dataset.corruption, observation_shape),
    )
    if observations.clean_share and not simulate:
        raise FieldError("clean_share", "which images are clean must be known; give sigma_obs of each in the npz, or 0")
    if settings["cond"] and not source.label_dim:
        raise FieldError("cond", f"{name} has no labels; --no-cond trains without")
    return ResolvedObservations(observations, source, dataset.corruption)


def operator_of(corruption: Any) -> Corruption:
    """The operator itself, or of a SPEC. FieldError."""
    if isinstance(corruption, str):
        with about("corruption"):
            return corruptions.parse(corruption)
    if not hasattr(corruption, "spec"):
        raise FieldError("corruption", f"expected a SPEC or an operator of rsd_fast.corruptions, got {corruption!r}")
    operator: Corruption = corruption
    return operator


def operator_object(settings: Settings) -> Corruption | None:
    """The operator, where it was given as an object; None for a SPEC."""
    corruption = settings["corruption"]
    return None if corruption is None or isinstance(corruption, str) else operator_of(corruption)


def spec_of(corruption: Corruption | str, observations: Observations) -> str:
    """The SPEC of an operator; the saved one where both mean the same, but for what the data say."""
    operator = operator_of(corruption)
    if operator.spec == observations.corruption:
        return operator.spec
    try:
        saved = run_operator(observations)
    except FieldError:  # the saved one was an object, and of another SPEC
        return operator.spec
    return observations.corruption if operator.same_as(saved) else operator.spec


def open_again(data: Any, observations: Observations) -> ImageArray | None:
    """The images of a run, where they are given again rather than to be opened at the config's path; else None."""
    if data is None:
        return None
    return open_source(data, observations=not observations.simulate, sigma_obs_max=observations.sigma_obs)


def symmetries(augment: str, corruption: Corruption, shape: tuple[int, int, int]) -> tuple[str, ...]:
    """The moves that `augment` names, of observations [C, H, W]. FieldError where A does not permit them."""
    moves = AUGMENTATIONS[augment]
    missing = [move for move in moves if move not in corruption.symmetries]
    if missing:
        permitted = ", ".join(sorted(corruption.symmetries)) or "none"
        raise FieldError("augment", f"{missing[0]} makes another operator of '{corruption}'; it permits {permitted}")
    if TRANSPOSE in moves and shape[1] != shape[2]:
        raise FieldError("augment", f"quarter turns need square images, not {shape[1]}x{shape[2]}")
    return moves
