"""The images that are evaluated: what a run makes, or those of a source."""

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rsd_fast import processes
from rsd_fast.corruptions import Corruption
from rsd_fast.data import ImageArray, open_source
from rsd_fast.errors import FieldError
from rsd_fast.hub import means_id
from rsd_fast.runs import POINTERS
from rsd_fast.sampler import Sampler, Sampling

from . import cache
from .images import ImageSet
from .results import Evaluation

SAMPLED = Sampling()  # the default


def is_run(source: Any) -> bool:
    """Does it name a run, a checkpoint folder, a model file or one on the hub (rather than images)?"""
    if not isinstance(source, str | os.PathLike):
        return False
    folder = Path(source)
    if not folder.exists() and means_id(source):
        return True
    if folder.is_file() and folder.name in POINTERS:
        return True
    return folder.suffix == ".safetensors" or any((folder / n).is_file() for n in ("config.json", "model.safetensors"))


def given_operator(source: Any) -> Corruption | None:
    """The operator that what `rsd_fast.pretrain` and `rsd_fast.distill` return keeps, where it was no SPEC."""
    return getattr(source, "corruption", None) if is_run(source) else None


def given_source(source: Any) -> ImageArray | None:
    """The observations that what `rsd_fast.pretrain` and `rsd_fast.distill` return keeps, where they have no path."""
    return getattr(source, "source", None) if is_run(source) else None


def named(source: Any) -> str:
    """A source of images, for messages: its path, or what it is."""
    return os.fspath(source) if isinstance(source, str | os.PathLike) else f"a {type(source).__name__}"


def open_images(source: Any, num: int | None, fewer: int | None = None) -> ImageSet:
    """The images of a source, the first `num` of them; where that is None as many as `fewer`, or all.

    FieldError where there are fewer than `num`, and DataError where the source cannot be read.
    """
    images = ImageSet.of_array(open_source(source))
    if num is not None and num > images.count:
        raise FieldError("num", f"{named(source)} holds {images.count} images, fewer than {num}")
    return replace(images, count=min(num or fewer or images.count, images.count))


def refuse_sampling(source: Any, how: Sampling) -> None:
    """FieldError for options of drawing samples, where there are images already."""
    for name in ("steps", "truncate", "compile", "cuda_graphs"):
        if getattr(how, name) != getattr(SAMPLED, name):
            raise FieldError(name, f"{named(source)} is no run, but a set of images")


def samples_of(sampler: Sampler, num: int, seed: int, batch: int, how: Sampling) -> ImageSet:
    """What a model makes."""
    return ImageSet(
        name=str(sampler.file),
        count=num,
        read=sampler.reader(seed, batch),
        # Only rounding depends on the batch, the processes and the device, but it does.
        digest=cache.key(
            model=cache.file_digest(sampler.file),
            seed=seed,
            batch=batch,
            processes=processes.world_size(),
            device=sampler.device.type,
            **asdict(how),
        ),
        index_device=sampler.device,
        threaded=not (how.compile or how.cuda_graphs),
    )


def of_model(results: list[Evaluation], sampler: Sampler, seed: int, how: Sampling) -> list[Evaluation]:
    """With what is to be said of the model, and of how it was sampled."""
    sampling: dict[str, Any] = {"precision": how.precision}
    if not sampler.one_step:
        sampling |= {"steps": how.steps, "truncate": how.truncate}
    model = cache.file_digest(sampler.file)
    return [
        replace(
            result,
            sampling=sampling,
            seed=seed,
            kimg=sampler.kimg,
            checkpoint=sampler.file.parent.name,
            model_hash=model,
        )
        for result in results
    ]
