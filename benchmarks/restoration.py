"""Every corruption: does the one-step student beat its teacher? Both by Frechet distances, on Fashion-MNIST at 16x16.

    python benchmarks/restoration.py --out runs/restoration [--rows noise-.2,blur] [--json FILE] [--pictures FOLDER]

Models learn from the corrupted versions of 60,000 images, and the clean ones judge. Each row is two commands,
`rsd-fast pretrain` and `rsd-fast distill`, and an evaluation. What is done already is not done again, so that a stopped
benchmark goes on where it was. Rows are independent: with --rows, several processes can share them.

FD is the Frechet distance of features of EfficientNet-lite0, pixel-FD that of pixels, both of images
clipped to [-1, 1]. "clean" compares with clean images; "proximal" with the observations, the student's images corrupted
like them. A teacher of blurred or small images makes such images: these are its proximal ones as they are, and small
ones are enlarged bilinearly to be compared with clean ones. The teacher is sampled in the best way published for it:
truncated at sigma_obs where there is noise, through one further corrupted mask where there are masks.
"""

import argparse
import itertools
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from rsd_fast import corruptions, files, pictures
from rsd_fast.data import ObservedDataset, open_source, write_npz
from rsd_fast.evaluation import Moments, frechet_distance
from rsd_fast.evaluation.features import Features
from rsd_fast.evaluation.results import software
from rsd_fast.sampler import Sampler

sys.path.insert(0, str(Path(__file__).parent))
from fashion_mnist import NETWORK, PRETRAIN_KIMG, SIZE, add_options, chosen, run_command
from timing import machine

NUM = 3000  # samples of each model
NUM_REFERENCE = 10_000
PICTURED = 12  # images a row of a picture


@dataclass(frozen=True)
class Row:
    """A line of the table: options of the two commands, beyond what all rows share."""

    title: str
    corruption: str
    sigma_obs: float
    pretrain: str = ""
    distill: str = ""
    teacher: str | None = None  # the row whose teacher is used; None: its own
    distill_kimg: float = 48  # thousand images; a third of it tells three losses apart


ROWS = {
    "noise-.2": Row("noise 0.2", "identity", 0.2),
    "noise-.4": Row("noise 0.4", "identity", 0.4),
    "blur": Row("blur", "gaussian_blur:size=5,std=1", 0.0),
    "blur-noise": Row("blur, noise 0.1", "gaussian_blur:size=5,std=1", 0.1),
    "mask": Row("60 % of the pixels missing", "random_mask:missing=0.6", 0.0),
    "downsample": Row("2x2 times smaller", "downsample:factor=2", 0.0, distill_kimg=96),
    "fourier": Row("k-space, R = 4", "fourier:acceleration=4,acs_lines=2,real=1", 0.0, pretrain="--delta 0.5"),
    "noise-.2-sid": Row("noise 0.2, SiD, short", "identity", 0.2, teacher="noise-.2", distill_kimg=16),
    "noise-.2-dmd": Row("noise 0.2, DMD, short", "identity", 0.2, "", "--loss dmd", "noise-.2", 16),
    "noise-.2-sds": Row("noise 0.2, SDS, short", "identity", 0.2, "", "--loss sds", "noise-.2", 16),
}


@dataclass
class Set:
    """Images of one kind: a few for a picture, and moments of the features and of the pixels of all."""

    pictured: Tensor  # the first of them
    features: Moments = field(default_factory=Moments)
    pixels: Moments = field(default_factory=Moments)

    @classmethod
    def of(cls, batches: Iterable[Tensor], extract: Callable[[Tensor], Tensor]) -> "Set":
        clamped = (images.clamp(-1, 1) for images in batches)
        first = next(clamped)
        made = cls(first[:PICTURED])
        for images in itertools.chain([first], clamped):
            made.features.add(extract(images))
            made.pixels.add(images.flatten(1))
        return made

    def distances(self, other: "Set") -> dict[str, float]:
        return {
            "fd": round(frechet_distance(self.features, other.features), 4),
            "pixel_fd": round(frechet_distance(self.pixels, other.pixels), 4),
        }


def run_row(name: str, options: argparse.Namespace, extract: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Train what is not trained yet, and measure."""
    row, folder = ROWS[name], options.out / name
    data = options.out / f"fashion-mnist-{SIZE}.npz"
    teacher, student = options.out / (row.teacher or name) / "teacher", folder / "generator"
    kimg = row.distill_kimg * options.length
    commands = [
        f"pretrain --data {shlex.quote(str(data))} --simulate --corruption {row.corruption} --sigma-obs {row.sigma_obs}"
        f" {NETWORK} --kimg {PRETRAIN_KIMG * options.length:g} {row.pretrain} --out {shlex.quote(str(teacher))}",
        f"distill --teacher {shlex.quote(str(teacher))} --kimg {kimg:g} {row.distill}"
        f" --out {shlex.quote(str(student))}",
    ]
    if row.teacher:
        del commands[0]
        if not teacher.exists():
            raise SystemExit(f"{name}: uses the teacher of row {row.teacher}, which is not there yet")
    seconds = {}
    for command in commands:
        start = time.perf_counter()
        run_command(command, options.seed)
        seconds[shlex.split(command)[0]] = round(time.perf_counter() - start, 1)
    start = time.perf_counter()
    result = measure(row, teacher, student, data, options, extract) | {"commands": commands}
    result["kimg"] = {"pretrain": PRETRAIN_KIMG * options.length, "distill": kimg}
    seconds["evaluate"] = round(time.perf_counter() - start, 1)
    return {"row": name, "title": row.title, **result, "seconds": seconds}


def measure(
    row: Row, teacher: Path, student: Path, data: Path, options: argparse.Namespace, extract: Callable[[Tensor], Tensor]
) -> dict[str, Any]:
    """Distances of the teacher's and the student's images to clean ones and to the observations, and a picture."""
    operator = corruptions.parse(row.corruption)
    dataset = ObservedDataset(
        open_source(data), corruption=operator, sigma_obs=row.sigma_obs, seed=options.seed, simulate=True
    )

    def observe(images: Tensor, first: int) -> Tensor:
        """Observations of generated images: other noise and masks than those of the data."""
        index = torch.arange(first, first + len(images))
        seen = corruptions.observation(operator, images, index=index, sigma_obs=row.sigma_obs, seed=options.seed + 1)
        return seen.operator.picture(seen.y)

    def noised(images: Tensor, first: int) -> Tensor:
        index = torch.arange(first, first + len(images))
        return corruptions.observe(
            corruptions.Identity(), images, index=index, sigma_obs=row.sigma_obs, seed=options.seed + 1
        )

    def observed(images: list[Tensor], how: Callable[[Tensor, int], Tensor]) -> Iterable[Tensor]:
        first = 0
        for batch in images:
            yield how(batch, first)
            first += len(batch)

    of_teacher, teacher_seconds = samples(teacher, options, truncate=row.sigma_obs > 0)
    of_student, student_seconds = samples(student, options)

    # A teacher that is not shown what is missing makes what was observed, but for the noise.
    makes_images = operator.objective is not None
    whole = [nnf.interpolate(x, (SIZE, SIZE), mode="bilinear") if x.shape[-1] != SIZE else x for x in of_teacher]
    parts = torch.arange(NUM_REFERENCE).split(500)
    clean = Set.of(map(dataset.clean, parts), extract)
    seen = Set.of(map(dataset.pictures, parts), extract)
    sets = {"teacher": Set.of(whole, extract), "student": Set.of(of_student, extract)}
    proximal = {
        "teacher": Set.of(observed(of_teacher, observe if makes_images else noised), extract),
        "student": Set.of(observed(of_student, observe), extract),
    }
    result = {
        "clean": {who: images.distances(clean) for who, images in sets.items()},
        "proximal": {who: images.distances(seen) for who, images in proximal.items()},
        "sample_seconds": {"teacher": teacher_seconds, "student": student_seconds},
        "num": options.num,
        "num_reference": NUM_REFERENCE,
        "seed": options.seed,
    }
    rows = [("clean, never seen", clean.pictured), ("observations", seen.pictured)]
    for who, images in sets.items():
        rows.append((f"{who}\nFD {result['clean'][who]['fd']:.2f}", images.pictured))
    picture = pictures.labelled_rows(rows, f"Fashion-MNIST 16x16: {row.title}")
    pictures.save(picture, options.pictures / f"{student.parent.name}.png")
    return result


def samples(run: Path, options: argparse.Namespace, truncate: bool = False) -> tuple[list[Tensor], float]:
    """The model's images, and the seconds it took; kept beside the run, for rows that share a teacher."""
    sampler = Sampler(run, truncate=truncate, precision=options.precision)
    kept = run.with_name(f"{run.name}-{sampler.file.parent.name}-{options.num}-{options.seed}.npz")
    if not kept.exists():
        start = time.perf_counter()
        images = torch.cat(list(sampler.batches(options.num, options.seed, batch=500)))
        seconds = np.array(round(time.perf_counter() - start, 1))
        write_npz(kept, images.float(), seconds=seconds)
    with np.load(kept) as arrays:
        return list(torch.from_numpy(arrays["images"]).split(500)), float(arrays["seconds"])


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: each row's distances, the lower of teacher and student in bold."""
    lines = [
        "| row | clean FD: teacher | student | proximal FD: teacher | student | clean pixel-FD: teacher | student |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        cells = []
        for kind, metric in (("clean", "fd"), ("proximal", "fd"), ("clean", "pixel_fd")):
            pair = [result[kind][who][metric] for who in ("teacher", "student")]
            cells += [f"**{value:.2f}**" if value == min(pair) else f"{value:.2f}" for value in pair]
        lines.append(f"| {result['title']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, ROWS, NUM)
    parser.add_argument("--json", type=Path, help="results of finished rows, read and written  [OUT/restoration.json]")
    parser.add_argument("--pictures", type=Path, help="folder of a picture a row  [OUT/pictures]")
    options = parser.parse_args()
    options.json = options.json or options.out / "restoration.json"
    options.pictures = options.pictures or options.out / "pictures"
    names, _ = chosen(parser, options, ROWS)
    features = Features("efficientnet-lite0", ["fid"])

    def extract(images: Tensor) -> Tensor:
        return features(images)["112"]

    for name in names:
        if name in {result["row"] for result in finished(options.json)}:
            print(f"{name}: done already", flush=True)
            continue
        result = run_row(name, options, extract) | {
            "machine": {**machine("cpu"), **software(), "precision": options.precision}
        }
        others = [other for other in finished(options.json) if other["row"] != name]  # another process's, too
        ordered = sorted([*others, result], key=lambda result: list(ROWS).index(result["row"]))
        files.write_text(options.json, json.dumps(ordered, indent=2) + "\n")
        print(table(ordered), flush=True)


def finished(path: Path) -> list[dict[str, Any]]:
    """The results of the rows that are done."""
    return json.loads(path.read_text()) if path.exists() else []


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
