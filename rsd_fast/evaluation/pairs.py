"""Images and the truth of each, as after restoration. Of complex images (two channels) the magnitudes are compared."""

from importlib.util import find_spec

import torch
from torch import Tensor

from rsd_fast.data import magnitude
from rsd_fast.errors import FieldError

from .images import ImageSet, Stopwatch, collect
from .metrics import PairMetric, find
from .results import Evaluation, software


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

    Raises ValueError on an unknown metric, sets of unlike number or shape, and without LPIPS's weights.
    """
    records = {metric: find(metric, PairMetric) for metric in metrics}
    for metric, record in records.items():
        if record.package is not None and find_spec(record.package) is None:
            raise FieldError("metrics", f"{metric} needs {record.package}; pip install 'rsd-fast[metrics]'")
    if images.count != truth.count:
        raise ValueError(f"{metrics[0]}: of pairs, but {images.count} images face {truth.count} of {truth.name}")
    formulas = {metric: record.on(device) for metric, record in records.items()}

    def rows(some: Tensor, index: Tensor) -> dict[str, Tensor]:
        true = truth.read(index)
        if some.shape != true.shape:
            shapes = list(some.shape[1:]), list(true.shape[1:])
            raise ValueError(f"{metrics[0]}: images of shape {shapes[0]} face those of {truth.name}, {shapes[1]}")
        if some.shape[1] == 2:
            some, true = magnitude(some), magnitude(true)
        pair = [x.float().clamp(-1, 1).to(device) for x in (some, true)]
        return {metric: formula(*pair) for metric, formula in formulas.items()}

    values = collect(images, rows, batch=batch, title="pairs" if progress else None, watch=watch)
    versions = software()
    return [
        Evaluation(
            metric=metric,
            value=float(values[metric].double().mean()),
            standard_error=float(values[metric].double().std() / images.count**0.5) if images.count > 1 else None,
            num=images.count,
            reference=truth.name,
            num_reference=truth.count,
            reference_hash=truth.digest,
            features=record.features,
            versions=versions,
        )
        for metric, record in records.items()
    ]
