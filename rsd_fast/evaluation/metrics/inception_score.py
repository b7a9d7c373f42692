"""is: the inception score of a network's class probabilities (Salimans et al. 2016), by torch-fidelity."""

from typing import TYPE_CHECKING

from . import METRICS, SEED, Result, SetMetric

if TYPE_CHECKING:
    from torch import Tensor

SPLITS = 10


def inception_score(logits: "Tensor", reference: None) -> Result:
    """The mean over 10 parts of the images, and the standard error of that mean."""
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    values = isc_features_to_metric(logits, splits=SPLITS, shuffle=True, rng_seed=SEED)
    error = values[KEY_METRIC_ISC_STD] / (SPLITS - 1) ** 0.5  # torch-fidelity divides by SPLITS
    return Result(values[KEY_METRIC_ISC_MEAN], error, None, {"splits": SPLITS})


METRICS.add(
    "is",
    SetMetric(
        about="inception score: how sure and how varied a network's classes are; it has no reference",
        lower_is_better=False,
        compute=inception_score,
        prepare=None,
        layer="isc",
        least=SPLITS,
        proximal=False,
    ),
)
