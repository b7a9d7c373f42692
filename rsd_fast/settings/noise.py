"""How much noise observations hold: what the setting sigma_obs says, and what the observations themselves say."""

import math
from dataclasses import dataclass
from typing import Any

from rsd_fast.data import DataError, ImageArray, open_source
from rsd_fast.data.rules import to_pixels
from rsd_fast.errors import FieldError
from rsd_fast.noise_estimation import NoiseEstimate, estimate_sigma

from .say import say

FORMS = "a number of at least 0, LEAST:GREATEST, data or estimate"


@dataclass(frozen=True, kw_only=True)
class NoiseSetting:
    """A level of noise, or a range of levels, in units of images in [-1, 1]; or where to find it.

    source: "data", a level of each image comes with the data; "estimate", one level is estimated from the
    observations; None: `greatest` says it, and `least` where the level differs from image to image.
    """

    greatest: float = 0.0
    least: float | None = None
    source: str | None = None

    @classmethod
    def of(cls, value: Any) -> "NoiseSetting":
        """What sigma_obs says: a number, (least, greatest), "LEAST:GREATEST", "data" or "estimate". FieldError for
        anything else."""
        if isinstance(value, str) and value in ("data", "estimate"):
            return cls(source=value)
        parts = value.split(":") if isinstance(value, str) else value
        try:
            levels = [float(part) for part in parts] if isinstance(parts, list | tuple) else [float(parts)]
        except (TypeError, ValueError):
            raise FieldError("sigma_obs", f"expected {FORMS}, got {value!r}") from None
        in_range = all(math.isfinite(level) and level >= 0 for level in levels)
        if len(levels) not in (1, 2) or levels != sorted(levels) or not in_range:
            raise FieldError("sigma_obs", f"expected {FORMS}, got {value!r}")
        return cls(greatest=levels[-1], least=levels[0] if len(levels) == 2 else None)

    def refuse(self, simulate: bool) -> None:
        """FieldError where it cannot be said of clean images that are simulated from, or of observations."""
        if self.source is not None and simulate:
            raise FieldError(
                "sigma_obs", f"'{self.source}' is for observations; with --simulate say how much noise to add"
            )
        if self.least is not None and not simulate:
            raise FieldError(
                "sigma_obs", "of observations each level must be known; give `sigma_obs` in the npz, and 'data'"
            )

    @property
    def most(self) -> float:
        """The greatest noise that observations may show: before it is estimated, floats may be anything, and levels in
        the data are counted in by themselves."""
        return math.inf if self.source == "estimate" else self.greatest

    def levels(self, source: ImageArray, name: str, simulate: bool) -> tuple[float | None, float]:
        """(least, where levels differ, and greatest level) of the images of a source, which errors call `name`."""
        if not simulate and self.source != "data" and source.sigma is not None:
            raise DataError(f"{name}: holds sigma_obs, the noise of each image; use --sigma-obs data")
        if self.source == "data":
            if source.sigma is None:
                raise DataError(f"{name}: holds no sigma_obs, one number an image; say it with --sigma-obs")
            return float(source.sigma.min()), float(source.sigma.max())
        if self.source == "estimate":
            level = estimated_level(source, name)
            to_pixels(source.images, name, 1 + 10 * level)  # for its error
            return None, level
        return self.least, self.greatest


def estimated_level(source: ImageArray, name: str) -> float:
    """sigma_obs of observations, which a line on stderr tells with its interval."""
    estimate = estimate_noise_of(source, name)
    say(f"sigma_obs {estimate.sigma:.4g}, 95 % interval {estimate.low:.4g} to {estimate.high:.4g}")
    return round(estimate.sigma, 4)


def estimate_noise(data: str) -> NoiseEstimate:
    """The noise of the observations at `data`. DataError where it cannot be estimated."""
    return estimate_noise_of(open_source(data, observations=True, sigma_obs_max=math.inf), data)


def estimate_noise_of(source: ImageArray, name: str) -> NoiseEstimate:
    """The noise of the observations of a source, which errors call `name`. DataError where it cannot be estimated."""
    if source.kspace:
        raise DataError(f"{name}: k-space, whose noise is not estimated; it can be measured where nothing else is")
    try:
        return estimate_sigma(source.images, source.mask)
    except ValueError as error:
        raise DataError(f"{name}: {error}") from None
