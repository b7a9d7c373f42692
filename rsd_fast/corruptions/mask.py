"""Inpainting: A = M keeps some of the pixels. What is not observed is 0, and holds no noise."""

import torch
import torch.nn.functional as nnf
from torch import Tensor

from rsd_fast import ops

from .base import ALL_SYMMETRIES, DrawnCorruption, register
from .parameters import Bank, Draw
from .view import MaskView


class Mask(DrawnCorruption):
    """A x = M x, an orthogonal projection, so that A* = A. Its images are seen through masks with more missing."""

    kind = "mask"
    symmetries = ALL_SYMMETRIES

    def apply(self, x: Tensor, draw: Draw) -> Tensor:
        return x.masked_fill(draw.mask == 0, 0)

    def transpose(self, y: Tensor, draw: Draw) -> Tensor:
        return self.apply(y, draw)

    def view(self, draw: Draw, image_shape: tuple[int, int, int]) -> MaskView:
        return MaskView(draw.mask, image_shape[0])

    def bound(self, bank: Bank) -> "Mask":
        if bank.mask is None or bank.mask.ndim != 4 or bank.mask.shape[2] == 1 < bank.mask.shape[3]:
            raise ValueError(f"corruption '{self.name}': the data holds columns of k-space, not masks of pixels")
        return super().bound(bank)  # type: ignore[return-value]


@register("random_mask")
class RandomMask(Mask):
    """Each pixel is missing with probability `missing`, independently.

    shared: a pixel's channels are missing together. Raises ValueError unless 0 <= missing < 1.
    """

    random = True

    def __init__(self, *, missing: float = 0.6, shared: bool = True) -> None:
        if not 0 <= missing < 1:
            raise ValueError(f"missing expects a share of at least 0 and less than 1, got {missing}")
        self.missing, self.shared = missing, shared
        self.spec = f"{self.name}:missing={missing!r},shared={int(shared)}"
        self.operator = ops.Operator.mask(missing, shared=shared)

    def generate(self, image_shape: tuple[int, int, int], index: Tensor, seed: int) -> Draw:
        # Of the op that observes, so that both have the same mask; its images are of no interest here.
        images = torch.empty((len(index), *image_shape), dtype=torch.uint8, device=index.device)
        operator = ops.Operator.mask(self.missing, shared=self.shared)
        _, mask = ops.observe(images, index, operator, 0.0, seed, mask="uint8")
        return Draw(mask=mask)

    def further(self, draw: Draw, delta: float, *, seed: int, sample: Tensor, step: int) -> Draw:
        """M~ = M B with B ~ Bernoulli(1 - delta) for each pixel (each channel of it, where M differs among them)."""
        u = ops.uniform(draw.mask.shape, seed, sample, step, ops.Stream.FURTHER_MASK)
        return Draw(mask=draw.mask * (u >= delta))


@register("box_mask")
class BoxMask(Mask):
    """A square of `size` pixels is missing: anywhere for each image (place=random), or in the middle (place=center).

    Raises ValueError for a size below 1 or another place.
    """

    further_hides_by_share = False  # but a second box, always

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

    def further(self, draw: Draw, delta: float, *, seed: int, sample: Tensor, step: int) -> Draw:
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
