"""How many images fit into memory at once: `--micro-batch auto`."""

import gc
from collections.abc import Callable
from pathlib import Path

import torch

from rsd_fast.errors import FieldError

SHARE = 0.85  # of the free memory; allocators leave gaps, and evaluations between steps need some, too
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MEMINFO, LIMIT, USED = (
    Path(p) for p in ("/proc/meminfo", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current")
)


def largest_micro_batch(attempt: Callable[[int], None], images: int, device: torch.device, *, reserve: int = 0) -> int:
    """The largest divisor of `images` of which `attempt` fits into free memory, by what 1 image and 4 take.

    attempt(n): runs a forward and backward pass over n images, and leaves nothing behind. reserve: bytes that will be
    allocated later. On a CUDA device the answer is tried as well. Raises FieldError where memory cannot be measured,
    or not even one image fits.
    """
    free = free_bytes(device) * SHARE - reserve
    few = min(4, images)
    before = allocated_bytes(device)
    attempt(1)  # allocates whatever is made only once
    base, top = (peak_bytes(attempt, n, device) - before for n in (1, few))
    slope = max((top - base) / max(few - 1, 1), 1.0)
    divisors = [n for n in range(images, 0, -1) if images % n == 0]
    for n in divisors:
        if base + slope * (n - 1) > free:
            continue
        if device.type != "cuda" or n <= few:
            return n
        try:
            attempt(n)
            return n
        except torch.OutOfMemoryError:
            pass
        finally:
            torch.cuda.empty_cache()
    raise FieldError("micro_batch", f"not even one image fits into {free / 2**30:.1f} GiB of memory")


def allocated_bytes(device: torch.device) -> int:
    gc.collect()
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else kilobytes(STATUS, "VmRSS")


def peak_bytes(attempt: Callable[[int], None], images: int, device: torch.device) -> int:
    """The most memory that is allocated while attempt(images) runs."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        attempt(images)
        return torch.cuda.max_memory_allocated(device)
    CLEAR.write_text("5")  # sets the peak of the resident size to what it is now
    attempt(images)
    return kilobytes(STATUS, "VmHWM")


def free_bytes(device: torch.device) -> int:
    """The memory that this process can still take; on a CPU it is no more than its control group allows."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    if not CLEAR.exists():
        raise FieldError("micro_batch", "auto cannot measure memory on this system; give a number")
    available = kilobytes(MEMINFO, "MemAvailable")
    try:
        return min(available, int(LIMIT.read_text()) - int(USED.read_text()))
    except (OSError, ValueError):  # no control group, or no limit
        return available


def kilobytes(file: Path, name: str) -> int:
    """The number of bytes that the line `name: n kB` of a file of /proc means."""
    for line in file.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    problem = f"auto cannot measure memory on this system ({file} has no {name}); give a number"
    raise FieldError("micro_batch", problem)
