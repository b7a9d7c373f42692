"""Both stages on the bundled digits, on a laptop's CPU, in minutes: noisy digits in, clean digits out."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import corruptions, files, pictures, presets, sampling
from .api.training import distill, pretrain
from .data import ImageArray, ObservedDataset, open_source
from .evaluation import Evaluator, ImageSet
from .generator import latents
from .reporting import write_report
from .runs import Run
from .sampler import Sampler

SIGMA_OBS = 0.5
EVAL_NUM = 1000  # samples of a checkpoint, on a GPU, too: there are not twice as many digits
PICTURED = 12  # images a row
LABELS = {
    "observations": "observations",
    "teacher_full": "teacher, 35 evaluations",
    "teacher_truncated": "teacher, truncated",
    "one_step": "one-step generator",
}


@dataclass
class Demo:
    """What the demo measures: distances to the clean digits, and seconds, by stage.

    pixel_fd is of the networks' output as it is; pixel_fd_clipped of the same images clipped to [-1, 1], as saved
    pictures are. The digits' background lies at -1, so that clipping hides a teacher's residual noise there.
    """

    seed: int
    pixel_fd: dict[str, float] = field(default_factory=dict)
    pixel_fd_clipped: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - start, 1)

    def table(self) -> str:
        """For a person: the distance of each set of images, and the seconds spent."""
        lines = [
            "pixel-fd to the clean digits (lower is better)",
            f"{'images':<26} {'as they are':>12} {'clipped':>9}",
        ]
        for name, value in self.pixel_fd.items():
            lines.append(f"{LABELS[name]:<26} {value:12.3f} {self.pixel_fd_clipped[name]:9.3f}")
        lines += [
            "",
            f"{'stage':<26} seconds",
            *(f"{name:<26} {value:8.1f}" for name, value in self.seconds.items()),
        ]
        return "\n".join(lines)


def run_demo(out: Path, *, seed: int = 0, device: str = "cpu", precision: str = "fp32") -> Demo:
    """Pretrain and distil in out/teacher and out/generator; writes out/report.png, out/summary.json, and a report of
    each run."""
    start = time.perf_counter()
    for name in ("teacher", "generator"):  # before anything is computed
        if Run(out / name).exists():
            raise FileExistsError(17, "already holds a run of the demo; use a new folder", str(out / name))
    demo = Demo(seed)
    preset = presets.load("digits")
    how: dict[str, Any] = {"preset": preset.name, "seed": seed, "device": device, "precision": precision}
    how["eval_num"] = EVAL_NUM
    with demo.timed("pretrain"):
        # A teacher's samples take 35 evaluations each: they are drawn only at the beginning and at the end.
        at_the_end = preset.pretrain["kimg"]
        teacher = pretrain(
            "digits", simulate=True, sigma_obs=SIGMA_OBS, out=out / "teacher", eval_kimg=at_the_end, **how
        )
    with demo.timed("distill"):
        distill(teacher, out=out / "generator", eval_kimg=preset.distill["log_kimg"], **how)
    with demo.timed("evaluate"):
        pictured = demo_distances(demo, out, open_source("digits"), device)
    title = f"Digits seen only with noise of standard deviation {SIGMA_OBS:g}, and what was learned from them"
    pictures.save(pictures.labelled_rows(pictured, title), out / "report.png")
    with demo.timed("report"):
        for name in ("teacher", "generator"):
            write_report(out / name, device=device)
    demo.seconds["total"] = round(time.perf_counter() - start, 1)
    files.write_text(out / "summary.json", json.dumps(asdict(demo), indent=2) + "\n")
    return demo


def demo_distances(demo: Demo, out: Path, source: ImageArray, device: str) -> list[tuple[str, Tensor]]:
    """Fills in demo.pixel_fd; returns the picture's rows. As many samples of each kind as there are digits."""
    index = torch.arange(len(source))
    clean = source.tensor(index)
    observed = ObservedDataset(
        source, corruption=corruptions.parse("identity"), sigma_obs=SIGMA_OBS, seed=demo.seed, simulate=True
    )

    full, truncated = teacher_samples(out / "teacher", len(source), demo.seed, device)
    images = {
        "observations": observed.batch(index)[0],
        "teacher_full": full,
        "teacher_truncated": truncated,
        "one_step": torch.cat(list(Sampler(out / "generator", device).batches(len(source), demo.seed))),
    }
    evaluator = Evaluator(["pixel-fd"], clean=ImageSet.of(clean, source.name))
    for name, samples in images.items():
        for distances, compared in ((demo.pixel_fd, samples), (demo.pixel_fd_clipped, samples.clamp(-1, 1))):
            (result,) = evaluator(ImageSet.of(compared))
            distances[name] = round(result.value, 4)
    rows = [("clean digits,\nnever seen", clean[:PICTURED])]
    for name, samples in images.items():
        rows.append((f"{LABELS[name]},\npixel-fd {demo.pixel_fd[name]:.2f}", samples[:PICTURED]))
    return rows


def teacher_samples(run: Path, num: int, seed: int, device: str) -> tuple[Tensor, Tensor]:
    """(full, truncated) samples of a teacher: both lie on one trajectory, which is computed once."""
    sampler = Sampler(run, device)
    full, truncated = [], []
    for index in torch.arange(num).split(256):
        z, _ = latents(sampler.shape, 0, index.to(device), seed)
        states = list(sampling.heun_trajectory(sampler.denoiser, z))
        full.append(states[-1][1])
        truncated.append(next(denoised for sigma, _, denoised in states if sigma <= SIGMA_OBS))
    return torch.cat(full).cpu(), torch.cat(truncated).cpu()
