"""precision and recall of a network's features (Kynkaanniemi et al. 2019, arXiv 1904.06991), by torch-fidelity."""

from typing import TYPE_CHECKING

from . import METRICS, Result, SetMetric

if TYPE_CHECKING:
    from torch import Tensor

NEIGHBOURS = 3
MOST_PAIRS = 10**9  # of images, whose distances are all held at once, 4 bytes each


def precision_recall(features: "Tensor", reference: "Tensor") -> dict[str, Result]:
    """The shares of samples and of reference images within balls of the others, each to the third neighbour.

    The standard error of precision is that of a share of so many images. Recall has none: how the samples' balls would
    scatter is not known.
    """
    from torch_fidelity import metric_prc

    shares = metric_prc.prc_features_to_metric(
        features,
        reference,
        prc_neighborhood=NEIGHBOURS,
        save_cpu_ram=max(len(features), len(reference)) ** 2 > MOST_PAIRS,
        verbose=False,
    )
    precision, settings = shares["precision"], {"neighbours": NEIGHBOURS}
    error = (precision * (1 - precision) / len(features)) ** 0.5 or None  # where all or none are in, it is not known
    return {
        "precision": Result(precision, error, None, settings),
        "recall": Result(shares["recall"], None, None, settings),
    }


for _name, _about in (
    ("precision", "share of the samples that lie among real images"),
    ("recall", "share of the real images that lie among samples"),
):
    METRICS.add(
        _name,
        SetMetric(about=_about, lower_is_better=False, compute=precision_recall, layer="prc", least=NEIGHBOURS + 1),
    )
