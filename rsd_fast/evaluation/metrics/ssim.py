"""ssim: the structural similarity with a Gaussian window of 11 pixels, of images scaled to [0, 1], by torchmetrics."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from . import METRICS, PairMetric

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LEAST_SIDE = 11  # pixels, those of its window


def ssim(device: "str | torch.device") -> "Callable[[Tensor, Tensor], Tensor]":
    from torch import Tensor
    from torchmetrics.functional.image import structural_similarity_index_measure

    def formula(x: Tensor, y: Tensor) -> Tensor:
        if min(x.shape[2:]) < LEAST_SIDE:
            raise ValueError(f"ssim: needs images of at least {LEAST_SIDE} pixels a side, got {list(x.shape[2:])}")
        values = structural_similarity_index_measure((x + 1) / 2, (y + 1) / 2, data_range=1.0, reduction="none")
        assert isinstance(values, Tensor)
        return values.reshape(len(x))

    return formula


METRICS.add("ssim", PairMetric(about="structural similarity, at most 1", lower_is_better=False, on=ssim))
