"""`pretrain` and `distill`: the two commands in Python. Their settings' names are the options' names.

run = rsd_fast.pretrain(images, out="runs/teacher", corruption="gaussian_blur:size=5,std=1", sigma_obs=0.1)
run = rsd_fast.distill(run, out="runs/generator")
samples = run.generator().sample(64)
"""

import os
from dataclasses import dataclass, field
from typing import Any

import torch

from rsd_fast import train
from rsd_fast.config import RunConfig
from rsd_fast.corruptions import Corruption
from rsd_fast.data import IN_MEMORY, ImageArray, Source
from rsd_fast.engine.loop import Callback
from rsd_fast.errors import FieldError
from rsd_fast.generator import Generator
from rsd_fast.loading import load_denoiser, load_generator
from rsd_fast.networks import Denoiser
from rsd_fast.runs import Run, read_lines
from rsd_fast.settings import Resolved, resolve_distill, resolve_pretrain


@dataclass(frozen=True)
class TrainedRun(Run):
    """The directory of a run, and what was learned. It can be given wherever a run's path can.

    corruption: the operator, where it was given as an object rather than a SPEC. source: the data, where they were
    given in memory.
    """

    corruption: Corruption | None = None
    source: ImageArray | None = field(default=None, repr=False)  # thousands of numbers

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    @property
    def config(self) -> RunConfig:
        """Everything that the run depends on, as in config.json."""
        return self.read_config()

    def generator(self, device: str | torch.device = "cpu") -> Generator:
        """The one-step generator of a distillation. RunError for a pretraining, which has none."""
        return load_generator(self.path, device, corruption=self.corruption)

    def denoiser(self, device: str | torch.device = "cpu") -> Denoiser:
        """The teacher D(x, sigma) of a pretraining. RunError for a distillation."""
        return load_denoiser(self.path, device, corruption=self.corruption)

    def log(self) -> list[dict[str, Any]]:
        """The records of log.jsonl, one a tick: kimg, losses, images_per_sec and so on."""
        return read_lines(self.log_path)


def pretrain(
    data: Source | None = None,
    *,
    out: str | os.PathLike,
    corruption: str | Corruption | None = None,
    sigma_obs: float | tuple[float, float] | str | None = None,
    preset: str = "auto",
    callback: Callback | None = None,
    **settings: Any,
) -> TrainedRun:
    """Train a teacher on observations y = A(x) + sigma_obs eps into the run directory `out`.

    data: a path, the name of a bundled set, or the images themselves: an array or a tensor [N, H, W], [N, H, W, C] or
    [N, C, H, W], uint8 or float in [-1, 1], or a torch `Dataset` of images. They are the observations, or, with
    simulate=True, clean images that are corrupted. A run that is resumed needs images that have no path again.
    corruption: a SPEC or an operator, by default the preset's or the identity. sigma_obs: in units of images in
    [-1, 1]; (least, greatest) with simulate=True; "data"; or "estimate".
    callback: called in the first process with every record of log.jsonl, a dict. Where it returns True, the run is
    saved and evaluated at once, and stops; resume=True goes on with it.
    settings: all other options of `rsd-fast pretrain` by name: kimg, batch, lr, objective, resume, eval_kimg and so on;
    `config`, the path of a config.json or a dict, holds settings for those that are not given.

    Raises FieldError (a ValueError) about a setting, which its `field` names; data.DataError; runs.RunError about a
    directory; engine.NonFiniteLoss; and engine.Interrupted, after saving, on SIGINT or SIGTERM.
    """
    _check_callback(callback)
    named = {"data": data, "out": out, "corruption": corruption, "sigma_obs": sigma_obs, "preset": preset}
    resolved = resolve_pretrain({**settings, **named})
    path = train.pretrain(
        resolved.config,
        out,
        resume=resolved.resume,
        source=resolved.source,
        corruption=resolved.corruption,
        callback=callback,
    )
    return TrainedRun(path, resolved.corruption, _in_memory(resolved))


def distill(
    teacher: str | os.PathLike | None = None,
    *,
    out: str | os.PathLike,
    data: Source | None = None,
    corruption: str | Corruption | None = None,
    callback: Callback | None = None,
    **settings: Any,
) -> TrainedRun:
    """Distil a teacher into a one-step generator in the run directory `out`. It learns from no data.

    teacher: what `pretrain` returned, a run directory, a model file, or a name on the Hugging Face hub. A run that is
    resumed has its own copy.
    data: the observations, where they are not at the teacher's own path, and are not known from `pretrain` either. They
    serve only to evaluate checkpoints; without them none is evaluated. corruption: the teacher's operator, where its
    SPEC is not known here.
    callback, settings, errors: as for `pretrain`, with the options of `rsd-fast distill`.
    """
    _check_callback(callback)
    if isinstance(teacher, TrainedRun):
        corruption = teacher.corruption if corruption is None else corruption
        data = teacher.source if data is None else data
    named = {"teacher": teacher, "out": out, "data": data, "corruption": corruption}
    resolved = resolve_distill({**settings, **named})
    path = train.distill(
        resolved.config,
        out,
        resume=resolved.resume,
        source=resolved.source,
        corruption=resolved.corruption,
        callback=callback,
    )
    return TrainedRun(path, resolved.corruption, _in_memory(resolved))


def _in_memory(resolved: Resolved[Any]) -> ImageArray | None:
    """The data of a run, where config.json cannot say where they are."""
    return resolved.source if resolved.config.observations.data == IN_MEMORY else None


def _check_callback(callback: Any) -> None:
    if callback is not None and not callable(callback):
        raise FieldError("callback", f"expected a function of a record, got {callback!r}")
