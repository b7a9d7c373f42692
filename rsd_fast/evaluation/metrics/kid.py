"""kid: the kernel distance of a network's features (Binkowski et al. 2018, arXiv 1801.01401), by torch-fidelity."""

from typing import TYPE_CHECKING

from . import METRICS, SEED, Result, SetMetric

if TYPE_CHECKING:
    from torch import Tensor

SUBSETS, SUBSET_SIZE = 100, 1000


def kid(features: "Tensor", reference: "Tensor") -> Result:
    """The mean over 100 subsets of 1000 images (of all, where there are fewer).

    Its standard error is a delete-d jackknife (Shao and Wu 1989), subsets of m of n scattering by sqrt((n - m) / m)
    times what n images do, and that of a mean over so many subsets; None where every subset is the whole.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    least = min(len(features), len(reference))
    size = min(SUBSET_SIZE, least)
    values = kid_features_to_metric(
        features, reference, kid_subsets=SUBSETS, kid_subset_size=size, rng_seed=SEED, verbose=False
    )
    error = values[KEY_METRIC_KID_STD] * (size / (least - size) + 1 / SUBSETS) ** 0.5 if least > size else None
    return Result(values[KEY_METRIC_KID_MEAN], error, None, {"subsets": SUBSETS, "subset_size": size})


METRICS.add(
    "kid",
    SetMetric(about="kernel distance of a network's features", lower_is_better=True, compute=kid, layer="kid"),
)
