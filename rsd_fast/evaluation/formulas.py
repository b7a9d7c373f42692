"""torch-fidelity's formulas, of features [N, D], with standard errors.

They scatter as the values of other samples of that number would; the reference stays.
"""

from typing import Any, NamedTuple

from torch import Tensor

SEED = 2020  # of subsets and order, as torch-fidelity's command line has it
KID_SUBSETS, KID_SUBSET_SIZE, SPLITS, NEIGHBOURS = 100, 1000, 10, 3
PRC_PAIRS = 10**9  # of images, whose distances are all held at once, 4 bytes each
LEAST = {"fid": 2, "kid": 2, "is": SPLITS, "precision": NEIGHBOURS + 1, "recall": NEIGHBOURS + 1}  # images


class Result(NamedTuple):
    """What a metric's formula gives."""

    value: float
    standard_error: float | None = None
    floor: float | None = None
    settings: dict[str, Any] | None = None


def statistics(features: Tensor) -> Any:
    """Mean and covariance, as `fid` takes them."""
    from torch_fidelity.metric_fid import fid_features_to_statistics

    return fid_features_to_statistics(features)


def fid(first: Any, second: Any) -> float:
    """The Frechet distance of two `statistics`."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    return fid_statistics_to_metric(first, second, verbose=False)[KEY_METRIC_FID]


def kid(mine: Tensor, theirs: Tensor) -> Result:
    """The mean over 100 subsets of 1000 images (of all, where there are fewer).

    Its standard error is a delete-d jackknife (Shao and Wu 1989), subsets of m of n scattering by sqrt((n - m) / m)
    times what n images do, and that of a mean over so many subsets; None where every subset is the whole.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    size = min(KID_SUBSET_SIZE, len(mine), len(theirs))
    settings = {"subsets": KID_SUBSETS, "subset_size": size}
    found = kid_features_to_metric(
        mine, theirs, kid_subsets=KID_SUBSETS, kid_subset_size=size, rng_seed=SEED, verbose=False
    )
    least = min(len(mine), len(theirs))
    error = found[KEY_METRIC_KID_STD] * (size / (least - size) + 1 / KID_SUBSETS) ** 0.5 if least > size else None
    return Result(found[KEY_METRIC_KID_MEAN], error, None, settings)


def inception_score(logits: Tensor) -> Result:
    """Over 10 parts of the images; the standard error is that of the parts' mean."""
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    found = isc_features_to_metric(logits, splits=SPLITS, shuffle=True, rng_seed=SEED)
    error = found[KEY_METRIC_ISC_STD] / (SPLITS - 1) ** 0.5  # torch-fidelity divides by SPLITS
    return Result(found[KEY_METRIC_ISC_MEAN], error, None, {"splits": SPLITS})


def precision_recall(mine: Tensor, theirs: Tensor) -> dict[str, Result]:
    """With balls to the third neighbour (Kynkaanniemi et al. 2019).

    The standard error of precision is that of a share of so many images. Recall has none: how the samples' balls would
    scatter is not known.
    """
    from torch_fidelity import metric_prc

    found = metric_prc.prc_features_to_metric(
        mine,
        theirs,
        prc_neighborhood=NEIGHBOURS,
        save_cpu_ram=max(len(mine), len(theirs)) ** 2 > PRC_PAIRS,
        verbose=False,
    )
    precision, settings = found["precision"], {"neighbours": NEIGHBOURS}
    error = (precision * (1 - precision) / len(mine)) ** 0.5 or None  # where all or none are in, it is not known
    return {
        "precision": Result(precision, error, None, settings),
        "recall": Result(found["recall"], None, None, settings),
    }
