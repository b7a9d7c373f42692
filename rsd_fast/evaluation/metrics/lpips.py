"""lpips: the perceptual distance of AlexNet's features (Zhang et al. 2018, arXiv 1801.03924), by torchmetrics."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from . import METRICS, PairMetric

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def lpips(device: "str | torch.device") -> "Callable[[Tensor, Tensor], Tensor]":
    """The formula, for images of 1 or 3 channels. ValueError where AlexNet's weights cannot be had."""
    import torch
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    try:
        network = LearnedPerceptualImagePatchSimilarity(net_type="alex").net.to(device).eval()
    except OSError as error:
        raise ValueError(
            f"lpips: the weights of AlexNet could not be downloaded ({error}); put torchvision's file into "
            "hub/checkpoints of the folder TORCH_HOME"
        ) from None

    @torch.no_grad()
    def formula(x: "Tensor", y: "Tensor") -> "Tensor":
        x, y = (image.expand(-1, 3, -1, -1) for image in (x, y))
        return network(x, y).reshape(len(x))

    return formula


METRICS.add(
    "lpips",
    PairMetric(
        about="perceptual distance of AlexNet's features, for images of 1 or 3 channels",
        lower_is_better=True,
        on=lpips,
        features="lpips-alex",
    ),
)
