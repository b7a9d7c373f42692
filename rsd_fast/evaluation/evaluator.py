"""The metrics of sets of images: a set is gone through once for all of them, and a reference once for all sets."""

import functools
import math
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from rsd_fast import processes
from rsd_fast.errors import FieldError

from . import cache
from .cache import Tensors
from .frechet import check_length
from .images import ImageSet, Observe, Statistics, Stopwatch, collect, in_turn
from .metrics import ReferenceFeatures, Result, SetMetric, family, find, is_proximal
from .results import Evaluation, software


class FeatureNetwork(Protocol):
    """What an `Evaluator` asks of `features.Features`; layers: by metric, the layer that it takes."""

    name: str
    digest: str | None
    names: list[str]
    layers: dict[str, str]
    device: torch.device

    def __call__(self, images: Tensor) -> Tensors: ...


class Space(NamedTuple):
    """What is compared: images or observations of them, as pixels or by a network's features."""

    proximal: bool
    pixels: bool

    @classmethod
    def of(cls, name: str) -> "Space":
        """That of a metric."""
        return cls(is_proximal(name), find(name, SetMetric).layer is None)

    def rows(self, images: Tensor, features: FeatureNetwork | None) -> Tensors:
        """{layer: [B, D]} of images [B, C, H, W]."""
        if not self.pixels:
            assert features is not None
            return features(images)
        check_length(images[0].numel())
        return {"pixels": images.flatten(1).float()}


class Evaluator:
    """The named metrics of one set of samples after another, against references gone through once.

    clean: for metrics against clean images. observed: real observations, for proximal metrics, with observe(images,
    index [B]) to corrupt samples as they were. features: a `Features`, for metrics that need one. batch: images at a
    time, in every process. Features are kept on disk, those of samples until all are there, where digests are known.
    Raises ValueError on an unknown metric, and where a metric's reference or features are missing.
    """

    def __init__(
        self,
        metrics: Iterable[str],
        *,
        clean: ImageSet | Statistics | None = None,
        observed: ImageSet | None = None,
        observe: Observe | None = None,
        features: FeatureNetwork | None = None,
        batch: int = 256,
        progress: bool = False,
    ) -> None:
        self.metrics = {name: find(name, SetMetric) for name in metrics}
        self.observe, self.features = observe, features
        self.batch, self.progress = batch, progress
        self.references: dict[bool, ImageSet | Statistics | None] = {False: clean, True: observed}  # by proximal
        for name, metric in self.metrics.items():
            reference = self.reference(name)
            if metric.prepare is not None and (reference is None or (is_proximal(name) and observe is None)):
                raise ValueError(f"{name}: no reference to compare with")
            if metric.layer is not None and features is None:
                raise ValueError(f"{name}: no features to compare")
            if isinstance(reference, Statistics) and metric.from_statistics is None:
                raise ValueError(f"{name}: needs the images of the reference; {reference.name} holds statistics")
        self.spaces = list(dict.fromkeys(map(Space.of, self.metrics)))
        # What names the network in the cache.
        self.network = (
            None if features is None else [features.name, features.digest, features.names, str(features.device.type)]
        )
        self.reference_rows: dict[Space, Tensors] = {}  # features of references, by layer
        self.prepared: dict[Any, Any] = {}  # references, as metrics compare with them
        self.lengths: dict[tuple[Space, str], int] = {}  # of the references' features
        self.sizes: dict[Space, list[int]] = {}  # [H, W] of the references' images

    def __call__(self, samples: ImageSet, watch: Stopwatch | None = None) -> list[Evaluation]:
        """One `Evaluation` a metric, of NaN where a sample is not finite. watch: gets the seconds of reference, images,
        features and metrics. Raises ValueError for too few images, and for features that do not fit the reference's."""
        watch = watch or Stopwatch()
        self.refuse_few(samples)
        start = time.perf_counter()
        for name in self.metrics:
            self.prepare(name, samples.count)
        watch.add("reference", start)
        unfinished = self.unfinished(samples)
        rows = collect(
            samples,
            self.rows,
            batch=self.batch,
            unfinished=unfinished,
            title="samples" if self.progress else None,
            watch=watch,
        )
        start = time.perf_counter()
        results = self.results(rows, samples.count)
        watch.add("metrics", start)
        if unfinished is not None and processes.rank() == 0:
            cache.Partial(unfinished).remove()
        return results

    def reference(self, name: str) -> ImageSet | Statistics | None:
        """What a metric compares with; None for one without a reference."""
        return None if self.metrics[name].prepare is None else self.references[is_proximal(name)]

    def layer(self, name: str) -> str:
        """Where among the features a metric finds its own."""
        if self.metrics[name].layer is None:
            return "pixels"
        assert self.features is not None
        return self.features.layers[family(name)]

    def refuse_few(self, samples: ImageSet) -> None:
        """ValueError where there are too few images for a metric."""
        for name, metric in self.metrics.items():
            for images in (samples, self.reference(name)):
                if isinstance(images, ImageSet) and images.count < metric.least:
                    raise ValueError(
                        f"{name}: needs at least {metric.least} images, and {images.name} holds {images.count}"
                    )

    def unfinished(self, samples: ImageSet) -> str | None:
        """The name under which features of samples are kept until all are there."""
        observed = self.references[True]
        if samples.digest is None or not samples.kept or (isinstance(observed, ImageSet) and not observed.kept):
            return None
        return cache.key(
            samples=samples.digest,
            num=samples.count,
            spaces=self.spaces,
            features=self.network,
            observed=None if observed is None else observed.digest,
            batch=self.batch,
        )

    def rows(self, images: Tensor, index: Tensor) -> Tensors:
        """What is compared of samples, by `_label`, and whether each is finite; each is observed once."""
        views = {False: images}
        if self.observe is not None and any(space.proximal for space in self.spaces):
            views[True] = self.observe(images, index)
        labelled = {"finite": torch.isfinite(images).flatten(1).all(1)}
        for space in self.spaces:
            self.refuse_size(space, views[space.proximal])
            for layer, rows in space.rows(views[space.proximal], self.features).items():
                self.refuse_length(space, layer, rows.shape[1])
                labelled[_label(space, layer)] = rows
        return labelled

    def refuse_size(self, space: Space, images: Tensor) -> None:
        """FieldError for images [B, C, H, W] of another size than the reference's: a network, which resizes them, would
        not notice."""
        reference = self.references[space.proximal]
        if not isinstance(reference, ImageSet):
            return
        if space not in self.sizes:
            self.sizes[space] = list(reference.read(torch.zeros(1, dtype=torch.int64)).shape[2:])
        if list(images.shape[2:]) != self.sizes[space]:
            sizes = f"{self.sizes[space]}, the samples of {list(images.shape[2:])}"
            raise FieldError("reference", f"{reference.name} is of size {sizes}")

    def refuse_length(self, space: Space, layer: str, length: int) -> None:
        """FieldError for features of another length than the reference's."""
        reference = self.references[space.proximal]
        expected = self.lengths.get((space, layer), length)
        if reference is not None and length != expected:
            raise FieldError(
                "reference",
                f"{reference.name} has {expected} features an image, and the samples have {length}; "
                "are its images of other channels, or its statistics of another network?",
            )

    def prepare(self, name: str, num: int) -> Any:
        """The reference as a metric compares `num` samples with it, prepared once; None where it has none."""
        metric, space, layer = self.metrics[name], Space.of(name), self.layer(name)
        reference = self.reference(name)
        if metric.prepare is None or reference is None:
            return None
        key = (metric.prepare, space, layer, num)
        if key not in self.prepared:
            if isinstance(reference, Statistics):
                assert metric.from_statistics is not None
                self.lengths[space, layer] = len(reference.mean)
                self.prepared[key] = metric.from_statistics(reference)
            else:
                blocks = self.blocks(reference, space, layer)
                self.prepared[key] = metric.prepare(ReferenceFeatures(blocks, reference.count, num))
        return self.prepared[key]

    def blocks(self, reference: ImageSet, space: Space, layer: str) -> Iterator[tuple[Tensor, Tensor]]:
        """A reference's (image numbers, features); a network's are computed once, and kept on disk."""
        title = f"reference {reference.name}" if self.progress else None
        rows_of = functools.partial(_rows_of, space, self.features)
        if space.pixels:
            numbered = functools.partial(_numbered_rows_of, space)
            for part in in_turn(reference, numbered, batch=self.batch, title=title):
                self.lengths[space, layer] = part[layer].shape[1]
                yield part["index"], part[layer]
            return
        if space not in self.reference_rows:
            name = None
            if reference.digest is not None and reference.kept:
                name = cache.key(
                    reference=reference.digest, num=reference.count, features=self.network, versions=software()
                )
            self.reference_rows[space] = cache.remembered(
                name, lambda: collect(reference, rows_of, batch=self.batch, unfinished=name, title=title)
            )
        rows = self.reference_rows[space][layer]
        self.lengths[space, layer] = rows.shape[1]
        yield torch.arange(len(rows)), rows

    def results(self, rows: Tensors, num: int) -> list[Evaluation]:
        """The metrics of samples of which `rows` were collected."""
        versions, finite = software(), bool(rows["finite"].all())
        computed: dict[Any, Result | dict[str, Result]] = {}  # some metrics come together
        evaluations = []
        for name, metric in self.metrics.items():
            space, layer = Space.of(name), self.layer(name)
            key = (metric.compute, space, layer)
            if not finite:
                computed[key] = Result(math.nan)
            elif key not in computed:
                computed[key] = metric.compute(rows[_label(space, layer)], self.prepare(name, num))
            result = computed[key]
            if not isinstance(result, Result):
                result = result[family(name)]
            evaluations.append(self.evaluation(name, result, num, versions))
        return evaluations

    def evaluation(self, name: str, result: Result, num: int, versions: dict[str, str]) -> Evaluation:
        """With what is to be said of where the result comes from."""
        reference = self.reference(name)
        features = None if self.metrics[name].layer is None else self.features
        return Evaluation(
            metric=name,
            value=result.value,
            standard_error=result.standard_error,
            floor=result.floor,
            num=num,
            reference=None if reference is None else reference.name,
            num_reference=reference.count if isinstance(reference, ImageSet) else None,
            reference_hash=None if reference is None else reference.digest,
            features="pixels" if features is None else features.name,
            features_hash=None if features is None else features.digest,
            settings=result.settings or {},
            versions=versions,
        )


def evaluate(metrics: Iterable[str], samples: ImageSet, **how: Any) -> list[Evaluation]:
    """`Evaluator(metrics, **how)` of one set of samples."""
    return Evaluator(metrics, **how)(samples)


def _rows_of(space: Space, features: FeatureNetwork | None, images: Tensor, index: Tensor) -> Tensors:
    return space.rows(images, features)


def _numbered_rows_of(space: Space, images: Tensor, index: Tensor) -> Tensors:
    return {"index": index, **space.rows(images, None)}


def _label(space: Space, layer: str) -> str:
    return f"{'proximal' if space.proximal else 'clean'} {'pixels' if space.pixels else 'features'} {layer}"
