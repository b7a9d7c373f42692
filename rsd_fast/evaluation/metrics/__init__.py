"""Metrics by name: a file here for each, or for those that are computed together. What lists metrics reads `METRICS`.

`proximal-` before a name compares observations made of the samples with the real observations. That needs no clean
image: A(G(z)) + sigma_obs eps against the observations themselves (RSD, arXiv 2505.13377, section 5).

The command line's help lists the metrics, so importing this package imports neither torch nor NumPy: the functions of a
metric import what they compute with.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from rsd_fast.errors import FieldError, nearest
from rsd_fast.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..images import Statistics

PROXIMAL = "proximal-"
INCEPTION = "inception-v3-compat"  # torch-fidelity's name of the network of published FID
SEED = 2020  # of subsets and order, as torch-fidelity's command line has it


class Result(NamedTuple):
    """What a metric's formula gives."""

    value: float
    standard_error: float | None = None  # as another sample of that number would scatter it; None: not known
    floor: float | None = None  # the value that as many images of the reference's kind would have
    settings: dict[str, Any] | None = None


@dataclass(frozen=True)
class ReferenceFeatures:
    """The features of a reference, as they come: pixels are read anew, and need not be kept."""

    blocks: "Iterable[tuple[Tensor, Tensor]]"  # (image numbers [B], features [B, D]), in order
    count: int  # images
    num: int  # samples that are to be compared with them

    def all(self) -> "Tensor":
        """Features [N, D] of all images."""
        import torch

        parts = [features for _, features in self.blocks]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric as lists show it; `about` is a line for a person."""

    about: str
    lower_is_better: bool
    proximal: bool = False  # does it have a proximal form?

    @property
    def has_reference(self) -> bool:
        """Does it compare with one?"""
        return True


@dataclass(frozen=True, kw_only=True)
class SetMetric(Metric):
    """A metric of a set of images, which most compare with a reference.

    compute:         (features [N, D] of the samples, the prepared reference) -> its Result; or a Result by name, of
                     metrics that are computed together and share this function
    prepare:         makes of the reference's features, once, what `compute` compares with; None: there is no reference
    from_statistics: does so of a published mean and covariance; None: the metric needs the reference's images
    layer:           torch-fidelity's name of the metric from whose layer of a network the features come; None: the
                     pixels are the features, neither clipped nor rounded
    least:           images that the samples and the reference must at least have
    """

    compute: "Callable[[Tensor, Any], Result | dict[str, Result]]"
    prepare: Callable[[ReferenceFeatures], Any] | None = ReferenceFeatures.all
    from_statistics: "Callable[[Statistics], Any] | None" = None
    layer: str | None = None
    least: int = 2
    proximal: bool = True

    @property
    def has_reference(self) -> bool:
        return self.prepare is not None


@dataclass(frozen=True, kw_only=True)
class PairMetric(Metric):
    """A metric of images and the truth of each, as after restoration.

    on:       (device) -> formula, which takes images and truth [B, C, H, W] in [-1, 1] to the values [B]
    features: what it compares, for the record
    package:  that it needs, of the extra `metrics`
    """

    on: "Callable[[str | torch.device], Callable[[Tensor, Tensor], Tensor]]"
    features: str = "pixels"
    package: str | None = "torchmetrics"


METRICS: Registry[Metric] = Registry("metrics", "metric")

Kind = TypeVar("Kind", bound=Metric)


def family(name: str) -> str:
    """The metric's name without `proximal-`."""
    return name.removeprefix(PROXIMAL)


def is_proximal(name: str) -> bool:
    return name.startswith(PROXIMAL)


def names(kind: type[Metric] = Metric) -> list[str]:
    """The names of a kind of metrics, those of proximal forms last."""
    plain = [name for name, metric in METRICS.items() if isinstance(metric, kind)]
    return plain + [PROXIMAL + name for name in plain if METRICS[name].proximal]


def of_networks() -> list[str]:
    """The metrics of a network's features, which the option `features` names."""
    return [name for name in METRICS if needs_features(name)]


def find(name: str, kind: type[Kind], field: str = "metrics") -> Kind:
    """The record of a metric, proximal or not. FieldError, which lists the known ones of that kind, for another."""
    known = names(kind)
    if name not in known:
        raise FieldError(field, f"unknown metric '{name}'; known: {', '.join(known)}{nearest(name, known)}")
    metric = METRICS[family(name)]
    assert isinstance(metric, kind)
    return metric


def needs_features(name: str) -> bool:
    """Is a metric of features of a network, rather than of pixels?"""
    metric = find(name, Metric)
    return isinstance(metric, SetMetric) and metric.layer is not None


def listed(words: Sequence[str]) -> str:
    """The words as a sentence has them: `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
