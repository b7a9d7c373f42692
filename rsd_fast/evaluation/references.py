"""What samples are compared with: clean images, published statistics of their features, observations."""

import os
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rsd_fast.config import RunConfig
from rsd_fast.corruptions import Corruption
from rsd_fast.data import DataError, ImageArray, ObservedDataset, open_source
from rsd_fast.errors import FieldError
from rsd_fast.run_dataset import run_operator

from . import cache
from .images import ImageSet, Observe, Statistics, array_digest
from .metrics import is_proximal
from .observed import HowObserved, observe_as, open_data, pictures_of
from .samples import named


@dataclass(frozen=True, kw_only=True)
class References:
    """What the asked metrics compare samples with; observe(images, index [B]) makes observations of samples."""

    clean: ImageSet | Statistics | None = None
    observations: ImageSet | None = None
    observe: Observe | None = None

    @property
    def count(self) -> int | None:
        """Images of the clean reference, or else observations; None where neither has a number."""
        if isinstance(self.clean, ImageSet):
            return self.clean.count
        return None if self.observations is None else self.observations.count

    def unkept(self) -> "References":
        """The same, with nothing of them kept on disk."""
        clean, observations = self.clean, self.observations
        return replace(
            self,
            clean=replace(clean, kept=False) if isinstance(clean, ImageSet) else clean,
            observations=None if observations is None else replace(observations, kept=False),
        )


def open_references(
    metrics: list[str],
    reference: Any,
    config: RunConfig | None,
    how: HowObserved,
    seed: int,
    operator: Corruption | None = None,
    source: ImageArray | None = None,
) -> References:
    """Those of metrics of a run of `config`, or of images without a run.

    operator: the run's, where it was given as an object. source: its data, where they have no path.
    """
    data = open_data(config, how, seed, operator, source) if any(map(is_proximal, metrics)) else None
    clean = None
    if reference is not None and not all(map(is_proximal, metrics)):
        clean = open_clean(reference, config, seed, operator)
    if data is None:
        return References(clean=clean)
    return References(clean=clean, observations=pictures_of(data), observe=observe_as(data, config, seed))


def open_clean(
    reference: Any, config: RunConfig | None, seed: int, operator: Corruption | None = None
) -> ImageSet | Statistics:
    """Clean images, or published statistics of their features. operator: as of `open_references`."""
    statistics = read_statistics(reference)
    if statistics is not None:
        return statistics
    source = open_source(reference)
    if not source.kspace:
        return ImageSet.of_array(source)
    if config is None:
        raise FieldError("reference", f"{named(reference)} is k-space; only a run says how to make images of it")
    operator = run_operator(config.observations, operator)
    data = ObservedDataset(source, corruption=operator, sigma_obs=0.0, seed=seed, simulate=False)
    digest = cache.key(source=array_digest(source), corruption=operator.spec)
    return ImageSet(name=source.name, count=len(source), read=data.pictures, digest=digest)


def read_statistics(reference: Any) -> Statistics | None:
    """What an npz holds as `mu` and `sigma`; None for anything else. Raises DataError where they do not fit."""
    if not isinstance(reference, str | os.PathLike):
        return None
    path = os.fspath(reference)
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
