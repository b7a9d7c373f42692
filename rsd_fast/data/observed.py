"""The one observation of each image: y = A(x) + sigma_obs eps, a pure function of (seed, index).

Neither the epoch, the order, the batch nor the number of workers changes a bit of it: the corruption and the
noise are drawn from counter-based streams by the image's index, and no drawn number is stored.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from rsd_fast import corruptions
from rsd_fast.corruptions import Corruption

from .array import ImageArray

Item = tuple[Tensor, int, int]


class ObservedDataset(Dataset[Item]):
    """Observations of a source, as a map-style data set.

    source:     clean images with `simulate`, else the observations themselves, handed on as they are
    corruption: the operator A, an object of `rsd_fast.corruptions`
    sigma_obs:  standard deviation of the noise, in units of [-1, 1] pixels
    seed:       of the data set; with the index it decides noise and corruption for ever
    """

    def __init__(
        self, source: ImageArray, *, corruption: Corruption, sigma_obs: float, seed: int, simulate: bool
    ) -> None:
        if not 0 <= sigma_obs < float("inf"):
            raise ValueError(f"sigma_obs: a finite number of at least 0 is wanted, not {sigma_obs}")
        self.source = source
        self.corruption = corruption
        self.sigma_obs = sigma_obs
        self.seed = seed
        self.simulate = simulate

    def __len__(self) -> int:
        return len(self.source)

    @property
    def observation_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an observation."""
        shape = self.source.image_shape
        return self.corruption.observation_shape(shape) if self.simulate else shape

    def __getitem__(self, index: int) -> Item:
        """(observation [C, H, W] float32, index, label), the label -1 where there is none."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """The items at `indices`, computed in one call: what a DataLoader asks for."""
        observations, index, labels = self.batch(torch.as_tensor(indices, dtype=torch.int64))
        return list(zip(observations, index.tolist(), labels.tolist(), strict=True))

    @torch.no_grad()
    def batch(
        self, indices: Tensor, device: torch.device | str = "cpu", *, channels_last: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Observations [B, C, H, W] float32, their indices [B] int64 and labels [B] int64, on `device`.

        indices: [B] int64, best on the CPU, where the images are. channels_last: the observations' memory format.
        IndexError if an index is out of range.
        """
        indices = indices.cpu()
        count = len(self)
        if indices.numel() and not (-count <= int(indices.min()) and int(indices.max()) < count):
            raise IndexError(f"indices: {int(indices.min())} to {int(indices.max())}, of {count} images")
        indices = indices.remainder(count)  # one image, one index: -1 has the noise of the last
        index = indices.to(device)
        observations = corruptions.observe(
            self.corruption if self.simulate else corruptions.Identity(),
            self.source.pixels(indices, device),
            index=index,
            sigma_obs=self.sigma_obs if self.simulate else 0.0,
            seed=self.seed,
            channels_last=channels_last,
        )
        if self.source.labels is None:
            labels = torch.full_like(index, -1)
        else:
            labels = torch.from_numpy(self.source.labels[indices.numpy()]).to(device)
        return observations, index, labels
