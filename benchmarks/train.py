"""Whole steps: images a second of training and sampling, what each switch buys, and how near the hardware's peak it is.

    python benchmarks/train.py --preset cifar10 --batch 8 --json train.json --plot train.png
    python benchmarks/train.py --phase distill --preset ffhq64 --batch 64 --device cuda --profile profiles
    python benchmarks/train.py --quick

The rows go from `plain`, what published code does (eager, fp32 with TF32 off, channels-first, PyTorch's own ops, sigma
clamped, weight gradients in frozen networks), one switch at a time to `full`; of training it is the engine's own step
that is timed, on images in memory. Each row has a process of its own, since kernels are chosen at import.

`useful_images_per_sec` leaves out images whose sigma is clamped to sigma_obs, where loss and gradient are zero.
`network_passes` is what a step computes, an image, in forward passes through the network.
`tflops` are those of the convolutions, products of matrices and attention that a row computes;
`share_of_matmul_peak` compares them with the fastest product of matrices in the row's precision, and `share_of_conv`
says how much of the step the network's own convolutions take by themselves, in the same process, and
`share_of_group_norm` what group norm and SiLU do by a profile of a step, which on a GPU also says how long that is busy
(`gpu_busy`; with two streams it may exceed 1).
"""

import argparse
import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import timing
import torch
from train_measure import Task, measure
from train_rows import SIZES, Row, in_own_process, read_task, rows

PHASES = ("pretrain", "distill", "sample")


def run(task: Task) -> dict[str, Any]:
    """`measure` in a process of its own; {"error": why} where it fails."""
    done = in_own_process(__file__, task)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"error": lines[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


def line(result: dict[str, Any], plain: dict[str, Any] | None) -> str:
    if "error" in result:
        return f"{result['config']:<24} {result['error']}"
    ratio = result["images_per_sec"] / plain["images_per_sec"] if plain and "error" not in plain else float("nan")
    columns = [
        f"{result['config']:<24}",
        f"{result['images_per_sec']:10.2f}",
        f"{ratio:6.2f}x",
        f"{result['useful_images_per_sec']:10.2f}",
        f"{result['step_ms']:9.1f}",
        f"{result['peak_memory_gb']:7.2f}",
        f"{result['network_passes']:7.2f}",
        f"{result['tflops']:8.3f}",
        f"{result['share_of_matmul_peak']:7.1%}",
        f"{result['share_of_conv']:7.1%}",
        f"{result['share_of_group_norm']:7.1%}",
    ]
    return " ".join(columns)


HEADER = (
    f"{'config':<24} {'images/s':>10} {'ratio':>7} {'useful/s':>10} {'step ms':>9} {'mem GB':>7} {'passes':>7} "
    f"{'TFLOP/s':>8} {'of mm':>7} {'conv':>7} {'norm':>7}"
)


def plot(results: list[dict[str, Any]], file: str) -> None:
    """Bars of images a second, relative to plain."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    runs = list(dict.fromkeys((result["phase"], result["batch"]) for result in results))
    figure, axes = pyplot.subplots(1, len(runs), figsize=(5 * len(runs), 4), squeeze=False, sharex=True)
    for axis, (phase, batch) in zip(axes[0], runs, strict=True):
        bars_of = [r for r in results if (r["phase"], r["batch"]) == (phase, batch) and "error" not in r]
        base = next(r["images_per_sec"] for r in bars_of if r["config"] == "plain")
        bars = axis.barh([r["config"] for r in bars_of], [r["images_per_sec"] / base for r in bars_of])
        axis.bar_label(bars, fmt="%.1f")
        axis.invert_yaxis()
        axis.set_title(f"{phase}, {bars_of[0]['preset']}, batch {batch}")
        axis.set_xlabel("images a second, relative to plain")
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def measure_all(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every row of every phase and batch, printed and written as it comes."""
    preset = options.preset or ("digits" if options.quick else "cifar10")
    batches = options.batch or [128 if options.device == "cuda" else 8]
    about = {"machine": timing.machine(options.device), "versions": timing.versions()}
    print(json.dumps(about))
    results: list[dict[str, Any]] = []
    for phase, batch in itertools.product(options.phase or PHASES, batches):
        size, plain = SIZES[preset], None
        measured: dict[Row, dict[str, Any]] = {}  # `full` is the row before it, under the name that is looked for
        print(f"\n{phase}, {preset}, {batch} x {size}x{size}, {options.threads} threads")
        print(HEADER)
        for name, row in rows(phase, options.device, compiled=not options.quick).items():
            if options.config and name not in (*options.config, "plain"):
                continue
            task = Task(
                row=row,
                preset=preset,
                batch=batch,
                device=options.device,
                threads=options.threads,
                phase=phase,
                seconds=1.0 if options.quick else options.seconds,
                profile=options.profile,
            )
            if row not in measured:
                measured[row] = run(task)
            settings = {"phase": phase, "preset": preset, "batch": batch, "device": options.device, "config": name}
            result = {**settings, "switches": dataclasses.asdict(row), **measured[row], **about}
            plain = plain or result
            print(line(result, plain), flush=True)
            results.append(result)
            if options.json:  # after each, so that what was measured is not lost
                Path(options.json).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phase", choices=PHASES, action="append", help="pretrain, distill or sample (all)")
    parser.add_argument("--preset", choices=list(SIZES), help="network (cifar10)")
    parser.add_argument("--batch", type=int, action="append", help="images a step (8 on a CPU, 128 on a GPU)")
    parser.add_argument("--config", action="append", help="a row, by its name (all)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=20.0, help="for each row, after its warm-up (20)")
    parser.add_argument("--quick", action="store_true", help="preset digits, no compilation, a second a row")
    parser.add_argument("--profile", metavar="FOLDER", help="a Chrome trace and a table of operators for each row")
    parser.add_argument("--json", metavar="FILE", help="write the rows there, too")
    parser.add_argument("--plot", metavar="FILE.png")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(measure(read_task(Task, options.task))))
        return
    results = measure_all(options)
    if options.plot:
        plot(results, options.plot)


if __name__ == "__main__":
    main()
