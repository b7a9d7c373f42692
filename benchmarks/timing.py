"""How long a function takes, how fast this machine copies, and what machine it is."""

import contextlib
import json
import os
import platform
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


def measure(
    function: Callable[[], Any], device: str | torch.device, *, seconds: float = 0.5, minimum: int = 5
) -> tuple[float, float, float]:
    """(median, 20th, 80th percentile) in ms of as many calls as fit in `seconds`: `minimum` to 1000, after a warm-up.

    On "cuda" each call is timed between two events, and the L2 cache is overwritten before it, so that inputs come from
    memory; the host's time counts where the device waits for it. On "cpu" inputs stay in the cache where they fit. Each
    call allocates its outputs, as it does in use.
    """
    device = torch.device(device)
    function()  # compiles and tunes whatever is compiled and tuned
    begin = time.perf_counter()
    calls = 0
    while calls < 2 or (time.perf_counter() - begin < 0.2 * seconds and calls < 100):
        function()
        _synchronize(device)
        calls += 1
    once = (time.perf_counter() - begin) / calls
    repetitions = min(max(int(seconds / once), minimum), 1000)
    times = (_cuda_times if device.type == "cuda" else _cpu_times)(function, device, repetitions)
    median, p20, p80 = (
        torch.tensor(times, dtype=torch.float64).quantile(torch.tensor([0.5, 0.2, 0.8]).double()).tolist()
    )
    return median, p20, p80


def copy_bandwidth(device: str | torch.device, nbytes: int, seconds: float = 0.5) -> float:
    """GB/s of `torch.Tensor.copy_` on float32, of which it reads nbytes / 2 and writes nbytes / 2."""
    source = torch.ones(max(nbytes // 8, 1), device=device)
    target = torch.zeros_like(source)  # touched, so that the system has given it memory
    median, _, _ = measure(lambda: target.copy_(source), device, seconds=seconds)
    return 2 * source.nbytes / median / 1e6


def machine(device: str | torch.device) -> dict[str, Any]:
    """{"cpu", "cores", "threads"} and, on "cuda", "gpu": what the hardware is called, and not whose it is."""
    hardware = {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }
    hardware["threads"] = torch.get_num_threads()
    if torch.device(device).type == "cuda":
        hardware["gpu"] = torch.cuda.get_device_name(device)
    return hardware


def versions() -> dict[str, str | None]:
    """Python's version and those of the packages that compute; None where one is absent."""
    installed: dict[str, str | None] = {"python": platform.python_version(), "torch": torch.__version__, "triton": None}
    with contextlib.suppress(metadata.PackageNotFoundError):
        installed["triton"] = metadata.version("triton")
    return installed


def append_results(file: str | Path, rows: list[dict[str, Any]]) -> None:
    """Append each row to the file as a line of JSON."""
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    with open(file, "a", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _cpu_times(function: Callable[[], Any], device: torch.device, repetitions: int) -> list[float]:
    times = []
    for _ in range(repetitions):
        begin = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - begin))
    return times


def _cuda_times(function: Callable[[], Any], device: torch.device, repetitions: int) -> list[float]:
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    flush = torch.empty(max(4 * cache, 2**28), dtype=torch.uint8, device=device)
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repetitions)]
    for begin, end in events:
        flush.zero_()
        begin.record()
        function()
        end.record()
    torch.cuda.synchronize(device)
    return [begin.elapsed_time(end) for begin, end in events]


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
