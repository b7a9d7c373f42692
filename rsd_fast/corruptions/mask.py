"""Inpainting: A = M keeps some of the pixels. What is not observed is 0, and holds no noise."""

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from rsd_fast import ops

from .base import ALL_SYMMETRIES, Corruption, DrawnCorruption, register
from .parameters import Bank, Draw, Measured
from .view import MaskView

MISSING_TOLERANCE = 0.02  # by which the share of missing pixels may differ from the SPEC's
MASKS_AT_ONCE = 1024  # so many are checked at once: a bank may be mapped


class Mask(DrawnCorruption):
    """A x = M x, an orthogonal projection, so that A* = A. Its images are seen through masks with more missing."""

    symmetries = ALL_SYMMETRIES
    objective = "ambient"
    is_projection = True

    def apply(self, x: Tensor, draw: Draw) -> Tensor:
        return x.masked_fill(draw.mask == 0, 0)

    def transpose(self, y: Tensor, draw: Draw) -> Tensor:
        return self.apply(y, draw)

    def view(self, draw: Draw, image_shape: tuple[int, int, int]) -> MaskView:
        return MaskView(draw.mask, image_shape[0])

    def bound(self, bank: Bank) -> DrawnCorruption:
        if bank.mask is None or bank.mask.ndim != 4 or bank.mask.shape[2] == 1 < bank.mask.shape[3]:
            raise ValueError(f"corruption '{self.name}': the data holds columns of k-space, not masks of pixels")
        return super().bound(bank)

    def bound_to(self, measured: Measured) -> Corruption:
        if measured.mask is not None and measured.kspace_coils is None and not measured.clean:
            self.check_share(1 - float(measured.mask.mean()), measured.mask.size)
        return super().bound_to(measured)

    def check_share(self, missing: float, count: int) -> None:
        """ValueError where masks of `count` pixels miss another share of them than the SPEC says."""


@register("random_mask")
class RandomMask(Mask):
    """Each pixel is missing with probability `missing`, independently.

    shared: a pixel's channels are missing together. Raises ValueError unless 0 <= missing < 1.
    """

    about = "each pixel is missing with one probability, independently; shared=0: each of its channels is"
    example = "random_mask:missing=0.6"
    random = True

    def __init__(self, *, missing: float = 0.6, shared: bool = True) -> None:
        if not 0 <= missing < 1:
            raise ValueError(f"missing expects a share of at least 0 and less than 1, got {missing}")
        self.missing, self.shared = missing, shared
        self.spec = f"{self.name}:missing={missing!r},shared={int(shared)}"
        self.operator = ops.Operator.mask(missing, shared=shared)

    def check_share(self, missing: float, count: int) -> None:
        tolerance = MISSING_TOLERANCE + 3 * (self.missing * (1 - self.missing) / count) ** 0.5
        if abs(missing - self.missing) > tolerance:
            raise ValueError(f"{missing:.1%} of the pixels are missing, but '{self}' says {self.missing:.1%}")

    def check_masks(self, mask: np.ndarray, maps: np.ndarray | None) -> None:
        super().check_masks(mask, maps)
        if self.shared and mask.shape[1] > 1:
            raise ValueError("masks differ among the channels; say shared=0")

    def generate(self, image_shape: tuple[int, int, int], index: Tensor, seed: int) -> Draw:
        # Drawn by the op that observes, so that both have the same mask; its images do not matter here.
        images = torch.empty((len(index), *image_shape), dtype=torch.uint8, device=index.device)
        operator = ops.Operator.mask(self.missing, shared=self.shared)
        _, mask = ops.observe(images, index, operator, 0.0, seed, mask="uint8")
        return Draw(mask=mask)

    def further(self, draw: Draw, delta: float, *, seed: int, sample: Tensor, step: int | Tensor) -> Draw:
        """M~ = M B with B ~ Bernoulli(1 - delta) for each pixel (each channel of it, where M differs among them)."""
        u = ops.uniform(draw.mask.shape, seed, sample, step, ops.Stream.FURTHER_MASK)
        return Draw(mask=draw.mask * (u >= delta))


@register("box_mask")
class BoxMask(Mask):
    """A square of `size` pixels is missing: anywhere for each image (place=random), or in the middle (place=center).

    Raises ValueError for a size below 1 or another place.
    """

    about = "a square is missing, anywhere for each image, or in the middle of all (place=center)"
    example = "box_mask:size=8"
    further_hides_by_share = False  # it hides a second box

    def __init__(self, *, size: int = 8, place: str = "random") -> None:
        if size < 1:
            raise ValueError(f"size expects at least 1 pixel, got {size}")
        if place not in ("random", "center"):
            raise ValueError(f"place expects random or center, got '{place}'")
        self.size, self.place = size, place
        self.random = place == "random"
        if not self.random:  # a middle between two pixels is on neither side's
            self.symmetries = frozenset()
        self.spec = f"{self.name}:size={size},place={place}"

    def observation_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        height, width = image_shape[1:]
        if self.size >= min(height, width):
            raise ValueError(f"corruption '{self.name}': size {self.size} leaves nothing of {height}x{width} images")
        return image_shape

    def check_masks(self, mask: np.ndarray, maps: np.ndarray | None) -> None:
        super().check_masks(mask, maps)
        for start in range(0, len(mask), MASKS_AT_ONCE):
            missing = (mask[start : start + MASKS_AT_ONCE] == 0).any(1)
            sides = missing.any(2).sum(1), missing.any(1).sum(1)
            if not all((side == self.size).all() for side in (*sides, missing.sum((1, 2)) / self.size)):
                raise ValueError(f"masks that are not one square of {self.size} pixels; use random_mask")

    def why_unlearnable(self, image_shape: tuple[int, int, int], sigma_obs: float) -> str | None:
        if not self.random:
            return "every image lacks the same pixels, so that nothing shows what is there"
        if self.leaves_room(image_shape):
            return None
        _, height, width = image_shape
        return (
            f"it masks a second box, and in {height}x{width} images one of size {self.size} can leave no place for it; "
            f"at most a third of the greater side, {max(height, width) // 3}, always does"
        )

    def generate(self, image_shape: tuple[int, int, int], index: Tensor, seed: int) -> Draw:
        _, height, width = self.observation_shape(image_shape)
        free = height - self.size + 1, width - self.size + 1
        if self.random:
            u = ops.uniform((len(index), 2), seed, index, 0, ops.Stream.OBSERVATION_MASK)
            top, left = ((u[:, axis] * free[axis]).long() for axis in range(2))
        else:
            top, left = (torch.full_like(index, (n - 1) // 2) for n in free)
        return Draw(mask=1 - self._box(top, left, height, width))

    def _box(self, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
        """uint8 [B, 1, H, W]: 1 in the box that begins at top [B], left [B]."""

        def inside(start: Tensor, size: int) -> Tensor:
            offset = torch.arange(size, device=start.device) - start[:, None]
            return ((offset >= 0) & (offset < self.size)).to(torch.uint8)

        return (inside(top, height)[:, :, None] * inside(left, width)[:, None, :])[:, None]

    def further(self, draw: Draw, delta: float, *, seed: int, sample: Tensor, step: int | Tensor) -> Draw:
        """A second box, anywhere apart from what is missing already, always (delta does not matter).

        Single pixels would give the first box away, and of what is never observed given M~ nothing can be learned.
        Where no such place is left (`leaves_room`) it overlaps.
        """
        height, width = draw.mask.shape[2:]
        missing = (draw.mask == 0).any(1).float()
        touched = nnf.max_pool2d(missing[:, None], self.size, stride=1).flatten(1) > 0
        u = ops.uniform(touched.shape, seed, sample, step, ops.Stream.FURTHER_MASK)
        place = u.masked_fill(touched, -1).argmax(1)
        columns = width - self.size + 1
        return Draw(mask=draw.mask * (1 - self._box(place // columns, place % columns, height, width)))

    def leaves_room(self, image_shape: tuple[int, int, int]) -> bool:
        """Is there a place for a second box, wherever the first one is?"""
        return 3 * self.size <= max(image_shape[1:])
