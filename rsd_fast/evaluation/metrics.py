"""Metrics by name. `proximal-` ones compare observations made of the samples with the real observations.

A proximal metric needs no clean image: A(G(z)) + sigma_obs eps against the observations themselves (RSD, arXiv
2505.13377, section 5).

    fid, kid, is, precision, recall    torch-fidelity's, of the features of a network, of images in 8 bits
    pixel-fd                           Frechet distance of the pixels as they are, neither clipped nor rounded
    psnr, ssim, lpips                  `pairs`: of images and the truth of each
"""

import functools
import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rsd_fast import __version__
from rsd_fast.engine import distributed

from . import cache
from .cache import Tensors
from .frechet import Moments, check_length, frechet_distance, standard_error
from .images import ImageSet, Stopwatch, collect

PROXIMAL = "proximal-"
PIXEL = "pixel-fd"
NETWORK = ("fid", "kid", "is", "precision", "recall")
METRICS = (PIXEL, *NETWORK, PROXIMAL + PIXEL, *(PROXIMAL + name for name in NETWORK if name != "is"))
PAIRS = ("psnr", "ssim", "lpips")
LOWER_IS_BETTER = ("pixel-fd", "fid", "kid", "lpips")  # proximal or not
SEED = 2020  # of torch-fidelity's subsets and order, as its command line has it
KID_SUBSETS, KID_SUBSET_SIZE, SPLITS = 100, 1000, 10
PRC_PAIRS = 10**9  # of images, whose distances are all held at once, 4 bytes each

Observe = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Mean and covariance of a reference's features that somebody published: all that FID needs of it."""

    name: str
    mean: np.ndarray
    covariance: np.ndarray
    digest: str


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One metric's value, and all it was computed from."""

    metric: str
    value: float
    standard_error: float | None = None  # as another sample of that number would scatter it; None: not known
    floor: float | None = None  # the value that as many images of the reference's kind would have
    num: int  # samples
    reference: str | None
    num_reference: int | None
    reference_hash: str | None = None  # SHA-256 of what it holds
    features: str = "pixels"
    features_hash: str | None = None  # SHA-256 of the network's weights
    settings: dict[str, Any] = field(default_factory=dict)  # of the metric, where it has some
    seed: int | None = None  # of the samples, where they were drawn from a run
    kimg: float | None = None
    checkpoint: str | None = None
    model_hash: str | None = None  # SHA-256 of the model's file
    versions: dict[str, str] = field(default_factory=dict)


class Result(NamedTuple):
    """What a metric's formula gives."""

    value: float
    standard_error: float | None = None
    floor: float | None = None
    settings: dict[str, Any] | None = None


class Space(NamedTuple):
    """What is compared: images or observations of them, as pixels or by a network's features."""

    proximal: bool
    pixels: bool

    @classmethod
    def of(cls, metric: str) -> "Space":
        return cls(metric.startswith(PROXIMAL), family(metric) == PIXEL)

    def rows(self, images: Tensor, features: Any) -> Tensors:
        """{layer: [B, D]} of images [B, C, H, W]."""
        if not self.pixels:
            return features(images)
        check_length(images[0].numel())
        return {"pixels": images.flatten(1).float()}


def family(metric: str) -> str:
    return metric.removeprefix(PROXIMAL)


def check(metric: str, known: tuple[str, ...] = METRICS) -> None:
    """ValueError for an unknown name."""
    if metric not in known:
        raise ValueError(f"metrics: unknown metric '{metric}'; known: {', '.join(known)}")


class Evaluator:
    """The named metrics of one set of samples after another, against references gone through once.

    clean: for metrics against clean images. observed: real observations, for proximal metrics, with observe(images,
    index [B]) to corrupt samples as they were. features: a `Features`, for those of `NETWORK`. batch: images at a time,
    in every process. Features are kept on disk, those of samples until all are there, where digests are known.
    Raises ValueError on an unknown metric, and where a metric's reference or features are missing.
    """

    def __init__(
        self,
        metrics: Iterable[str],
        *,
        clean: ImageSet | Statistics | None = None,
        observed: ImageSet | None = None,
        observe: Observe | None = None,
        features: Any = None,
        batch: int = 256,
        progress: bool = False,
    ) -> None:
        self.metrics, self.observe, self.features = list(metrics), observe, features
        self.batch, self.progress = batch, progress
        self.references = {False: clean, True: observed}
        for metric in self.metrics:
            check(metric)
            reference = self.references[Space.of(metric).proximal]
            if metric != "is" and (reference is None or (metric.startswith(PROXIMAL) and observe is None)):
                raise ValueError(f"{metric}: no reference to compare with")
            if family(metric) in NETWORK and features is None:
                raise ValueError(f"{metric}: no features to compare")
            if isinstance(reference, Statistics) and metric not in ("fid", "is"):
                raise ValueError(f"{metric}: needs the images of the reference; {reference.name} holds statistics")
        self.spaces = list(dict.fromkeys(Space.of(metric) for metric in self.metrics))
        self.told = None if features is None else [features.name, features.digest, features.names]
        self.memo: dict[Any, Any] = {}  # what is computed of references

    def __call__(self, samples: ImageSet, watch: Stopwatch | None = None) -> list[Evaluation]:
        """One `Evaluation` a metric. watch: gets the seconds of images, features, reference and metrics."""
        watch = watch or Stopwatch()
        unfinished = None
        if samples.digest is not None:
            observed = self.references[True]
            seen = None if observed is None else observed.digest
            what = {"spaces": self.spaces, "features": self.told, "observed": seen, "batch": self.batch}
            unfinished = cache.key(samples=samples.digest, num=samples.count, **what)
        made = collect(
            samples,
            self.rows,
            batch=self.batch,
            unfinished=unfinished,
            title="samples" if self.progress else None,
            watch=watch,
        )
        start = time.perf_counter()
        for space in self.spaces:
            self.reference(space)
        watch.add("reference", start)
        start = time.perf_counter()
        versions = software()
        found = [self.evaluation(metric, made, samples.count, versions) for metric in self.metrics]
        watch.add("metrics", start)
        if unfinished is not None and distributed.rank() == 0:
            cache.Partial(unfinished).remove()
        return found

    def rows(self, images: Tensor, index: Tensor) -> Tensors:
        """What is compared of samples, by `_label`; each is observed once."""
        views = {False: images}
        if self.observe is not None and any(space.proximal for space in self.spaces):
            views[True] = self.observe(images, index)
        return {
            _label(space, layer): rows
            for space in self.spaces
            for layer, rows in space.rows(views[space.proximal], self.features).items()
        }

    def reference(self, space: Space) -> Tensors | None:
        """{layer: [N, D]} of the reference's images; None where they are not needed or not there."""
        images = self.references[space.proximal]
        if not isinstance(images, ImageSet) or all(m == "is" for m in self.metrics if Space.of(m) == space):
            return None
        if space not in self.memo:

            def compute() -> Tensors:
                title = f"reference {images.name}" if self.progress else None
                rows = functools.partial(_rows_of, space, self.features)
                return collect(images, rows, batch=self.batch, unfinished=name, title=title)

            name = None
            if images.digest is not None and not space.pixels:  # pixels are read as fast from where they are
                name = cache.key(reference=images.digest, num=images.count, features=self.told)
            self.memo[space] = cache.remembered(name, compute)
        return self.memo[space]

    def evaluation(self, metric: str, made: Tensors, num: int, versions: dict[str, str]) -> Evaluation:
        space, name = Space.of(metric), family(metric)
        layer = "pixels" if space.pixels else self.features.layers[name]
        theirs = self.reference(space)
        reference = None if name == "is" else self.references[space.proximal]
        result = self.compute(name, made[_label(space, layer)], None if theirs is None else theirs[layer], space)
        return Evaluation(
            metric=metric,
            value=result.value,
            standard_error=result.standard_error,
            floor=result.floor,
            num=num,
            reference=None if reference is None else reference.name,
            num_reference=reference.count if isinstance(reference, ImageSet) else None,
            reference_hash=None if reference is None else reference.digest,
            features="pixels" if space.pixels else self.features.name,
            features_hash=None if space.pixels else self.features.digest,
            settings=result.settings or {},
            versions=versions,
        )

    def compute(self, name: str, mine: Tensor, theirs: Tensor | None, space: Space) -> Result:
        if name == "is":
            return inception_score(mine)
        if name in (PIXEL, "fid"):
            fit, distance = (Moments, frechet_distance) if space.pixels else (_statistics, _fid)
            return self.frechet(mine, theirs, space, fit, distance)
        assert theirs is not None
        if theirs.shape[1] != mine.shape[1]:
            raise ValueError(f"{name}: {mine.shape[1]} features an image, and {theirs.shape[1]} of the reference")
        if name == "kid":
            return kid(mine, theirs)
        found = precision_recall(mine, theirs)
        return found[name]

    def frechet(
        self, mine: Tensor, theirs: Tensor | None, space: Space, fit: Callable[[Tensor], Any], distance: Any
    ) -> Result:
        """The distance, with what as many of the reference's own images would have."""
        if theirs is None:
            published = self.references[False]
            assert isinstance(published, Statistics)
            if mine.shape[1] != len(published.mean):
                raise ValueError(
                    f"reference: {published.name} holds statistics of {len(published.mean)} features, "
                    f"and {self.features.name} makes {mine.shape[1]}"
                )
            mu = published.mean.astype(np.float32)  # as torch-fidelity keeps means
            value = distance(fit(mine), {"mu": mu, "sigma": published.covariance.astype(np.float64)})
            return Result(value, standard_error(mine, published.mean, published.covariance))
        if ("fit", space) not in self.memo:
            self.memo["fit", space] = fit(theirs), Moments(theirs).fit()
        fitted, moments = self.memo["fit", space]
        if ("floor", space, len(mine)) not in self.memo:
            self.memo["floor", space, len(mine)] = _floor(theirs, len(mine), lambda x, y: distance(fit(x), fit(y)))
        value = distance(fit(mine), fitted)
        return Result(value, standard_error(mine, *moments), self.memo["floor", space, len(mine)])


def evaluate(metrics: Iterable[str], samples: ImageSet, **how: Any) -> list[Evaluation]:
    """`Evaluator(metrics, **how)` of one set of samples."""
    return Evaluator(metrics, **how)(samples)


def _rows_of(space: Space, features: Any, images: Tensor, index: Tensor) -> Tensors:
    return space.rows(images, features)


def _label(space: Space, layer: str) -> str:
    return f"{'proximal' if space.proximal else 'clean'} {'pixels' if space.pixels else 'features'} {layer}"


def _floor(reference: Tensor, num: int, distance: Callable[[Tensor, Tensor], float]) -> float | None:
    """What `num` images of the kind of a reference [N, D] have as their Frechet distance to it; None where it holds too
    few to tell. It is that of some of them to the others, brought to num and N: that of samples of one distribution
    falls as 1 / num + 1 / N."""
    few, whole = min(num, len(reference) // 2), len(reference)
    if few < 2:
        return None
    order = torch.randperm(whole, generator=torch.Generator().manual_seed(SEED))
    found = distance(reference[order[:few]], reference[order[few:]])
    return found * (1 / num + 1 / whole) / (1 / few + 1 / (whole - few))


# torch-fidelity's formulas


def _statistics(features: Tensor) -> Any:
    from torch_fidelity.metric_fid import fid_features_to_statistics

    if len(features) < 2:
        raise ValueError(f"a covariance needs at least 2 images, got {len(features)}")
    return fid_features_to_statistics(features)


def _fid(first: Any, second: Any) -> float:
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    if first["mu"].shape != second["mu"].shape:
        raise ValueError(f"fid: {len(first['mu'])} features an image, and {len(second['mu'])} of the reference")
    return fid_statistics_to_metric(first, second, verbose=False)[KEY_METRIC_FID]


def kid(mine: Tensor, theirs: Tensor) -> Result:
    """The mean over 100 subsets of 1000 images (of all, where there are fewer).

    Its standard error is a delete-d jackknife (Shao and Wu 1989): subsets of m of n scatter by sqrt((n - m) / m) times
    what n images do.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    size = min(KID_SUBSET_SIZE, len(mine), len(theirs))
    if size < 2:
        raise ValueError(f"kid: needs at least 2 images, got {size}")
    settings = {"subsets": KID_SUBSETS, "subset_size": size}
    found = kid_features_to_metric(
        mine, theirs, kid_subsets=KID_SUBSETS, kid_subset_size=size, rng_seed=SEED, verbose=False
    )
    least = min(len(mine), len(theirs))
    error = found[KEY_METRIC_KID_STD] * (size / (least - size)) ** 0.5 if least > size else None
    return Result(found[KEY_METRIC_KID_MEAN], error, None, settings)


def inception_score(logits: Tensor) -> Result:
    """Over 10 parts of the images; the standard error is that of the parts' mean."""
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    if len(logits) < SPLITS:
        raise ValueError(f"is: needs at least {SPLITS} images, got {len(logits)}")
    found = isc_features_to_metric(logits, splits=SPLITS, shuffle=True, rng_seed=SEED)
    error = found[KEY_METRIC_ISC_STD] / (SPLITS - 1) ** 0.5  # torch-fidelity divides by SPLITS
    return Result(found[KEY_METRIC_ISC_MEAN], error, None, {"splits": SPLITS})


def precision_recall(mine: Tensor, theirs: Tensor) -> dict[str, Result]:
    """With balls to the third neighbour (Kynkaanniemi et al. 2019). Standard errors are those of a share of so many
    images; that the balls vary, too, is not in them."""
    from torch_fidelity import metric_prc

    neighbours = 3
    least = min(len(mine), len(theirs))
    if least <= neighbours:
        raise ValueError(f"precision: needs more than {neighbours} images, got {least}")
    found = metric_prc.prc_features_to_metric(
        mine,
        theirs,
        prc_neighborhood=neighbours,
        save_cpu_ram=len(mine) * len(theirs) > PRC_PAIRS,
        verbose=False,
    )
    counts = {"precision": len(mine), "recall": len(theirs)}
    return {
        name: Result(found[name], (found[name] * (1 - found[name]) / num) ** 0.5, None, {"neighbours": neighbours})
        for name, num in counts.items()
    }


def software() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"rsd-fast": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for package in ("numpy", "torch-fidelity", "torchmetrics"):
        if find_spec(package.replace("-", "_")):
            found[package] = importlib.metadata.version(package)
    return found
