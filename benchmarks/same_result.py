"""Does speed change the result? Losses of the first steps, with everything on and as published code does it.

    python benchmarks/same_result.py --json same.json --plot same.png
    python benchmarks/same_result.py --preset small --data train-images-idx3-ubyte --steps 200 --seeds 3

For each stage and seed the engine trains once by each of some rows of `benchmarks/train.py`, on real images with noise.
The generators are distilled from one teacher. A row has the same result as plain where their loss curves, averaged over
the seeds and over spans of steps, differ by no more than those of the seeds do: `distance` is the greatest difference
over the spans, in standard errors of the mean.

Rows: plain; `bf16` has only that on; `clamped` has everything on but truncated sigma; `full` has everything. Truncated
sigma has the same expected gradient, but all its images teach something, so that the gradient is less noisy.
"""

import argparse
import dataclasses
import json
import math
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timing
import torch
from train_rows import Row, Setup, configs, in_own_process, method_of, noisy, read_task, rows, switch_off

from rsd_fast.build import build_denoiser
from rsd_fast.config import RunConfig
from rsd_fast.data import open_source
from rsd_fast.data.order import ShuffledObservations
from rsd_fast.engine import Trainer
from rsd_fast.loading import load
from rsd_fast.run_dataset import open_observations
from rsd_fast.runs import Run, save_model

STAGES = ("pretrain", "distill")
SPANS = 10


def compared(stage: str) -> dict[str, Row]:
    every = rows(stage, "cpu", compiled=False)
    plain, full = every["plain"], every["full"]
    return {
        "plain": plain,
        "bf16": dataclasses.replace(plain, precision="bf16"),
        "clamped": dataclasses.replace(full, sigma="clamped"),
        "full": full,
    }


@dataclass(frozen=True)
class Task(Setup):
    """What a process of its own is to train."""

    stage: str
    data: str
    steps: int
    seed: int
    teacher: str  # a file: distill reads it, and pretrain writes it where it is not there


def losses(task: Task) -> dict[str, list[float]]:
    """{name: [steps]} of every loss."""
    torch.set_num_threads(task.threads)
    switch_off(task.row)
    source = open_source(task.data)
    observations = noisy(task.data, len(source), source.image_shape)
    teacher, student = configs(task, observations, seed=task.seed)
    torch.manual_seed(task.seed)
    config: RunConfig
    if task.stage == "pretrain":
        config, network = teacher, build_denoiser(teacher)
        dataset, layout = open_observations(observations, source), task.row.channels_last
        data = ShuffledObservations(dataset, seed=task.seed, device=task.device, channels_last=layout)
    else:
        config, network, data = student, load(Path(task.teacher)).network, None
    method = method_of(task, config, network)
    curves: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(method, config, Run(Path(folder)), data=data)
        for _ in range(task.steps):
            trainer.step()
            for name, (mean, _, _) in trainer.statistics.summary().items():
                if name.endswith("loss"):
                    curves.setdefault(name, []).append(mean)
    if task.stage == "pretrain" and not Path(task.teacher).exists():
        save_model(Path(task.teacher), method.product().state_dict(), config, trainer.kimg)
    return curves


def run(task: Task) -> dict[str, list[float]]:
    """`losses` in a process of its own."""
    done = in_own_process(__file__, task)
    if done.returncode:
        raise SystemExit(f"{task.stage}, seed {task.seed}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def spans(curve: list[float]) -> list[float]:
    """The means over SPANS spans of equal length."""
    size = math.ceil(len(curve) / SPANS)
    return [statistics.mean(curve[i : i + size]) for i in range(0, len(curve), size)]


def distance(curves: list[list[float]], plain: list[list[float]]) -> float:
    """The greatest difference of the curves' means over the spans, in standard errors of that difference."""
    worst = 0.0
    for ours, theirs in zip(zip(*map(spans, curves), strict=True), zip(*map(spans, plain), strict=True), strict=True):
        error = math.sqrt((statistics.variance(ours) + statistics.variance(theirs)) / len(ours))
        worst = max(worst, abs(statistics.mean(ours) - statistics.mean(theirs)) / max(error, 1e-12))
    return worst


def plot(results: list[dict[str, Any]], file: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys((r["stage"], r["loss"]) for r in results))
    figure, axes = plt.subplots(1, len(names), figsize=(5 * len(names), 3.5), squeeze=False, layout="constrained")
    for axis, (stage, name) in zip(axes[0], names, strict=True):
        for color, result in enumerate(r for r in results if (r["stage"], r["loss"]) == (stage, name)):
            for i, curve in enumerate(result["curves"]):
                size = math.ceil(len(curve) / SPANS)
                steps = [min(len(curve), size * (k + 0.5)) for k in range(len(spans(curve)))]
                label = result["config"] if i == 0 else None
                axis.plot(steps, spans(curve), color=f"C{color}", alpha=0.6, label=label)
        axis.set_title(f"{stage}, {name.replace('_', ' ')}")
        axis.set_xlabel("step")
        axis.legend(title="a line a seed")
    figure.savefig(file, dpi=120)


def compare(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The curves of every row of every stage, printed as they come."""
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        settings = {name: getattr(options, name) for name in ("preset", "data", "batch", "steps", "device", "threads")}
        settings["teacher"] = str(Path(folder) / "model.safetensors")
        stages = options.stage or STAGES
        if "pretrain" not in stages:
            run(Task(row=compared("pretrain")["full"], stage="pretrain", seed=0, **settings))
        for stage in stages:
            print(f"\n{stage}, {options.preset}, {options.steps} steps of {options.batch}, {options.seeds} seeds")
            print(f"{'config':<8} {'loss':<16} {'first span':>12} {'last span':>12} {'seeds':>8} {'distance':>9}")
            plain: dict[str, list[list[float]]] = {}
            for config, row in compared(stage).items():
                runs = [run(Task(row=row, stage=stage, seed=seed, **settings)) for seed in range(options.seeds)]
                for name in runs[0]:
                    curves = [by_name[name] for by_name in runs]
                    plain.setdefault(name, curves)
                    result = {"stage": stage, "config": config, "loss": name}
                    result["distance"] = distance(curves, plain[name])
                    print(line(result, curves), flush=True)
                    result |= {"curves": curves, **settings, "teacher": None, "switches": dataclasses.asdict(row)}
                    results.append(result)
    return results


def line(result: dict[str, Any], curves: list[list[float]]) -> str:
    first, last = (statistics.mean(spans(curve)[i] for curve in curves) for i in (0, -1))
    spread = statistics.stdev(spans(curve)[-1] for curve in curves)
    names = f"{result['config']:<8} {result['loss']:<16}"
    return f"{names} {first:12.4f} {last:12.4f} {spread:8.4f} {result['distance']:9.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=STAGES, action="append", help="pretrain or distill (both)")
    parser.add_argument("--preset", default="digits", help="network and rates (digits)")
    parser.add_argument("--data", default="digits", metavar="SRC", help="clean images (digits)")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5, help="how many, two at the least (5)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE.png")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(losses(read_task(Task, options.task))))
        return
    if options.seeds < 2:
        parser.error("--seeds: two at the least, to see how they differ")
    about = {"machine": timing.machine(options.device), "versions": timing.versions()}
    print(json.dumps(about))
    results = [result | about for result in compare(options)]
    if options.json:
        Path(options.json).write_text(json.dumps(results) + "\n", encoding="utf-8")
    if options.plot:
        plot(results, options.plot)


if __name__ == "__main__":
    main()
