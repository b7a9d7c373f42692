"""How fast the loader of stage 1 is: images a second, and what of a step is spent on waiting for data.

    python benchmarks/data.py [--quick] [--device cuda] [--json FILE]

A batch is read from where it lies, brought to the device, and made observations there, of noise alone. Images are uint8
[3, 32, 32]: in memory; `mapped` from a file that is one hole, which takes no disk and becomes pages in memory as it is
touched; `cold`, mapped from a file on the disk of which nothing is in memory yet.

read/s:   images that `ObservedDataset.read` copies to the host's memory, one batch after the other
images/s: images made observations, one batch after the other
wait ms:  median and 95th percentile of the time that a call takes with `--work` ms between calls, in which the host is
          idle, as while a GPU computes; with `ahead`, the rows are read then
"""

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timing
import torch

from rsd_fast import corruptions
from rsd_fast.data import ImageArray, ObservedDataset
from rsd_fast.data.order import ShuffledObservations

SHAPE = (3, 32, 32)
WARM_UP = 3  # batches; the first needs the first permutation


def sources(folder: Path, counts: tuple[int, int]) -> Iterator[tuple[str, int, Callable[[], ImageArray]]]:
    """(where, images, how they are opened)."""

    def mapped(file: Path) -> ImageArray:
        return ImageArray(images=np.lib.format.open_memmap(file, mode="r"), name=file.name)

    def cold(file: Path) -> ImageArray:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
        return mapped(file)

    images = np.random.default_rng(0).integers(0, 256, (counts[0], *SHAPE), dtype=np.uint8)
    yield "memory", counts[0], lambda: ImageArray(images=images, name="memory")
    for count in counts:
        hole = folder / f"{count}.npy"
        np.lib.format.open_memmap(hole, "w+", np.uint8, shape=(count, *SHAPE)).flush()
        yield "mapped", count, partial(mapped, hole)
        hole.unlink()  # not truncated: a batch may still be read ahead
    if hasattr(os, "posix_fadvise"):
        np.save(folder / "cold.npy", images)
        yield "cold", counts[0], partial(cold, folder / "cold.npy")


def measure(
    open_images: Callable[[], ImageArray], batch: int, ahead: bool, options: argparse.Namespace
) -> dict[str, float]:
    """The columns of a row. At most a tenth of the images is read for each, so that what is cold stays so."""

    def start() -> tuple[ObservedDataset, Callable[[int], Any]]:
        source = open_images()
        dataset = ObservedDataset(source, corruption=corruptions.Identity(), sigma_obs=0.2, seed=0, simulate=True)
        data = ShuffledObservations(dataset, seed=0, device=options.device, prefetch=ahead)

        def call(step: int) -> None:
            data(range(step * batch, (step + 1) * batch), range((step + 1) * batch, (step + 2) * batch))

        for step in range(WARM_UP):
            call(step)
        synchronize(options.device)
        return dataset, lambda step: call(step + WARM_UP)

    dataset, _ = start()
    steps = max(5, len(dataset) // 10 // batch)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(1)).numpy()
    rows = dataset.room(batch, pinned=options.device == "cuda")
    reading = times(lambda step: dataset.read(order[step * batch : (step + 1) * batch], rows), steps, options)
    _, call = start()
    calling = times(call, steps, options)
    _, call = start()
    waiting = times(call, min(steps, 20 if options.quick else 200), options, pause=options.work / 1000)
    return {
        "read_per_sec": batch / float(np.median(reading)),
        "images_per_sec": batch / float(np.median(calling)),
        "wait_ms_median": 1000 * float(np.median(waiting)),
        "wait_ms_p95": 1000 * float(np.quantile(waiting, 0.95)),
    }


def times(
    call: Callable[[int], Any], steps: int, options: argparse.Namespace, pause: float | None = None
) -> list[float]:
    """Seconds of each call: of as many as fit in `--seconds`, or of all, a pause before each.

    Without pauses a call is over when the device is done with it.
    """
    seconds: list[float] = []
    for step in range(steps):
        if pause is not None:
            time.sleep(pause)
        elif sum(seconds) > options.seconds:
            break
        begin = time.perf_counter()
        call(step)
        if pause is None:
            synchronize(options.device)
        seconds.append(time.perf_counter() - begin)
    synchronize(options.device)
    return seconds


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", help="for the files (that of temporary files)")
    parser.add_argument("--work", type=float, default=20.0, help="ms between two calls for `wait ms` (20)")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each number, at most (2)")
    parser.add_argument("--quick", action="store_true", help="6,000 and 600,000 images, batch 64, a tenth of a second")
    parser.add_argument("--json", metavar="FILE", help="write the rows there, too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.quick:
        options.seconds = 0.1
    counts = (6_000, 600_000) if options.quick else (60_000, 6_000_000)
    about = {"machine": timing.machine(options.device), "versions": timing.versions()}
    print(json.dumps(about))
    print(f"\n{'source':<8} {'images':>9} {'batch':>5} ahead {'read/s':>9} {'images/s':>9} {'wait ms':>8} {'p95':>7}")
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for where, count, open_images in sources(Path(folder), counts):
            for batch, ahead in itertools.product((64,) if options.quick else (8, 64, 512), (False, True)):
                row = measure(open_images, batch, ahead, options)
                wait = f"{row['wait_ms_median']:>8.2f} {row['wait_ms_p95']:>7.2f}"
                rates = f"{row['read_per_sec']:>9,.0f} {row['images_per_sec']:>9,.0f}"
                print(f"{where:<8} {count:>9,} {batch:>5} {'yes' if ahead else 'no':>5} {rates} {wait}", flush=True)
                settings = {"source": where, "images": count, "batch": batch, "ahead": ahead, "work_ms": options.work}
                results.append({**settings, **row, "device": options.device, **about})
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
