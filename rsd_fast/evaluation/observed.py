"""Real observations, and observations made of samples, which proximal metrics compare."""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from rsd_fast import corruptions
from rsd_fast.config import Pretrain, RunConfig
from rsd_fast.corruptions import Corruption
from rsd_fast.data import DataError, ImageArray, ObservedDataset, open_source
from rsd_fast.errors import FieldError
from rsd_fast.run_dataset import noise_levels, open_observations, run_operator

from . import cache
from .images import ImageSet, Observe, array_digest
from .samples import named

PROXIMAL_SEED = 0x5851F42D4C957F2D  # added to the seed: masks, levels and noise apart from the data's own


@dataclass(frozen=True, kw_only=True)
class HowObserved:
    """How observations of a source came about, where that is not a run's own data."""

    observations: Any = None  # what `open_source` takes
    corruption: str | Corruption | None = None
    sigma_obs: float | None = None
    simulate: bool = False


OBSERVED = HowObserved()  # the default


def open_data(
    config: RunConfig | None,
    how: HowObserved,
    seed: int,
    operator: Corruption | None = None,
    source: ImageArray | None = None,
) -> ObservedDataset:
    """The real observations to compare with: the run's, or those of `how`.

    operator: the run's, where it was given as an object. source: its data, where they have no path.
    """
    if config is not None and how.observations is None:
        return open_observations(config.observations, source, operator)
    if how.observations is None:
        raise FieldError("observations", "a proximal metric compares with real observations; say which")
    return _described(how, seed) if config is None else _as_the_runs(config, how, operator)


def _as_the_runs(config: RunConfig, how: HowObserved, operator: Corruption | None) -> ObservedDataset:
    """Other observations, which came about as those of a run."""
    run = config.observations
    simulate = how.simulate or run.simulate
    images = open_source(how.observations, observations=not simulate, sigma_obs_max=run.sigma_obs)
    data = ObservedDataset(
        images,
        corruption=run_operator(run, operator),
        sigma_obs=noise_levels(run, images),
        seed=run.seed,
        simulate=simulate,
    )
    if data.observation_shape != run.observation_shape:
        shapes = list(data.observation_shape), list(run.observation_shape)
        raise DataError(f"{named(how.observations)}: observations of shape {shapes[0]}, but the run's are {shapes[1]}")
    return data


def _described(how: HowObserved, seed: int) -> ObservedDataset:
    """Observations without a run, which came about as `how` says."""
    if how.corruption is None or how.sigma_obs is None:
        raise FieldError("observations", "say how they came about, with --corruption and --sigma-obs")
    images = open_source(how.observations, observations=not how.simulate, sigma_obs_max=how.sigma_obs)
    if images.sigma is not None:
        source = named(how.observations)
        raise FieldError("observations", f"{source} holds sigma_obs of each image; evaluate a run, which knows of it")
    operator = corruptions.parse(how.corruption) if isinstance(how.corruption, str) else how.corruption
    return ObservedDataset(images, corruption=operator, sigma_obs=how.sigma_obs, seed=seed, simulate=how.simulate)


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
