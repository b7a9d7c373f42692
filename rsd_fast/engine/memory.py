"""How many images fit into memory at once: `--micro-batch auto`."""

import gc
from collections.abc import Callable
from pathlib import Path

import torch

SHARE = 0.85  # of the free memory; allocators leave gaps, and evaluations between steps need some, too
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MEMINFO, LIMIT, USED = (
    Path(p) for p in ("/proc/meminfo", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current")
)


def largest_micro_batch(attempt: Callable[[int], None], images: int, device: torch.device, *, reserve: int = 0) -> int:
    """The largest divisor of `images` of which `attempt` fits into free memory, by what 1 image and 4 take.

    attempt(n): a forward and backward pass over n images that leaves nothing behind. reserve: bytes of what has not
    been allocated yet. On a CUDA device what is found is tried as well. Raises ValueError where memory cannot be
    measured, or not even one image fits.
    """
    free = free_bytes(device) * SHARE - reserve
    few = min(4, images)
    before = allocated_bytes(device)
    attempt(1)  # whatever is made once
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
    raise ValueError(f"micro_batch: not even one image fits into {free / 2**30:.1f} GiB of memory")


def allocated_bytes(device: torch.device) -> int:
    gc.collect()
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else kilobytes(STATUS, "VmRSS")


def peak_bytes(attempt: Callable[[int], None], images: int, device: torch.device) -> int:
    """The most that is allocated in all while it runs."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        attempt(images)
        return torch.cuda.max_memory_allocated(device)
    CLEAR.write_text("5")  # sets the peak of the resident size to what it is now
    attempt(images)
    return kilobytes(STATUS, "VmHWM")


def free_bytes(device: torch.device) -> int:
    """Memory that this process can still take; on a CPU no more than its control group allows."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    if not CLEAR.exists():
        raise ValueError("micro_batch: auto cannot measure memory on this system; give a number")
    found = kilobytes(MEMINFO, "MemAvailable")
    try:
        return min(found, int(LIMIT.read_text()) - int(USED.read_text()))
    except (OSError, ValueError):  # no control group, or no limit
        return found


def kilobytes(file: Path, name: str) -> int:
    """A line `name: n kB`, in bytes."""
    for line in file.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"micro_batch: auto cannot measure memory on this system ({file} has no {name}); give a number")
