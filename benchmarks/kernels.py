"""Every op on every backend: milliseconds, share of what a copy reaches, speed-up over plain PyTorch.

    python benchmarks/kernels.py --quick
    python benchmarks/kernels.py --device cuda --json kernels.json --plot kernels.png
    python benchmarks/kernels.py --op denoise --op blur --shape 3x256x256 --dtype bf16 --threads 8

Backends: eager and compile are `rsd_fast.ops.reference`, as it is and through torch.compile; torch_randn does what the
op does in plain PyTorch with noise from torch.randn; native and triton are the op where these serve it. Since an op's
kernels are chosen at import, each choice has a process of its own; the processes take turns at every case.
"""

import argparse
import contextlib
import importlib.util
import json
import math
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import cases
import timing
import torch

FAR_BEYOND_A_CACHE = 2**30  # bytes that a copy reads and writes
RATIOS = ("eager", "compile", "torch_randn")


class Settings(NamedTuple):
    """What a worker must know."""

    device: str
    threads: int
    seconds: float
    minimum: int


# In a worker


def serve(connection: Connection, backend: str, settings: Settings) -> None:
    """Measure every case that comes, under RSD_FAST_BACKEND=`backend`, until the connection is closed.

    The answer is {backend of a row: its times, or why there are none}.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle
    torch.set_num_threads(settings.threads)
    from rsd_fast import ops

    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            case = connection.recv()
            functions = attempt(callables, case, ops, backend, settings.device)
            if isinstance(functions, str):
                connection.send({backend: functions})
                continue
            connection.send({name: attempt(timed, function, case, settings) for name, function in functions.items()})
            del functions  # and their tensors, before there are new ones
            torch._dynamo.reset()  # else the next cases count as recompilations
            if settings.device == "cuda":
                torch.cuda.empty_cache()  # the other processes need it


def timed(function: Any, case: cases.Case, settings: Settings) -> tuple[float, float, float]:
    with torch.set_grad_enabled(case.backward):
        return timing.measure(function, settings.device, seconds=settings.seconds, minimum=settings.minimum)


def attempt(function: Any, *arguments: Any) -> Any:
    """What it returns, or in words why it fails: the other rows are worth having."""
    try:
        return function(*arguments)
    except Missing as missing:
        return f"no {missing}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


class Missing(Exception):
    """An op that is not there, or not on this backend."""


def callables(case: cases.Case, ops: Any, backend: str, device: str) -> dict[str, Any]:
    """{name of the row's backend: the function to be timed}."""
    if not hasattr(ops, case.op):
        raise Missing(f"op {case.op}")
    called = cases.call(case, ops, device)
    if backend != "reference":
        if ops.backends().get(case.op, {}).get(device) != backend:
            raise Missing(f"{backend} kernel of {case.op}")
        return {backend: passes(getattr(ops, case.op), called)}
    reference = getattr(ops.reference, case.op)
    rows = {"eager": passes(reference, called), "compile": passes(torch.compile(reference, dynamic=False), called)}
    with_torch_randn = cases.with_torch_randn(case, called)
    return {**rows, "torch_randn": with_torch_randn} if with_torch_randn else rows


def passes(function: Any, called: cases.Call) -> Any:
    """Forward, or forward and backward from a dense gradient."""
    arguments, options, differentiated = called
    if not differentiated:
        return lambda: function(*arguments, **options)
    grad = None

    def both() -> None:
        nonlocal grad
        output = function(*arguments, **options)
        grad = torch.randn_like(output) if grad is None else grad
        torch.autograd.grad(output, differentiated, grad)

    return both


# In the parent


class Worker:
    def __init__(self, backend: str, settings: Settings) -> None:
        self.backend = backend
        os.environ["RSD_FAST_BACKEND"] = backend  # inherited
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, backend, settings))
        self.process.start()
        theirs.close()

    def measure(self, case: cases.Case) -> dict[str, Any]:
        try:
            self.connection.send(case)
            return self.connection.recv()
        except (EOFError, OSError):
            return {self.backend: "its process ended; out of memory?"}

    def stop(self) -> None:
        self.connection.close()
        self.process.join(3)
        self.process.kill()  # where it is in the midst of a case


def measure(options: argparse.Namespace, info: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    """Append to `rows` what is measured; whether all of it went well."""
    native = "compiler" in info and (options.device == "cpu" or info["cuda"])
    triton = options.device == "cuda" and info["triton"] == "installed"
    settings = Settings(options.device, options.threads, options.seconds, options.minimum)
    workers = [
        Worker(backend, settings)
        for backend, present in {"reference": True, "native": native, "triton": triton}.items()
        if present
    ]
    well, said, ends = True, set(), time.monotonic() + options.limit
    try:
        todo = list(cases.cases(options.op, options.shape, options.dtype, options.batch, options.quick))
        if not todo:
            sys.exit(
                "kernels.py: none of the ops takes these shapes: BxCxHxW is for group_norm_silu, CxHxW for the others"
            )
        for number, case in enumerate(todo, 1):
            if time.monotonic() > ends:
                say(f"stopped at the limit: {len(todo) - number + 1} of {len(todo)} cases are not measured")
                break
            say(f"[{number}/{len(todo)}] {case}")
            times = {name: t for worker in workers for name, t in worker.measure(case).items()}
            for name, reason in [(name, t) for name, t in times.items() if isinstance(t, str)]:
                del times[name]
                if not reason.startswith("no "):
                    say(f"  {name} failed: {reason}")
                    well = well and name == "compile"  # which is somebody else's
                elif reason not in said:
                    say(f"  skipped: {reason}")
                    said.add(reason)
            rows += rows_of(case, times, options)
    finally:
        for worker in workers:
            worker.stop()
    return well


def rows_of(case: cases.Case, times: dict[str, tuple[float, ...]], options: argparse.Namespace) -> list[dict[str, Any]]:
    if not times:
        return []
    copy_bandwidth(case.nbytes, options)
    rows = []
    for backend, (median, p20, p80) in times.items():
        row = {"op": case.op, "variant": case.variant, "backend": backend, "device": options.device}
        row |= {"dtype": case.dtype, "shape": case.size, "pass": case.passes}
        row |= {"ms_median": median, "ms_p20": p20, "ms_p80": p80, "bytes": case.nbytes}
        row["gb_per_s"] = case.nbytes / median / 1e6
        row |= {f"speedup_vs_{other}": times[other][0] / median if other in times else None for other in RATIOS}
        rows.append(row)
    return rows


_COPIES: dict[int, float] = {}


def copy_bandwidth(nbytes: int, options: argparse.Namespace) -> float:
    """The best so far: a copy is measured beside every case, for what else the machine does can only slow one down."""
    best = max(_COPIES.get(nbytes, 0), timing.copy_bandwidth(options.device, nbytes, options.seconds))
    _COPIES[nbytes] = best
    return best


def share_of_copy(row: dict[str, Any]) -> dict[str, float]:
    copy = _COPIES[row["bytes"]]
    return {"copy_gb_per_s": copy, "share_of_copy": row["gb_per_s"] / copy}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# The results


def header(machine: dict[str, Any], versions: dict[str, Any], options: argparse.Namespace) -> str:
    sizes = {
        options.batch * int(torch.Size(s).numel()) * 8: f"{options.batch}x{text(s)}"
        for s in options.shape
        if len(s) == 3
    }
    copies = [f"{copy_bandwidth(n, options):.1f} ({name} fp32)" for n, name in sorted(sizes.items())]
    copies.append(f"{copy_bandwidth(FAR_BEYOND_A_CACHE, options):.1f} (1 GiB, far beyond any cache)")
    if options.device == "cuda":
        cache = "inputs and copies come from memory: the L2 cache is overwritten before every call"
    else:
        cache = "rows that fit in the cache are compared with copies that fit in the cache"
    return "\n".join(
        [
            "machine   " + ", ".join(f"{key} {value}" for key, value in machine.items()),
            "versions  " + ", ".join(f"{key} {value}" for key, value in versions.items()),
            "copy      GB/s read and written: " + ", ".join(copies),
            "GB/s      of the least traffic, each tensor read or written once (cases.py)",
            f"share     GB/s over that of a copy that reads and writes as many bytes: {cache}",
            "x NAME    how many times faster than NAME on the same op, shape, dtype and pass",
        ]
    )


def table(rows: list[dict[str, Any]]) -> str:
    names = ("op", "shape", "dtype", "pass", "backend", "ms", "p20", "p80", "GB/s", "share")
    lines = [[*names, *(f"x {other}" for other in RATIOS)]]
    for row in rows:
        speedups = (row[f"speedup_vs_{other}"] for other in RATIOS)
        lines.append(
            [
                f"{row['op']} {row['variant']}".strip(),
                *(row[key] for key in ("shape", "dtype", "pass", "backend")),
                *(f"{row[key]:.4g}" for key in ("ms_median", "ms_p20", "ms_p80")),
                f"{row['gb_per_s']:.1f}",
                f"{row['share_of_copy']:.1%}",
                *("" if speedup is None else f"{speedup:.2f}" for speedup in speedups),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text_columns = 5
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < text_columns else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def plot(rows: list[dict[str, Any]], title: str, file: str) -> None:
    """Speed-up over eager, a panel for each shape: bars to the right are faster, to the left slower."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        if row["speedup_vs_eager"] and row["backend"] != "eager":
            label = " ".join(
                filter(None, [row["op"], row["variant"], row["dtype"], row["pass"].removeprefix("forward")])
            )
            panels.setdefault(row["shape"], {}).setdefault(label, {})[row["backend"]] = row["speedup_vs_eager"]
    if not panels:
        return
    backends = [
        name for name in ("compile", "torch_randn", "native", "triton") if any(row["backend"] == name for row in rows)
    ]
    heights = [len(bars) for bars in panels.values()]
    figure, axes = plt.subplots(
        len(panels),
        figsize=(8, 0.3 * sum(heights) + 0.6 * len(heights) + 1),
        height_ratios=heights,
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, (shape, bars) in zip(axes[:, 0], panels.items(), strict=True):
        for i, name in enumerate(backends):
            at = [y + (i - (len(backends) - 1) / 2) * 0.8 / len(backends) for y in range(len(bars))]
            beyond = [bar.get(name, float("nan")) - 1 for bar in bars.values()]
            axis.barh(at, beyond, left=1, height=0.8 / len(backends), label=name, color=f"C{i}")
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_yticks(range(len(bars)), bars)
        axis.invert_yaxis()
        axis.set(xscale="log", title=shape)
    axes[0][0].legend()
    axes[-1][0].set_xlabel("times as fast as eager PyTorch")
    figure.suptitle(title)
    figure.savefig(file, dpi=100)


# The command line


def parse_shape(value: str) -> tuple[int, ...]:
    numbers = tuple(int(n) for n in value.split("x") if n.isdecimal())
    if len(numbers) not in (3, 4) or 0 in numbers or text(numbers) != value:
        raise argparse.ArgumentTypeError(f"expected CxHxW, or BxCxHxW for group_norm_silu, got {value!r}")
    return numbers


def positive(value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {value!r}")
    return int(value)


def text(numbers: tuple[int, ...]) -> str:
    return "x".join(map(str, numbers))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time every op on every backend.")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--op", action="append", choices=cases.OPS, metavar="NAME", help=f"repeatable: {', '.join(cases.OPS)}"
    )
    parser.add_argument(
        "--shape", action="append", type=parse_shape, help="CxHxW, or BxCxHxW for group_norm_silu; repeatable"
    )
    parser.add_argument("--dtype", action="append", choices=cases.DTYPES, help="of the network; repeatable")
    parser.add_argument("--batch", type=positive, default=256, help="images (256)")
    parser.add_argument("--threads", type=positive, help="of the CPU (PyTorch's default)")
    parser.add_argument("--quick", action="store_true", help="only the forward pass of 3x64x64, few repetitions")
    parser.add_argument("--limit", type=positive, default=math.inf, metavar="SECONDS", help="stop after so long")
    parser.add_argument("--json", metavar="FILE", help="write the rows as a list of objects")
    parser.add_argument("--append", metavar="FILE", help="append the rows as lines of JSON")
    parser.add_argument("--plot", metavar="FILE", help="draw the speed-ups over eager; needs matplotlib")
    options = parser.parse_args()
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no CUDA device")
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install matplotlib")
    options.op = list(dict.fromkeys(options.op or cases.OPS))
    pairs = list(zip(cases.IMAGES, cases.FEATURES, strict=True))[: 1 if options.quick else None]
    every = [shape for pair in pairs for shape in pair]
    options.shape = list(dict.fromkeys(options.shape or every))
    options.dtype = list(dict.fromkeys(options.dtype or cases.DTYPES))
    options.seconds, options.minimum = (0.1, 3) if options.quick else (0.2 if options.device == "cuda" else 0.5, 5)
    return options


def main() -> int:
    options = parse()
    torch.set_num_threads(options.threads or torch.get_num_threads())
    options.threads = torch.get_num_threads()
    from rsd_fast.ops import native_info  # here, for a worker imports this file before its backend is chosen

    info = native_info()
    native = (
        f"{info['compiler']}, {info['isa']}, {info.get('cuda_compiler', 'no CUDA')}" if "compiler" in info else None
    )
    machine, versions = timing.machine(options.device), {**timing.versions(), "native": native}
    title = header(machine, versions, options)
    print(title, flush=True)
    rows: list[dict[str, Any]] = []
    try:
        well = measure(options, info, rows)
    except KeyboardInterrupt:
        say("stopped; here is what there is")
        well = False
    rows = [{**row, **share_of_copy(row), "machine": machine, "versions": versions} for row in rows]
    print(f"\n{table(rows)}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)
    if options.append:
        timing.append_results(options.append, rows)
    if options.plot:
        plot(rows, title.partition("\n")[0].removeprefix("machine   "), options.plot)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
