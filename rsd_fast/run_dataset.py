"""The observations that a run's config describes, opened."""

from rsd_fast import corruptions
from rsd_fast.config import Observations
from rsd_fast.corruptions import NoiseLevels
from rsd_fast.data import DataError, ImageArray, ObservedDataset, open_source


def open_observations(observations: Observations, source: ImageArray | None = None) -> ObservedDataset:
    """The data set a config describes. Raises DataError if the source is no longer what it was."""
    source = source or open_source(
        observations.data, observations=not observations.simulate, sigma_obs_max=observations.sigma_obs
    )
    dataset = ObservedDataset(
        source,
        corruption=corruptions.parse(observations.corruption),
        sigma_obs=noise_levels(observations, source),
        seed=observations.seed,
        simulate=observations.simulate,
    )
    found = (len(dataset), dataset.observation_shape)
    expected = (observations.num_images, observations.observation_shape)
    if found != expected:
        raise DataError(
            f"{observations.data}: holds {found[0]} images of shape {list(found[1])}, "
            f"but the run was made with {expected[0]} of {list(expected[1])}"
        )
    return dataset


def noise_levels(observations: Observations, source: ImageArray) -> NoiseLevels:
    """The noise levels of a data set's images. Raises DataError where they are to come from the source and do not."""
    if observations.sigma_obs_in_data and source.sigma is None:
        raise DataError(f"{observations.data}: holds no sigma_obs, one number an image")
    return NoiseLevels(
        highest=observations.sigma_obs,
        lowest=observations.sigma_obs_min,
        clean_share=observations.clean_share,
        bank=source.sigma if observations.sigma_obs_in_data else None,
    )
