"""Does speed change the result? Losses of the first steps, with everything on and as published code does it.

    python benchmarks/same_result.py --json same.json --plot same.png
    python benchmarks/same_result.py --preset small --data train-images-idx3-ubyte --steps 200 --seeds 3

For each stage and seed the engine trains once by each of some rows of `benchmarks/train.py`, on real images with noise;
the generators from one teacher. A row has the same result as plain where their loss curves, averaged over the seeds and
over spans of steps, differ by no more than those of the seeds do: `distance` is the greatest difference in standard
errors of the mean, over the spans.

Rows: plain; `bf16`, that and nothing else; `clamped`, everything on but truncated sigma; `full`, everything. Truncated
sigma has the same expected gradient, but of images that all teach something, so that it is less noisy.
"""

import argparse
import dataclasses
import json
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

import timing
import torch
import train
from train import Row

STAGES = ("pretrain", "distill")
SPANS = 10


def compared(stage: str) -> dict[str, Row]:
    every = train.rows(stage, "cpu", compiled=False)
    plain, full = every["plain"], every["full"]
    return {
        "plain": plain,
        "bf16": dataclasses.replace(plain, precision="bf16"),
        "clamped": dataclasses.replace(full, sigma="clamped"),
        "full": full,
    }


# In a process of its own: kernels are chosen at import


@dataclasses.dataclass(frozen=True)
class Task:
    row: Row
    stage: str
    preset: str
    data: str
    batch: int
    steps: int
    seed: int
    device: str
    threads: int
    teacher: str  # a file: read by distill, written by pretrain where it is not there


def losses(task: Task) -> dict[str, list[float]]:
    """{name: [steps]} of every loss."""
    from rsd_fast.build import build_denoiser
    from rsd_fast.data import open_source
    from rsd_fast.data.order import ShuffledObservations
    from rsd_fast.engine import Trainer
    from rsd_fast.loading import load
    from rsd_fast.run_dataset import open_observations
    from rsd_fast.runs import Run, save_model

    torch.set_num_threads(task.threads)
    train.switch_off(task.row)
    source = open_source(task.data)
    observations = train.noisy(task.data, len(source), source.image_shape)
    teacher, student = train.configs(task, observations, seed=task.seed)
    torch.manual_seed(task.seed)
    if task.stage == "pretrain":
        config, network = teacher, build_denoiser(teacher)
        dataset, layout = open_observations(observations, source), task.row.channels_last
        data = ShuffledObservations(dataset, seed=task.seed, device=task.device, channels_last=layout)
    else:
        config, network, data = student, load(Path(task.teacher)).network, None
    method = train.method_of(task, config, network)
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(method, config, Run(Path(folder)), data=data)
        for _ in range(task.steps):
            trainer.step()
            for name, (mean, _, _) in trainer.statistics.summary().items():
                if name.endswith("loss"):
                    found.setdefault(name, []).append(mean)
    if task.stage == "pretrain" and not Path(task.teacher).exists():
        save_model(Path(task.teacher), method.product().state_dict(), config, trainer.kimg)
    return found


# In the process that is started


def run(task: Task) -> dict[str, list[float]]:
    done = train.in_own_process(__file__, task)
    if done.returncode:
        raise SystemExit(f"{task.stage}, seed {task.seed}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def spans(curve: list[float]) -> list[float]:
    """Means over so many spans of equal length."""
    size = math.ceil(len(curve) / SPANS)
    return [statistics.mean(curve[i : i + size]) for i in range(0, len(curve), size)]


def distance(curves: list[list[float]], plain: list[list[float]]) -> float:
    """The greatest difference of their means over the spans, in standard errors of that difference."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=STAGES, action="append", help="pretrain or distill (both)")
    parser.add_argument("--preset", default="digits", help="network and rates (digits)")
    parser.add_argument("--data", default="digits", metavar="SRC", help="clean images (digits)")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5, help="so many, two at the least (5)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE.png")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.task:
        values = json.loads(given.task)
        print(json.dumps(losses(Task(**{**values, "row": Row(**values["row"])}))))
        return
    if given.seeds < 2:
        parser.error("--seeds: two at the least, to see how they differ")
    about = {"machine": timing.machine(given.device), "versions": timing.versions()}
    print(json.dumps(about))
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        settings = {name: getattr(given, name) for name in ("preset", "data", "batch", "steps", "device", "threads")}
        settings["teacher"] = str(Path(folder) / "model.safetensors")
        stages = given.stage or STAGES
        if "pretrain" not in stages:
            run(Task(row=compared("pretrain")["full"], stage="pretrain", seed=0, **settings))
        for stage in stages:
            print(f"\n{stage}, {given.preset}, {given.steps} steps of {given.batch}, {given.seeds} seeds")
            print(f"{'config':<8} {'loss':<16} {'first span':>12} {'last span':>12} {'seeds':>8} {'distance':>9}")
            plain: dict[str, list[list[float]]] = {}
            for config, row in compared(stage).items():
                runs = [run(Task(row=row, stage=stage, seed=seed, **settings)) for seed in range(given.seeds)]
                for name in runs[0]:
                    curves = [found[name] for found in runs]
                    plain.setdefault(name, curves)
                    ends = [statistics.mean(spans(c)[i] for c in curves) for i in (0, -1)]
                    spread = statistics.stdev(spans(c)[-1] for c in curves)
                    away = distance(curves, plain[name])
                    print(
                        f"{config:<8} {name:<16} {ends[0]:12.4f} {ends[1]:12.4f} {spread:8.4f} {away:9.2f}", flush=True
                    )
                    result = {"stage": stage, "config": config, "loss": name, "distance": away, "curves": curves}
                    results.append(
                        {**result, **settings, "teacher": None, "switches": dataclasses.asdict(row), **about}
                    )
    if given.json:
        Path(given.json).write_text(json.dumps(results) + "\n", encoding="utf-8")
    if given.plot:
        plot(results, given.plot)


if __name__ == "__main__":
    main()
