"""The one observation of each image: y = A(x) + sigma_obs eps, a pure function of (seed, index).

Neither the epoch, the order, the batch nor the number of workers changes a bit of it: the corruption and the
noise are drawn from counter-based streams by the image's index, and no drawn number is stored.
"""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rsd_fast import corruptions
from rsd_fast.corruptions import BatchOperator, Corruption, Measured, NoiseLevels, Observation
from rsd_fast.ops import Key

from . import storage
from .array import ImageArray
from .coils import cached_maps
from .errors import DataError

Item = tuple[Tensor, int, int]
Rows = dict[str, Tensor]  # what belongs to the images of a batch, by the names of `ObservedDataset.tables`, and `index`


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
        tables = {"images": self.source.images, "labels": self.source.labels}
        if not self.levels.pool:
            tables["sigma_obs"] = self.levels.bank
        bank = self.corruption.bank
        if bank is not None and not bank.pool:
            tables |= {"mask": bank.mask, "maps": bank.maps}
        if self.source.kspace and self.simulate:
            tables["sampled"] = self.source.mask
        return {name: table for name, table in tables.items() if table is not None and len(table) == len(self)}

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
        rows = {name: t.to(device, non_blocking=True) for name, t in rows.items()}
        index, images = rows["index"], rows["images"]
        sigma_obs = rows["sigma_obs"] if "sigma_obs" in rows else self.levels.of(index, self.seed)
        labels = rows["labels"] if "labels" in rows else torch.full_like(index, -1)
        key = Key(self.seed, index)
        if not self.simulate or self.source.kspace:  # A has acted already, if not all of it
            whole = corruptions.Identity().batch(self.source.image_shape, index, self.seed)
            noise = sigma_obs if self.simulate else 0.0  # observations hold theirs already
            y = corruptions.observe_through(whole, images, noise, key, channels_last=channels_last).y
            operator = self.operator_of_rows(rows)
            return Observation(operator.observed(y), operator, sigma_obs), labels
        if self.corruption.bank is not None:
            operator = self.operator_of_rows(rows)
            return corruptions.observe_through(operator, images, sigma_obs, key, channels_last=channels_last), labels
        observation = corruptions.observation(
            self.corruption, images, index=index, sigma_obs=sigma_obs, seed=self.seed, channels_last=channels_last
        )
        return observation, labels

    def operator(self, indices: Tensor, device: torch.device | str = "cpu") -> BatchOperator:
        """A for the images at `indices` [B], with what was drawn for each."""
        rows = self.room(len(indices))
        del rows["images"]
        self.read(indices.cpu().numpy(), rows)
        return self.operator_of_rows({name: t.to(device) for name, t in rows.items()})

    def operator_of_rows(self, rows: Rows) -> BatchOperator:
        """A for the images whose rows, but for the pixels, are on their device."""
        operator = self.corruption.batch(self.image_shape, rows["index"], self.seed, rows)
        return operator.within(rows["sampled"]) if "sampled" in rows else operator

    def pictures(self, indices: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """Observations as images [B, C, H, W] to look at: of k-space the zero-filled reconstruction."""
        observation, _ = self.observe(indices, device)
        return observation.operator.picture(observation.y)

    def clean(self, indices: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """The images of a source that is simulated from, float32 [B, C, H, W]."""
        if not self.source.kspace:
            return self.source.tensor(indices, device)
        whole = ObservedDataset(self.source, corruption=self.corruption, sigma_obs=0.0, seed=self.seed, simulate=False)
        return whole.pictures(indices, device)


def _bound(corruption: Corruption, source: ImageArray, simulate: bool) -> Corruption:
    """The operator with the masks and maps of the source."""
    measured = Measured(
        clean=simulate,
        kspace_coils=source.image_shape[0] // 2 if source.kspace else None,
        mask=source.mask,
        maps=source.maps,
        estimate_maps=functools.partial(cached_maps, source.images),
    )
    try:
        return corruption.bound_to(measured)
    except ValueError as error:
        raise DataError(f"{source.name}: {error}") from None
