"""The one observation of each image: y = A(x) + sigma_obs eps, a pure function of (seed, index).

Neither the epoch, the order, the batch nor the number of workers changes a bit of it: the corruption and the
noise are drawn from counter-based streams by the image's index, and no drawn number is stored.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rsd_fast import corruptions
from rsd_fast.corruptions import (
    Bank,
    BoxMask,
    Corruption,
    Draw,
    DrawnCorruption,
    NoiseLevels,
    Observation,
    RandomMask,
)

from . import storage
from .array import ImageArray
from .coils import cached_maps
from .errors import DataError

Item = tuple[Tensor, int, int]
Rows = dict[str, Tensor]  # what belongs to the images of a batch, by the names of `ObservedDataset.tables`, and `index`
MISSING_TOLERANCE = 0.02


class ObservedDataset(Dataset[Item]):
    """Observations of a source, as a map-style data set.

    source:     clean images with `simulate`, else the observations themselves, handed on as they are, but for what
                was not observed, which is 0. Fully sampled k-space counts as clean: it is undersampled.
    corruption: the operator A, an object of `rsd_fast.corruptions`; masks and maps of the source take the place of
                those it would draw, and maps that are wanted are estimated
    sigma_obs:  standard deviation of the noise, in units of [-1, 1] pixels, or its law
    seed:       of the data set; with the index it decides noise and corruption for ever

    Raises DataError where source and corruption do not fit.
    """

    def __init__(
        self, source: ImageArray, *, corruption: Corruption, sigma_obs: float | NoiseLevels, seed: int, simulate: bool
    ) -> None:
        self.levels = sigma_obs if isinstance(sigma_obs, NoiseLevels) else NoiseLevels(highest=sigma_obs)
        if not 0 <= self.levels.highest < float("inf"):
            raise ValueError(f"sigma_obs: a finite number of at least 0 is wanted, not {self.levels.highest}")
        self.source = source
        self.corruption = _bound(corruption, source, simulate)
        self.seed = seed
        self.simulate = simulate
        _ = self.image_shape  # for its error

    def __len__(self) -> int:
        return len(self.source)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        shape = self.source.image_shape
        if self.simulate and not self.source.kspace:
            return shape
        image_shape = self.corruption.image_shape(shape)
        if self.corruption.observation_shape(image_shape) != shape:
            raise DataError(f"{self.source.name}: observations of shape {list(shape)} are none of {self.corruption}")
        return image_shape

    @property
    def observation_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an observation."""
        return self.corruption.observation_shape(self.image_shape)

    def __getitem__(self, index: int) -> Item:
        """(observation [C, H, W] float32, index, label), the label -1 where there is none."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """The items at `indices`, computed in one call: what a DataLoader asks for."""
        observations, index, labels = self.batch(torch.as_tensor(indices, dtype=torch.int64))
        return list(zip(observations, index.tolist(), labels.tolist(), strict=True))

    def batch(
        self, indices: Tensor, device: torch.device | str = "cpu", *, channels_last: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Observations [B, C, H, W] float32, their indices [B] int64 and labels [B] int64, on `device`.

        Arguments and errors as for `observe`.
        """
        observation, labels = self.observe(indices, device, channels_last=channels_last)
        return observation.y, indices.cpu().remainder(len(self)).to(device), labels

    @torch.no_grad()
    def observe(
        self, indices: Tensor, device: torch.device | str = "cpu", *, channels_last: bool = False
    ) -> tuple[Observation, Tensor]:
        """Observations, with what was drawn of A and their noise levels, and labels [B] int64, on `device`.

        indices: [B] int64, best on the CPU, where the images are. channels_last: the observations' memory format.
        IndexError if an index is out of range.
        """
        rows = self.room(len(indices), pinned=torch.device(device).type == "cuda")
        self.read(indices.cpu().numpy(), rows)
        return self.observe_rows(rows, device, channels_last=channels_last)

    @property
    def tables(self) -> dict[str, np.ndarray]:
        """All that the source holds of each image, row i of image i."""
        found = {"images": self.source.images, "labels": self.source.labels}
        if not self.levels.pool:
            found["sigma_obs"] = self.levels.bank
        if self._bank is not None:
            found |= {"mask": self._bank.mask, "maps": self._bank.maps}
        if self.source.kspace and self.simulate:
            found["sampled"] = self.source.mask
        return {name: table for name, table in found.items() if table is not None and len(table) == len(self)}

    @property
    def _bank(self) -> Bank | None:
        """The draws that came with the data, an image's own."""
        bank = self.corruption.bank if isinstance(self.corruption, DrawnCorruption) else None
        return None if bank is None or bank.pool else bank

    def room(self, count: int, *, pinned: bool = False) -> Rows:
        """Memory on the host for `read`: `index` [count] int64 and as many rows of each table."""
        index = torch.empty(count, dtype=torch.int64, pin_memory=pinned)
        return {"index": index} | {n: storage.empty_rows(t, count, pinned=pinned) for n, t in self.tables.items()}

    def read(self, indices: np.ndarray, rows: Rows) -> None:
        """Fill `rows`, from `room`, with what belongs to images number `indices` [B]; another thread may do it.

        IndexError if an index is out of range.
        """
        indices = storage.row_numbers(indices, len(self))  # one image, one index: -1 has the noise of the last
        rows["index"].numpy()[:] = indices
        for name, table in self.tables.items():
            if name in rows:
                storage.take(table, indices, rows[name])

    @torch.no_grad()
    def observe_rows(
        self, rows: Rows, device: torch.device | str = "cpu", *, channels_last: bool = False
    ) -> tuple[Observation, Tensor]:
        """`observe` of what was read. Nothing waits for a GPU where the rows are pinned."""
        here = {name: t.to(device, non_blocking=True) for name, t in rows.items()}
        index = here["index"]
        sigma_obs = here["sigma_obs"] if "sigma_obs" in here else self.levels.of(index, self.seed)
        measured = not self.simulate or self.source.kspace  # A has acted already, if not all of it
        corruption = self._of_batch(here)
        observation = corruptions.observation(
            corruptions.Identity() if measured else corruption,
            here["images"],
            index=index,
            sigma_obs=sigma_obs if self.simulate else 0.0,
            seed=self.seed,
            channels_last=channels_last,
        )
        y, draw = observation.y, observation.draw
        if measured:
            draw = self._draw(here)
            y = corruptions.observed(y, draw)
        labels = here["labels"] if "labels" in here else torch.full_like(index, -1)
        return Observation(y, draw, sigma_obs), labels

    def draw(self, indices: Tensor, device: torch.device | str = "cpu") -> Draw | None:
        """What was drawn of A for the images at `indices` [B], of an operator that differs among them."""
        if not isinstance(self.corruption, DrawnCorruption):
            return None
        rows = self.room(len(indices))
        del rows["images"]
        self.read(indices.cpu().numpy(), rows)
        return self._draw({name: t.to(device) for name, t in rows.items()})

    def _draw(self, rows: Rows) -> Draw | None:
        corruption = self._of_batch(rows)
        if not isinstance(corruption, DrawnCorruption):
            return None
        draw = corruption.draw(self.image_shape, rows["index"], self.seed)
        if "sampled" in rows:  # what is not there cannot be sampled
            draw = replace(draw, mask=draw.mask * rows["sampled"])
        return draw

    def _of_batch(self, rows: Rows) -> Corruption:
        """The operator whose draws are the rows: its own looks them up on the host, for which a GPU has to wait."""
        bank = self._bank
        if bank is None:
            return self.corruption
        corruption = copy.copy(self.corruption)
        corruption.bank = _BatchBank(mask=bank.mask, maps=bank.maps, whole=bank, rows=rows)
        return corruption

    def pictures(self, indices: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """Observations as images [B, C, H, W] to look at: of k-space the zero-filled reconstruction."""
        observation, _ = self.observe(indices, device)
        return self.corruption.picture(observation.y, observation.draw)

    def clean(self, indices: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """The images of a source that is simulated from, float32 [B, C, H, W]."""
        if not self.source.kspace:
            return self.source.tensor(indices, device)
        whole = ObservedDataset(self.source, corruption=self.corruption, sigma_obs=0.0, seed=self.seed, simulate=False)
        return whole.pictures(indices, device)


@dataclass(frozen=True, eq=False, kw_only=True)
class _BatchBank(Bank):
    """A bank whose rows for one batch are on its device already, but for what all images share."""

    whole: Bank
    rows: Rows

    def _rows(self, name: str, rows: np.ndarray | None, index: Tensor, seed: int) -> Tensor:
        return self.rows[name].contiguous() if name in self.rows else self.whole._rows(name, rows, index, seed)


def _bound(corruption: Corruption, source: ImageArray, simulate: bool) -> Corruption:
    """The operator with the masks and maps of the source."""
    name = source.name
    if source.kspace and corruption.kind != "fourier":
        raise DataError(f"{name}: k-space is complex data, and '{corruption}' acts on real images; use fourier")
    if corruption.kind == "fourier" and not source.kspace and not simulate:
        raise DataError(f"{name}: images, but observations of '{corruption}' are k-space, of an .h5 file")
    if source.mask is not None and corruption.kind == "linear":
        raise DataError(f"{name}: has masks, but '{corruption}' has none; use random_mask or box_mask")
    if not isinstance(corruption, DrawnCorruption):
        return corruption
    mask, maps = source.mask, source.maps
    if source.kspace:
        coils = source.image_shape[0] // 2
        if coils > 1 and maps is None:
            if corruption.real:  # type: ignore[attr-defined]
                raise DataError(
                    f"{name}: maps can be estimated but for a phase, which makes real images complex; real=0"
                )
            if corruption.coils not in (1, coils):  # type: ignore[attr-defined]
                raise DataError(f"{name}: k-space of {coils} coils, but '{corruption}' says another number")
            try:
                maps = cached_maps(source.images, corruption.acs_lines)  # type: ignore[attr-defined]
            except ValueError as error:
                raise DataError(f"{name}: {error}") from None
        if simulate:
            mask = None
    elif mask is None and not simulate:
        raise DataError(f"{name}: observations of '{corruption}' need their masks, and none came with them")
    elif mask is not None and not simulate:
        _check_share(corruption, 1 - float(mask.mean()), mask.size, name)
    if mask is not None:
        _check_masks(corruption, mask, maps, name)
    if mask is None and maps is None:
        return corruption
    return corruption.bound(Bank(mask=mask, maps=maps))


def _check_masks(corruption: DrawnCorruption, mask: np.ndarray, maps: np.ndarray | None, name: str) -> None:
    """DataError for masks from which what is missing cannot be learned, or that are none of the operator's."""
    if maps is None and (mask.max(0) == 0).any():
        what = "column of k-space is" if corruption.kind == "fourier" else "pixel is"
        raise DataError(f"{name}: some {what} missing in every image, so that nothing shows what is there")
    if isinstance(corruption, RandomMask) and corruption.shared and mask.shape[1] > 1:
        raise DataError(f"{name}: masks differ among the channels; say shared=0")
    if isinstance(corruption, BoxMask):
        for block in storage.blocks(mask):
            missing = (mask[block] == 0).any(1)
            sides = missing.any(2).sum(1), missing.any(1).sum(1)
            if not all((side == corruption.size).all() for side in (*sides, missing.sum((1, 2)) / corruption.size)):
                raise DataError(f"{name}: masks that are not one square of {corruption.size} pixels; use random_mask")


def _check_share(corruption: Corruption, found: float, size: int, name: str) -> None:
    """DataError where the masks miss another share of the pixels than SPEC says."""
    said = getattr(corruption, "missing", None)
    if said is not None and abs(found - said) > MISSING_TOLERANCE + 3 * (said * (1 - said) / size) ** 0.5:
        raise DataError(f"{name}: {found:.1%} of the pixels are missing, but '{corruption}' says {said:.1%}")
