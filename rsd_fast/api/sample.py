"""`rsd_fast.sample`: images from a run."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from rsd_fast import processes
from rsd_fast.corruptions import Corruption
from rsd_fast.data import check_destination, magnitude, to_uint8, write_npz, write_png_folder
from rsd_fast.errors import FieldError
from rsd_fast.progress import counted
from rsd_fast.sampler import Sampler
from rsd_fast.settings.device import resolve_device, resolve_precision

from .options import options_of


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """How images are drawn: what `Sampler` takes, and

    batch: images a forward pass. precision: "auto" or None is bf16 where the hardware has it. class_label: the class of
    every sample of a conditional run; None draws one for each. corruption: the run's operator, where its SPEC is not
    known here.
    """

    steps: int = 18
    truncate: bool = False
    batch: int = 256
    precision: str | None = None
    compile: bool = False
    cuda_graphs: bool = False
    class_label: int | None = None
    corruption: Corruption | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise FieldError(name, f"expected at least 1, got {getattr(self, name)}")


@overload
def sample(run: Any, num: int, *, out: None = None, seed: int = 0, device: str = "auto", **options: Any) -> Tensor: ...


@overload
def sample(
    run: Any, num: int, *, out: str | os.PathLike[str], seed: int = 0, device: str = "auto", **options: Any
) -> Path: ...


def sample(
    run: Any,
    num: int,
    *,
    out: str | os.PathLike[str] | None = None,
    seed: int = 0,
    device: str = "auto",
    **options: Any,
) -> Tensor | Path:
    """Draw images from a generator, in one step, or from a teacher, by Heun's method.

    Image i is a function of (seed, i), and of its class.

    run: a run (its folder, RUN/best, a checkpoint, a model file, an id of the hub), or what `rsd_fast.pretrain` and
    `rsd_fast.distill` return. out: where to write the images, as `rsd-fast sample` does: FILE.npz or a new folder.
    options: those of `rsd-fast sample`: steps, truncate, batch, precision, compile, cuda_graphs, and class_label, which
    is its --class; and corruption, an operator that was given as an object.

    Returns float32 [num, C, H, W] on the CPU, about [-1, 1] and not clipped; with `out` its path. Of several processes
    each draws a share of the images and returns all of them; the first one writes. Raises FieldError for an option that
    is unknown or does not fit, RunError where there is no run, DataError where `out` exists.
    """
    how = options_of(SampleOptions, "sample", options)
    if num < 1:
        raise FieldError("num", f"expected at least 1, got {num}")
    if out is not None:
        check_destination(out, (".npz",))
    device = resolve_device(device)
    with processes.process_group(processes.local_device(device)):
        sampler = Sampler(
            getattr(run, "path", run),
            device,
            steps=how.steps,
            truncate=how.truncate,
            precision=resolve_precision(how.precision, device),
            compile=how.compile,
            cuda_graphs=how.cuda_graphs,
            corruption=getattr(run, "corruption", None) if how.corruption is None else how.corruption,
        )
        _check_class(how.class_label, sampler.label_dim)
        result = _draw(sampler, num, seed, how) if out is None else _write(sampler, num, seed, how, Path(out))
        processes.barrier()
    return result


def _check_class(label: int | None, label_dim: int) -> None:
    if label is None:
        return
    if not label_dim:
        raise FieldError("class_label", "the run is not conditional on classes")
    if not 0 <= label < label_dim:
        raise FieldError("class_label", f"expected 0 to {label_dim - 1}, got {label}")


def _draw(sampler: Sampler, num: int, seed: int, how: SampleOptions) -> Tensor:
    batches = sampler.batches(num, seed, how.batch, labels=how.class_label)
    return torch.cat([images.float() for images in counted(batches, num, "sample")])


def _write(sampler: Sampler, num: int, seed: int, how: SampleOptions, out: Path) -> Path:
    is_npz, is_complex = out.suffix == ".npz", sampler.config.observations.image_shape[0] == 2

    def finish(x: Tensor) -> Tensor:
        if is_complex and is_npz:
            return x.float().clamp(-1, 1)
        return to_uint8(magnitude(x) if is_complex else x)

    images = counted(sampler.batches(num, seed, how.batch, finish, how.class_label), num, "sample")
    classes = sampler.labels(num, seed, how.class_label)
    labels = None if classes is None else classes.numpy()
    if processes.rank() != 0:
        for _ in images:
            pass
    elif is_npz:
        write_npz(out, images, labels, count=num)
    else:
        write_png_folder(out, images, None if labels is None else labels.tolist())
    return out
