"""psnr: the peak signal-to-noise ratio in dB, by torchmetrics."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from . import METRICS, PairMetric

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def psnr(device: "str | torch.device") -> "Callable[[Tensor, Tensor], Tensor]":
    from torchmetrics.functional.image import peak_signal_noise_ratio

    return lambda x, y: peak_signal_noise_ratio(x, y, data_range=(-1.0, 1.0), reduction="none", dim=(1, 2, 3))


METRICS.add("psnr", PairMetric(about="peak signal-to-noise ratio in dB", lower_is_better=False, on=psnr))
