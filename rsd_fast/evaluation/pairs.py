"""Images and the truth of each, as after restoration: torchmetrics' PSNR, SSIM and LPIPS.

Of complex images (two channels) the magnitudes are compared.
"""

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from rsd_fast.data import magnitude
from rsd_fast.errors import FieldError

from .images import ImageSet, Stopwatch, collect
from .metrics import PAIRS, Evaluation, check, software

LEAST_SSIM = 11  # pixels of its window


def evaluate_pairs(
    metrics: list[str],
    images: ImageSet,
    truth: ImageSet,
    *,
    device: str | torch.device = "cpu",
    batch: int = 256,
    progress: bool = False,
    watch: Stopwatch | None = None,
) -> list[Evaluation]:
    """Means over all pairs, with their standard errors. Images are [C, H, W] in [-1, 1], clipped to that.

    psnr in dB; ssim with a Gaussian window of 11 pixels, of images scaled to [0, 1]; lpips of AlexNet, for images of 1
    or 3 channels. Raises ValueError on an unknown metric, sets of unlike number or shape, and without LPIPS's weights.
    """
    for metric in metrics:
        check(metric, PAIRS)
    if find_spec("torchmetrics") is None:
        raise FieldError("metrics", f"{metrics[0]} needs torchmetrics; pip install 'rsd-fast[metrics]'")
    if images.count != truth.count:
        raise ValueError(f"{metrics[0]}: of pairs, but {images.count} images face {truth.count} of {truth.name}")
    formulas = {metric: _formula(metric, device) for metric in metrics}

    def rows(some: Tensor, index: Tensor) -> dict[str, Tensor]:
        true = truth.read(index)
        if some.shape != true.shape:
            shapes = list(some.shape[1:]), list(true.shape[1:])
            raise ValueError(f"{metrics[0]}: images of shape {shapes[0]} face those of {truth.name}, {shapes[1]}")
        if some.shape[1] == 2:
            some, true = magnitude(some), magnitude(true)
        pair = [x.float().clamp(-1, 1).to(device) for x in (some, true)]
        return {metric: formula(*pair) for metric, formula in formulas.items()}

    found = collect(images, rows, batch=batch, title="pairs" if progress else None, watch=watch)
    versions = software()
    return [
        Evaluation(
            metric=metric,
            value=float(found[metric].double().mean()),
            standard_error=float(found[metric].double().std() / images.count**0.5) if images.count > 1 else None,
            num=images.count,
            reference=truth.name,
            num_reference=truth.count,
            reference_hash=truth.digest,
            features="lpips-alex" if metric == "lpips" else "pixels",
            versions=versions,
        )
        for metric in metrics
    ]


def _formula(metric: str, device: str | torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """(images, truth) -> [B]."""
    if metric == "lpips":
        return _lpips(device)
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    if metric == "psnr":
        return lambda x, y: peak_signal_noise_ratio(x, y, data_range=(-1.0, 1.0), reduction="none", dim=(1, 2, 3))

    def ssim(x: Tensor, y: Tensor) -> Tensor:
        if min(x.shape[2:]) < LEAST_SSIM:
            raise FieldError("ssim", f"needs images of at least {LEAST_SSIM} pixels a side, got {list(x.shape[2:])}")
        found = structural_similarity_index_measure((x + 1) / 2, (y + 1) / 2, data_range=1.0, reduction="none")
        assert isinstance(found, Tensor)
        return found.reshape(len(x))

    return ssim


def _lpips(device: str | torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    try:
        network = LearnedPerceptualImagePatchSimilarity(net_type="alex").net.to(device).eval()
    except OSError as error:
        raise FieldError(
            "lpips",
            f"the weights of AlexNet could not be downloaded ({error}); put torchvision's file into "
            "hub/checkpoints of the folder TORCH_HOME",
        ) from None

    @torch.no_grad()
    def lpips(x: Tensor, y: Tensor) -> Tensor:
        x, y = (image.expand(-1, 3, -1, -1) for image in (x, y))
        return network(x, y).reshape(len(x))

    return lpips
