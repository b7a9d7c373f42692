"""fid: the Frechet distance of a network's features (Heusel et al. 2017, arXiv 1706.08500), by torch-fidelity."""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from . import METRICS, ReferenceFeatures, Result, SetMetric

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ..images import Statistics


class Fitted(NamedTuple):
    """A Gaussian fitted to a reference's features, and the `floor` of as many samples."""

    statistics: Any  # torch-fidelity's mean and covariance
    mean: "np.ndarray"  # [D] float64
    covariance: "np.ndarray"  # [D, D] float64
    floor: float | None = None


def prepare(reference: ReferenceFeatures) -> Fitted:
    from ..floor import floor, split_of
    from ..frechet import ROWS, Moments

    features = reference.all()
    chosen = split_of(len(features), reference.num)
    apart = [statistics(features[part]) for part in (chosen, ~chosen)] if chosen.sum() > 1 else []
    between = distance(*apart) if apart else math.nan
    mean, covariance = Moments(*features.split(ROWS)).fit()
    lowest = floor(between, int(chosen.sum()), reference.num, *features.shape)
    return Fitted(statistics(features), mean, covariance, lowest)


def from_statistics(published: "Statistics") -> Fitted:
    import numpy as np

    mean = published.mean.astype(np.float32)  # as torch-fidelity keeps means
    return Fitted({"mu": mean, "sigma": published.covariance}, published.mean, published.covariance)


def fid(features: "Tensor", reference: Fitted) -> Result:
    from ..frechet import standard_error

    value = distance(statistics(features), reference.statistics)
    return Result(value, standard_error(features, reference.mean, reference.covariance), reference.floor)


def statistics(features: "Tensor") -> Any:
    """Mean and covariance, as `distance` takes them."""
    from torch_fidelity.metric_fid import fid_features_to_statistics

    return fid_features_to_statistics(features)


def distance(first: Any, second: Any) -> float:
    """The Frechet distance of two `statistics`."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    return fid_statistics_to_metric(first, second, verbose=False)[KEY_METRIC_FID]


METRICS.add(
    "fid",
    SetMetric(
        about="Frechet distance of a network's features",
        lower_is_better=True,
        compute=fid,
        prepare=prepare,
        from_statistics=from_statistics,
        layer="fid",
    ),
)
