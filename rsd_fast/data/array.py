"""A data set as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rsd_fast import corruptions

from . import storage


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageArray:
    """All images of a source, in the order that gives each its permanent index, in memory or mapped (`storage`).

    images: [N, C, H, W] uint8, or float32 in [-1, 1] (observations: beyond that by their noise); or k-space, float32
            [N, 2 coils, H, W] as `corruptions.Fourier` observes it
    labels: [N] int64 class indices, or None
    name:   short, for pictures and logs
    mask:   uint8, 1 where observed: pixels [N, 1 or C, H, W], or of k-space columns [N, 1, 1, W]; None: all of it
    maps:   coil sensitivities of k-space, complex64 [N or 1, coils, H, W], or None
    sigma:  float32 [N], the noise level of each image, or None where the source does not say
    kspace: images are k-space
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    name: str
    mask: np.ndarray | None = None
    maps: np.ndarray | None = None
    sigma: np.ndarray | None = None
    kspace: bool = False

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype not in (np.uint8, np.float32):
            raise ValueError(
                f"images: uint8 or float32 [N, C, H, W] is wanted, not {self.images.dtype} {list(self.images.shape)}"
            )
        for name, array in (("mask", self.mask), ("sigma", self.sigma)):
            if array is not None and len(array) != len(self.images):
                raise ValueError(f"{name}: one an image is wanted, {len(self.images)}, not {len(array)}")
        if self.labels is not None and self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels: shape [{len(self.images)}] is wanted, one an image, not {list(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    @property
    def label_dim(self) -> int:
        """Number of classes, the largest label plus one; 0 without labels."""
        return 0 if self.labels is None else int(self.labels.max()) + 1

    def pixels(self, indices: Tensor | np.ndarray | Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """Images [B, C, H, W] as they are stored, uint8 or float32, at `indices` [B], in memory of their own."""
        rows = np.asarray(indices.cpu() if isinstance(indices, Tensor) else indices, dtype=np.int64)
        images = storage.empty_rows(self.images, len(rows))
        storage.take(self.images, storage.row_numbers(rows, len(self)), images)
        return images.to(device)

    def tensor(self, indices: Tensor | np.ndarray | Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """`pixels` as float32 in [-1, 1].

        The bits of an image depend neither on the batch it is read in nor on the device.
        """
        images = self.pixels(indices, device)
        index = torch.zeros(len(images), dtype=torch.int64, device=device)  # of no noise
        return corruptions.observe(corruptions.Identity(), images, index=index, sigma_obs=0.0, seed=0)
