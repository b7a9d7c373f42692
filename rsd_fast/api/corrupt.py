"""`rsd_fast.corrupt`: a data set of observations from clean images; `estimate_noise`: what noise observations hold."""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from rsd_fast import pictures
from rsd_fast.corruptions import Corruption, Draw, NoiseLevels
from rsd_fast.data import (
    ImageArray,
    ObservedDataset,
    Source,
    check_destination,
    open_source,
    to_uint8,
    write_h5,
    write_npz,
    write_png_folder,
)
from rsd_fast.errors import FieldError
from rsd_fast.noise_estimation import NoiseEstimate
from rsd_fast.progress import counted
from rsd_fast.settings.device import resolve_device
from rsd_fast.settings.names import about
from rsd_fast.settings.noise import NoiseSetting, estimate_noise_of
from rsd_fast.settings.observations import operator_of

from .options import options_of

BATCH = 1024  # images that are corrupted at a time
PREVIEWED = 8  # images in a preview


@dataclass(frozen=True, kw_only=True)
class CorruptOptions:
    """clean_share: share of the images that hold no noise. preview: a PNG of clean images over their observations.
    device: where observations are computed."""

    clean_share: float | None = None
    preview: str | os.PathLike[str] | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.clean_share is not None and not 0 <= self.clean_share < 1:
            raise FieldError("clean_share", f"expected 0 <= clean_share < 1, got {self.clean_share}")


@overload
def corrupt(
    data: Source,
    *,
    out: None = None,
    corruption: str | Corruption = "identity",
    sigma_obs: float | tuple[float, float] | str = 0.0,
    seed: int = 0,
    **options: Any,
) -> ImageArray: ...


@overload
def corrupt(
    data: Source,
    *,
    out: str | os.PathLike[str],
    corruption: str | Corruption = "identity",
    sigma_obs: float | tuple[float, float] | str = 0.0,
    seed: int = 0,
    **options: Any,
) -> Path: ...


def corrupt(
    data: Source,
    *,
    out: str | os.PathLike[str] | None = None,
    corruption: str | Corruption = "identity",
    sigma_obs: float | tuple[float, float] | str = 0.0,
    seed: int = 0,
    **options: Any,
) -> ImageArray | Path:
    """The observations y = A(x) + sigma_obs eps of clean images: what a training with simulate=True learns from.

    data: whatever `rsd_fast.data.open_source` takes. out: where to write them, as `rsd-fast corrupt` does: FILE.npz (in
    float32, with labels, masks and levels of noise), FILE.h5 for k-space, or a new folder of 8-bit PNGs. corruption: a
    SPEC or an operator. sigma_obs: standard deviation of the noise, of images in [-1, 1], or (least, greatest), between
    which it is drawn for each image. options: those of `rsd-fast corrupt`: clean_share, preview, device.

    Returns the path of what was written; without `out` the observations themselves, with all that is known of them,
    which can be trained on as they are. Raises FieldError for an option that is unknown or does not fit, also
    for an operator that cannot act on the images, and DataError where the source cannot be read or `out` exists.
    """
    how = options_of(CorruptOptions, "corrupt", options)
    if out is not None:
        check_destination(out, (".npz", ".h5"))
    levels = _noise_levels(sigma_obs, how.clean_share or 0.0)
    if out is not None and Path(out).suffix != ".npz" and (levels.lowest is not None or levels.clean_share):
        raise FieldError("out", "only an .npz says the noise level of each image")
    operator = operator_of(corruption)
    if out is not None:
        _check_kind(operator, Path(out))
    source = open_source(data)
    if not source.kspace:
        with about("corruption"):
            operator.observation_shape(source.image_shape)  # for its error
    dataset = ObservedDataset(source, corruption=operator, sigma_obs=levels, seed=seed, simulate=True)
    observations = _Observations(dataset, resolve_device(how.device))
    result = observations.gathered() if out is None else observations.write(Path(out))
    if how.preview is not None:
        observations.save_preview(Path(how.preview))
    return result


def estimate_noise(data: Source) -> NoiseEstimate:
    """The standard deviation of the white noise in observations, and its 95 % interval, in units of images in [-1, 1].

    data: observations, whatever `rsd_fast.data.open_source` takes. Raises DataError where it cannot be estimated.
    """
    source = open_source(data, observations=True, sigma_obs_max=math.inf)
    return estimate_noise_of(source, os.fspath(data) if isinstance(data, str | os.PathLike) else source.name)


def _noise_levels(sigma_obs: Any, clean_share: float) -> NoiseLevels:
    setting = NoiseSetting.of(sigma_obs)
    if setting.source is not None:
        raise FieldError("sigma_obs", f"expected a number or LEAST:GREATEST, got {setting.source}")
    return NoiseLevels(highest=setting.greatest, lowest=setting.least, clean_share=clean_share)


def _check_kind(operator: Corruption, out: Path) -> None:
    if (out.suffix == ".h5") != operator.measures_kspace:
        kind = "an .h5 file" if operator.measures_kspace else "an .npz file or a folder"
        raise FieldError("out", f"observations of '{operator.name}' go to {kind}, got {out}")


class _Observations:
    """All observations of a data set of clean images, batch by batch, and what belongs to them."""

    def __init__(self, dataset: ObservedDataset, device: str) -> None:
        self.dataset, self.device = dataset, device
        self.labels = dataset.source.labels

    def batches(self) -> Iterator[Tensor]:
        """float32 [B, *observation_shape] on the CPU, in order."""
        parts = (self.dataset.observe(index, self.device)[0].y.cpu() for index in self._indices())
        return counted(parts, len(self.dataset), "corrupt")

    def mask(self) -> np.ndarray | None:
        """uint8, 1 where something was observed; None where that is everywhere."""
        return self._together(lambda index: None if (draw := self._draw(index)) is None else draw.mask)

    def maps(self) -> np.ndarray | None:
        """Coil sensitivities, complex64 [N, coils, H, W], or [1, coils, H, W] where all images share one; or None."""
        if "maps" in self.dataset.tables:
            return self.dataset.tables["maps"]
        draw = self._draw(torch.arange(1))
        return None if draw is None or draw.maps is None else draw.maps.cpu().numpy()

    def sigma(self) -> np.ndarray | None:
        """float32 [N], the noise level of each image; None where all have one."""
        levels = self.dataset.levels.of(torch.arange(len(self.dataset)), self.dataset.seed)
        return levels.numpy() if isinstance(levels, Tensor) else None

    def magnitude(self) -> np.ndarray:
        """The clean images' magnitude, float32 [N, H, W]."""
        magnitudes = self._together(lambda index: self.dataset.clean(index, self.device).norm(dim=1))
        assert magnitudes is not None
        return magnitudes

    def gathered(self) -> ImageArray:
        """All of it, in memory."""
        return ImageArray(
            images=torch.cat(list(self.batches())).numpy(),
            labels=self.labels,
            name=self.dataset.source.name,
            mask=self.mask(),
            maps=self.maps(),
            sigma=self.sigma(),
            kspace=self.dataset.corruption.measures_kspace,
        )

    def write(self, out: Path) -> Path:
        """All of it, to a file of the kind that the suffix says, or to a folder."""
        count, mask = len(self.dataset), self.mask()
        if out.suffix == ".npz":
            write_npz(out, self.batches(), labels=self.labels, count=count, mask=mask, sigma_obs=self.sigma())
        elif out.suffix == ".h5":
            assert mask is not None
            rss = self.magnitude()
            write_h5(out, self.batches(), count=count, mask=mask, maps=self.maps(), reconstruction_rss=rss)
        else:
            labels = None if self.labels is None else self.labels.tolist()
            write_png_folder(out, map(to_uint8, self.batches()), labels, masks=mask)
        return out

    def save_preview(self, path: Path) -> None:
        """A picture of the first clean images over their observations."""
        index = torch.arange(min(PREVIEWED, len(self.dataset)))
        rows = [("clean", self.dataset.clean(index)), ("observed", self.dataset.pictures(index))]
        pictures.save(pictures.labelled_rows(rows), path)

    def _draw(self, index: Tensor) -> Draw | None:
        return self.dataset.operator(index, self.device).draw

    def _indices(self) -> tuple[Tensor, ...]:
        return torch.arange(len(self.dataset)).split(BATCH)

    def _together(self, read: Callable[[Tensor], Tensor | None]) -> np.ndarray | None:
        """What `read` gives of all batches, in one array; None where it gives nothing."""
        parts = [part.cpu() for part in map(read, self._indices()) if part is not None]
        return torch.cat(parts).numpy() if parts else None
