"""Does the proximal distance, which needs no clean image, choose the checkpoint that the clean one would?

    python benchmarks/selection.py --out runs/selection [--rows noise-.2,mask] [--json FILE] [--plot FILE.png]

Fashion-MNIST at 16x16, 60,000 images, of which training sees only corrupted versions. Each row is a teacher and a
distillation that keeps a checkpoint every 2,000 images; of each checkpoint the same samples are compared with clean
images (what nobody has) and, corrupted, with the observations (what everybody has), by features of EfficientNet-lite0
and by pixels. Printed: Spearman's rank correlation of the two over the checkpoints, and how much worse than the best
checkpoint the one is that the proximal distance picks. What is done already is not done again.
"""

import argparse
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from scipy.stats import spearmanr
from torch import Tensor

from rsd_fast import files
from rsd_fast.data import open_source
from rsd_fast.evaluation import Evaluator, HowCompared, HowObserved, ImageSet, evaluate
from rsd_fast.evaluation.features import Features
from rsd_fast.evaluation.observed import observe_as, open_data, pictures_of
from rsd_fast.evaluation.references import open_clean
from rsd_fast.evaluation.runs import features_of
from rsd_fast.evaluation.samples import of_model, samples_of
from rsd_fast.sampler import Sampler, Sampling

sys.path.insert(0, str(Path(__file__).parent))
from fashion_mnist import NETWORK, PRETRAIN_KIMG, add_options, chosen, run_command
from timing import machine

SNAPSHOT_KIMG = 2
METRICS = ["fid", "proximal-fid", "pixel-fd", "proximal-pixel-fd"]
FEATURES = "efficientnet-lite0"
SPACES = {FEATURES: ("fid", "proximal-fid"), "pixels": ("pixel-fd", "proximal-pixel-fd")}  # clean, proximal
ROWS = {  # title, corruption, sigma_obs, thousand images to distil
    "noise-.2": ("noise 0.2", "identity", 0.2, 64),
    "mask": ("60 % of the pixels missing", "random_mask:missing=0.6", 0.0, 64),
    "blur-noise": ("blur, noise 0.1", "gaussian_blur:size=5,std=1", 0.1, 96),
}


def train(name: str, options: argparse.Namespace, data: Path) -> Path:
    """The row's distillation, with all its checkpoints."""
    _, corruption, sigma_obs, kimg = ROWS[name]
    teacher, generator = options.out / name / "teacher", options.out / name / "generator"
    commands = [
        f"pretrain --data {shlex.quote(str(data))} --simulate --corruption {corruption} --sigma-obs {sigma_obs}"
        f" {NETWORK} --kimg {PRETRAIN_KIMG * options.length:g} --out {shlex.quote(str(teacher))}",
        f"distill --teacher {shlex.quote(str(teacher))} --kimg {kimg * options.length:g}"
        f" --snapshot-kimg {SNAPSHOT_KIMG * options.length:g} --eval-kimg 0 --out {shlex.quote(str(generator))}",
    ]
    for command in commands:
        run_command(command, options.seed)
    return generator


def measure(name: str, run: Path, options: argparse.Namespace, data: Path, done: list[dict]) -> list[dict]:
    """All evaluations of a row's checkpoints; those in `done` are taken over."""
    config = Sampler(run).config
    compared = HowCompared(features=FEATURES, batch=500)
    observations = open_data(config, HowObserved(), options.seed)
    evaluator = Evaluator(
        METRICS,
        clean=open_clean(str(data), config, options.seed),
        observed=pictures_of(observations),
        observe=observe_as(observations, config, options.seed),
        features=features_of(METRICS, compared),
        batch=compared.batch,
    )
    how = Sampling(precision=options.precision)
    for folder in sorted((run / "checkpoints").iterdir()):
        if any(each["row"] == name and each["checkpoint"] == folder.name for each in done):
            continue
        sampler = Sampler(folder, **asdict(how))
        results = evaluator(samples_of(sampler, options.num, options.seed, compared.batch, how))
        done += [{"row": name, **asdict(result)} for result in of_model(results, sampler, options.seed, how)]
        record = {"machine": machine("cpu"), "settings": settings(options), "evaluations": done}
        files.write_text(options.json, json.dumps(record) + "\n")
        print(name, folder.name, *(f"{r['metric']} {r['value']:.4g}" for r in done[-len(METRICS) :]), flush=True)
    return [each for each in done if each["row"] == name]


def settings(options: argparse.Namespace) -> dict:
    """What evaluations must have in common to be compared."""
    return {name: getattr(options, name) for name in ("num", "seed", "precision", "length")}


def background(run: Path, options: argparse.Namespace, data: Path, depth: float = 0.2) -> float:
    """Share of the newest checkpoint's clean distance, by features, that goes where all within `depth` of black is
    black, in samples and clean images: what faint traces on the background have in it."""
    clean, sampler, features = open_source(data), Sampler(run, precision=options.precision), Features(FEATURES, ["fid"])

    def distance(level: float) -> float:
        def levelled(images: Tensor) -> Tensor:
            return torch.where(images < level - 1, -1.0, images)

        samples = ImageSet(
            name="samples", count=options.num, read=lambda index: levelled(sampler.draw(index, options.seed))
        )
        reference = ImageSet(name="clean", count=10_000, read=lambda index: levelled(clean.tensor(index)))
        return evaluate(["fid"], samples, clean=reference, features=features, batch=500)[0].value

    return round(1 - distance(depth) / distance(0.0), 3)


def curves(evaluations: list[dict], space: str) -> tuple[list[float], list[float], list[float]]:
    """(thousand images, clean distance, proximal distance) of a row's checkpoints."""
    kimg = sorted({each["kimg"] for each in evaluations})
    value = {(each["metric"], each["kimg"]): each["value"] for each in evaluations}
    clean, proximal = ([value[metric, k] for k in kimg] for metric in SPACES[space])
    return kimg, clean, proximal


def rank_correlation(clean: list[float], proximal: list[float]) -> float:
    return round(float(spearmanr(clean, proximal).statistic), 4)


def summary(evaluations: list[dict], space: str) -> dict:
    """Rank correlation, the checkpoint that is picked, and what picking it costs."""
    kimg, clean, proximal = curves(evaluations, space)
    half = len(kimg) // 2
    picked, best = proximal.index(min(proximal)), clean.index(min(clean))
    return {
        "features": space,
        "checkpoints": len(kimg),
        "spearman": rank_correlation(clean, proximal),
        "spearman_second_half": rank_correlation(clean[half:], proximal[half:]),
        "picked_kimg": kimg[picked],
        "best_kimg": kimg[best],
        "picked_over_best": round(clean[picked] / clean[best], 4),
        "last_over_best": round(clean[-1] / clean[best], 4),
    }


def plot(rows: dict[str, list[dict]], path: Path) -> None:
    """Both distances over the images seen, a column a row and a line of panels a space, and what each picks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4 * len(rows), 7), layout="constrained")
    panels = figure.subplots(len(SPACES), len(rows), squeeze=False)
    for line, space in zip(panels, reversed(SPACES), strict=True):
        for axes, (name, evaluations) in zip(line, rows.items(), strict=True):
            kimg, clean, proximal = curves(evaluations, space)
            choice = summary(evaluations, space)
            axes.semilogy(kimg, clean, "o-", ms=3, color="C0", label="clean (not to be had)")
            axes.semilogy(kimg, proximal, "s-", ms=3, color="C1", label="proximal (no clean image)")
            axes.axvline(choice["best_kimg"], color="C0", ls=":", lw=1)
            axes.axvline(choice["picked_kimg"], color="C1", ls="--", lw=1)
            above = 100 * (choice["picked_over_best"] - 1)
            axes.set_title(
                f"{ROWS[name][0]}\nSpearman {choice['spearman']:.2f}, pick {above:.1f} % above the best", fontsize=10
            )
            axes.grid(alpha=0.3)
            if space == FEATURES:
                axes.set_xlabel("thousand images distilled")
        line[0].set_ylabel(f"Frechet distance, {space}")
    panels[0, 0].legend(fontsize=9)
    with files.atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, ROWS, 5000)
    parser.add_argument("--json", type=Path, help="evaluations, read and written  [OUT/selection.json]")
    parser.add_argument("--plot", type=Path, help="picture  [OUT/selection.png]")
    options = parser.parse_args()
    options.json = options.json or options.out / "selection.json"
    options.plot = options.plot or options.out / "selection.png"
    names, data = chosen(parser, options, ROWS)
    assert len(open_source(data)) >= 10_000
    kept = json.loads(options.json.read_text()) if options.json.exists() else {"evaluations": []}
    if kept.get("settings", settings(options)) != settings(options):
        parser.error(f"--json: {options.json} holds evaluations with {kept['settings']}")
    done = kept["evaluations"]
    rows = {}
    for name in names:
        generator = train(name, options, data)
        rows[name] = measure(name, generator, options, data, done)
        for space in SPACES:
            print(name, json.dumps(summary(rows[name], space)))
        print(name, "share of the background:", background(generator, options, data), flush=True)
    plot(rows, options.plot)


if __name__ == "__main__":
    main()
