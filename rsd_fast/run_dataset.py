"""The observations that a run's config describes, opened."""

from . import corruptions
from .config import Observations
from .corruptions import Corruption, NoiseLevels
from .data import DataError, ImageArray, ObservedDataset, open_source
from .errors import FieldError


def open_observations(
    observations: Observations, source: ImageArray | None = None, corruption: Corruption | None = None
) -> ObservedDataset:
    """The data set that a config describes.

    source: its images, where they are open already. corruption: its operator, where that was given as an object.
    Raises DataError if the source is no longer what it was, FieldError where the operator is not known.
    """
    if source is None:
        source = open_source(
            observations.data, observations=not observations.simulate, sigma_obs_max=observations.sigma_obs
        )
    dataset = ObservedDataset(
        source,
        corruption=run_operator(observations, corruption),
        sigma_obs=noise_levels(observations, source),
        seed=observations.seed,
        simulate=observations.simulate,
    )
    count, shape = len(dataset), list(dataset.observation_shape)
    expected_count, expected_shape = observations.num_images, list(observations.observation_shape)
    if (count, shape) != (expected_count, expected_shape):
        raise DataError(
            f"{observations.data}: holds {count} images of shape {shape}, "
            f"but the run was made with {expected_count} of {expected_shape}"
        )
    return dataset


def run_operator(observations: Observations, corruption: Corruption | None = None) -> Corruption:
    """The operator of a run: `corruption`, where that was given as an object, or what the SPEC says.

    Raises FieldError where the SPEC names an operator that is not known here.
    """
    if corruption is not None:
        return corruption
    try:
        return corruptions.parse(observations.corruption)
    except ValueError as error:
        raise FieldError("corruption", f"{error}; in Python, give the operator object again (corruption=...)") from None


def noise_levels(observations: Observations, source: ImageArray) -> NoiseLevels:
    """The noise levels of a data set's images. Raises DataError where the source should hold them and does not."""
    if observations.sigma_obs_in_data and source.sigma is None:
        raise DataError(f"{observations.data}: holds no sigma_obs, one number an image")
    return NoiseLevels(
        highest=observations.sigma_obs,
        lowest=observations.sigma_obs_min,
        clean_share=observations.clean_share,
        bank=source.sigma if observations.sigma_obs_in_data else None,
    )
