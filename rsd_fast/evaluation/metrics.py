"""Metrics by name. `proximal-` ones compare observations made of the samples with the real observations.

A proximal metric needs no clean image: A(G(z)) + sigma_obs eps against the observations themselves.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .frechet import Moments, frechet_distance

METRICS = ("pixel-fd", "proximal-pixel-fd")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What samples are compared with: batches [B, C, H, W], and a name for the record."""

    name: str
    batches: Iterable[Tensor]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One metric's value and what it was computed from."""

    metric: str
    value: float
    num: int  # samples
    reference: str
    num_reference: int
    features: str = "pixels"
    seed: int | None = None  # of the samples, where they were drawn from a run
    kimg: float | None = None
    checkpoint: str | None = None


def evaluate(
    metrics: Iterable[str],
    samples: Iterable[Tensor],
    *,
    clean: Reference | None = None,
    observed: Reference | None = None,
    observe: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> list[Evaluation]:
    """The named metrics of samples that come in batches [B, C, H, W] and are gone through once.

    clean: for metrics against clean images. observed: real observations, for proximal metrics, with observe(images,
    index [B]) to corrupt samples as they were. Raises ValueError on an unknown metric or a missing reference.
    """
    metrics = list(metrics)
    fitted = {metric: Moments() for metric in metrics}
    references = {"pixel-fd": clean, "proximal-pixel-fd": observed}
    for metric in metrics:
        if metric not in METRICS:
            raise ValueError(f"metrics: unknown metric '{metric}'; known: {', '.join(METRICS)}")
        if references[metric] is None or (metric.startswith("proximal-") and observe is None):
            raise ValueError(f"{metric}: no reference to compare with")
    count = 0
    for images in samples:
        index = torch.arange(count, count + len(images), device=images.device)
        count += len(images)
        for metric, moments in fitted.items():
            proximal = observe is not None and metric.startswith("proximal-")
            moments.add((observe(images, index) if proximal else images).flatten(1))  # type: ignore[misc]
    results = []
    for metric, moments in fitted.items():
        reference = references[metric]
        assert reference is not None
        expected = Moments()
        for images in reference.batches:
            expected.add(images.flatten(1))
        results.append(
            Evaluation(
                metric=metric,
                value=frechet_distance(moments, expected),
                num=count,
                reference=reference.name,
                num_reference=expected.count,
            )
        )
    return results


def in_batches(count: int, read: Callable[[Tensor], Tensor], batch: int = 1024) -> Iterator[Tensor]:
    """read(indices) for 0 .. count - 1, `batch` at a time."""
    for first in range(0, count, batch):
        yield read(torch.arange(first, min(first + batch, count)))
