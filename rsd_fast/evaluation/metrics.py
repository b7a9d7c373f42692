"""Metrics by name. `proximal-` ones compare observations made of the samples with the real observations.

A proximal metric needs no clean image: A(G(z)) + sigma_obs eps against the observations themselves (RSD, arXiv
2505.13377, section 5).

    fid, kid, is, precision, recall    torch-fidelity's, of the features of a network, of images in 8 bits
    pixel-fd                           Frechet distance of the pixels as they are, neither clipped nor rounded
    psnr, ssim, lpips                  `pairs`: of images and the truth of each
"""

import functools
import importlib.metadata
import math
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rsd_fast import __version__, processes
from rsd_fast.errors import FieldError

from . import cache, formulas
from .cache import Tensors
from .formulas import LEAST, Result
from .frechet import ROWS, Moments, check_length, frechet_distance, standard_error
from .images import ImageSet, Stopwatch, collect, in_turn

PROXIMAL = "proximal-"
PIXEL = "pixel-fd"
NETWORK = ("fid", "kid", "is", "precision", "recall")
METRICS = (PIXEL, *NETWORK, PROXIMAL + PIXEL, *(PROXIMAL + name for name in NETWORK if name != "is"))
PAIRS = ("psnr", "ssim", "lpips")
INCEPTION = "inception-v3-compat"  # torch-fidelity's name of the network of published FID
LOWER_IS_BETTER = ("pixel-fd", "fid", "kid", "lpips")  # proximal or not

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
    sampling: dict[str, Any] = field(default_factory=dict)  # how a run's samples were drawn, or images observed
    seed: int | None = None  # of the samples, where they were drawn from a run
    kimg: float | None = None
    checkpoint: str | None = None
    model_hash: str | None = None  # SHA-256 of the model's file
    training: bool = False  # by the run itself, while it trained
    versions: dict[str, str] = field(default_factory=dict)


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
        raise FieldError("metrics", f"unknown metric '{metric}'; known: {', '.join(known)}")


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
        self.metrics, self.observe, self.features = list(dict.fromkeys(metrics)), observe, features
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
        self.told = (
            None if features is None else [features.name, features.digest, features.names, str(features.device.type)]
        )
        self.memo: dict[Any, Any] = {}  # what is computed of references
        self.lengths: dict[tuple[Space, str], int] = {}  # of their features
        self.shares: dict[tuple[Space, str], dict[str, Result]] = {}  # precision and recall, of one set of samples

    def __call__(self, samples: ImageSet, watch: Stopwatch | None = None) -> list[Evaluation]:
        """One `Evaluation` a metric, of NaN where a sample is not finite. watch: gets the seconds of reference, images,
        features and metrics. Raises ValueError for too few images, and for features that do not fit the reference's."""
        watch = watch or Stopwatch()
        self.refuse_few(samples)
        start = time.perf_counter()
        for space in self.spaces:
            self.reference(space, samples.count)
        watch.add("reference", start)
        name = self.unfinished(samples)
        made = collect(
            samples,
            self.rows,
            batch=self.batch,
            unfinished=name,
            title="samples" if self.progress else None,
            watch=watch,
        )
        start = time.perf_counter()
        versions, self.shares = software(), {}
        found = [self.evaluation(metric, made, samples.count, versions) for metric in self.metrics]
        watch.add("metrics", start)
        if name is not None and processes.rank() == 0:
            cache.Partial(name).remove()
        return found

    def refuse_few(self, samples: ImageSet) -> None:
        """ValueError where there are too few images for a metric."""
        for metric in self.metrics:
            reference = None if metric == "is" else self.references[Space.of(metric).proximal]
            least = LEAST.get(family(metric), 2)
            for images in (samples, reference):
                if isinstance(images, ImageSet) and images.count < least:
                    raise ValueError(f"{metric}: needs at least {least} images, and {images.name} holds {images.count}")

    def unfinished(self, samples: ImageSet) -> str | None:
        """The name under which features of samples are kept until all are there."""
        observed = self.references[True]
        if samples.digest is None or not samples.kept or (isinstance(observed, ImageSet) and not observed.kept):
            return None
        seen = None if observed is None else observed.digest
        what = {"spaces": self.spaces, "features": self.told, "observed": seen, "batch": self.batch}
        return cache.key(samples=samples.digest, num=samples.count, **what)

    def rows(self, images: Tensor, index: Tensor) -> Tensors:
        """What is compared of samples, by `_label`, and whether each is finite; each is observed once."""
        views = {False: images}
        if self.observe is not None and any(space.proximal for space in self.spaces):
            views[True] = self.observe(images, index)
        found = {"finite": torch.isfinite(images).flatten(1).all(1)}
        for space in self.spaces:
            self.refuse_size(space, views[space.proximal])
            for layer, rows in space.rows(views[space.proximal], self.features).items():
                wanted = self.lengths.get((space, layer), rows.shape[1])
                if rows.shape[1] != wanted:
                    name = self.references[space.proximal].name  # type: ignore[union-attr]
                    raise FieldError(
                        "reference",
                        f"{name} has {wanted} features an image, and the samples have {rows.shape[1]}; "
                        "are its images of other channels, or its statistics of another network?",
                    )
                found[_label(space, layer)] = rows
        return found

    def refuse_size(self, space: Space, images: Tensor) -> None:
        """ValueError for images [B, C, H, W] of another size than the reference's: a network, which resizes them, would
        not notice."""
        reference = self.references[space.proximal]
        if not isinstance(reference, ImageSet):
            return
        if ("size", space) not in self.memo:
            self.memo["size", space] = list(reference.read(torch.zeros(1, dtype=torch.int64)).shape[2:])
        size = self.memo["size", space]
        if list(images.shape[2:]) != size:
            raise FieldError(
                "reference", f"{reference.name} is of size {size}, the samples of {list(images.shape[2:])}"
            )

    def reference(self, space: Space, num: int) -> Any:
        """What is compared with: `Statistics`, `Pixels`, or features {layer: [N, D]}; None for the inception score."""
        images = self.references[space.proximal]
        if images is None or all(metric == "is" for metric in self.metrics if Space.of(metric) == space):
            return None
        if isinstance(images, Statistics):
            self.lengths[space, self.features.layers["fid"]] = len(images.mean)
            return images
        title = f"reference {images.name}" if self.progress else None
        if space.pixels:
            if (space, num) not in self.memo:
                self.memo[space, num] = Pixels(images, num, batch=self.batch, title=title)
            found = self.memo[space, num]
            self.lengths[space, "pixels"] = found.length
            return found
        if space not in self.memo:
            name = None
            if images.digest is not None and images.kept:
                name = cache.key(reference=images.digest, num=images.count, features=self.told, versions=software())
            rows = functools.partial(_rows_of, space, self.features)
            self.memo[space] = cache.remembered(
                name, lambda: collect(images, rows, batch=self.batch, unfinished=name, title=title)
            )
            self.lengths |= {(space, layer): rows.shape[1] for layer, rows in self.memo[space].items()}
        return self.memo[space]

    def evaluation(self, metric: str, made: Tensors, num: int, versions: dict[str, str]) -> Evaluation:
        space, name = Space.of(metric), family(metric)
        reference = None if name == "is" else self.references[space.proximal]
        result = self.compute(name, space, made) if made["finite"].all() else Result(math.nan)
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

    def compute(self, name: str, space: Space, made: Tensors) -> Result:
        layer = "pixels" if space.pixels else self.features.layers[name]
        mine = made[_label(space, layer)]
        if name == "is":
            return formulas.inception_score(mine)
        theirs = self.reference(space, len(mine))
        if isinstance(theirs, Pixels):
            value = frechet_distance(Moments(*mine.split(ROWS)), theirs.moments)
            return Result(value, standard_error(mine, *theirs.moments.fit()), theirs.floor)
        if name == "fid":
            return self.fid(mine, theirs, layer, space)
        if name == "kid":
            return formulas.kid(mine, theirs[layer])
        if (space, layer) not in self.shares:
            self.shares[space, layer] = formulas.precision_recall(mine, theirs[layer])
        return self.shares[space, layer][name]

    def fid(self, mine: Tensor, theirs: Any, layer: str, space: Space) -> Result:
        if isinstance(theirs, Statistics):
            mu = theirs.mean.astype(np.float32)  # as torch-fidelity keeps means
            value = formulas.fid(formulas.statistics(mine), {"mu": mu, "sigma": theirs.covariance})
            return Result(value, standard_error(mine, theirs.mean, theirs.covariance))
        rows = theirs[layer]
        if ("fit", space) not in self.memo:
            self.memo["fit", space] = formulas.statistics(rows), Moments(*rows.split(ROWS)).fit()
        if ("floor", space, len(mine)) not in self.memo:
            chosen = split_of(len(rows), len(mine))
            apart = [formulas.statistics(rows[part]) for part in (chosen, ~chosen)] if chosen.sum() > 1 else []
            found = formulas.fid(*apart) if apart else math.nan
            self.memo["floor", space, len(mine)] = floor(found, int(chosen.sum()), len(mine), *rows.shape)
        statistics, moments = self.memo["fit", space]
        value = formulas.fid(formulas.statistics(mine), statistics)
        return Result(value, standard_error(mine, *moments), self.memo["floor", space, len(mine)])


class Pixels:
    """Moments of the pixels of a reference, which itself is not kept, and the `floor` of `num` samples."""

    def __init__(self, images: ImageSet, num: int, *, batch: int, title: str | None) -> None:
        chosen, some, others = split_of(images.count, num), Moments(), Moments()

        def rows(pictures: Tensor, index: Tensor) -> Tensors:
            return {"index": index, **Space(False, True).rows(pictures, None)}

        for part in in_turn(images, rows, batch=batch, title=title):
            among = chosen[part["index"]]
            for moments, mine in ((some, part["pixels"][among]), (others, part["pixels"][~among])):
                if len(mine):
                    moments.add(mine)
        self.moments = some + others
        self.length = len(self.moments.sum)
        found = frechet_distance(some, others) if some.count > 1 else math.nan
        self.floor = floor(found, some.count, num, images.count, self.length)


def split_of(whole: int, num: int) -> Tensor:
    """[whole] bool: some images, drawn at random, of a reference: `num`, or half of it where that is less."""
    chosen = torch.zeros(whole, dtype=torch.bool)
    order = torch.randperm(whole, generator=torch.Generator().manual_seed(formulas.SEED))
    chosen[order[: min(num, whole // 2)]] = True
    return chosen


def floor(found: float, few: int, num: int, whole: int, length: int) -> float | None:
    """What `num` images of the kind of `whole` ones have as their Frechet distance to those, from what `few` of these
    have to the others; None where they are too few to tell.

    That of samples of one distribution falls as 1 / num + 1 / N, if they are more than their features.
    """
    if few < 2 or (few < num and few < length):
        return None
    return found * (1 / num + 1 / whole) / (1 / few + 1 / (whole - few))


def evaluate(metrics: Iterable[str], samples: ImageSet, **how: Any) -> list[Evaluation]:
    """`Evaluator(metrics, **how)` of one set of samples."""
    return Evaluator(metrics, **how)(samples)


def _rows_of(space: Space, features: Any, images: Tensor, index: Tensor) -> Tensors:
    return space.rows(images, features)


def _label(space: Space, layer: str) -> str:
    return f"{'proximal' if space.proximal else 'clean'} {'pixels' if space.pixels else 'features'} {layer}"


def software() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"rsd-fast": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for package in ("numpy", "torch-fidelity", "torchmetrics"):
        if find_spec(package.replace("-", "_")):
            found[package] = importlib.metadata.version(package)
    return found
