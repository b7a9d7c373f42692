"""What Frechet distances of real images to real images are: samples cannot be expected to come much below it."""

import torch
from torch import Tensor

from .metrics import SEED


def split_of(whole: int, num: int) -> Tensor:
    """[whole] bool: some images, drawn at random, of a reference: `num`, or half of it where that is less."""
    chosen = torch.zeros(whole, dtype=torch.bool)
    order = torch.randperm(whole, generator=torch.Generator().manual_seed(SEED))
    chosen[order[: min(num, whole // 2)]] = True
    return chosen


def floor(distance: float, few: int, num: int, whole: int, length: int) -> float | None:
    """The Frechet distance that `num` images of a reference's kind have to its `whole` ones.

    distance: of `few` of the reference's images to its others. length: features an image. None where the images are
    too few to tell: the distance of samples of one distribution falls as 1 / num + 1 / N if they are more than their
    features.
    """
    if few < 2 or (few < num and few < length):
        return None
    return distance * (1 / num + 1 / whole) / (1 / few + 1 / (whole - few))
