"""Sets of images, and going through them once for all that is computed of each image by itself."""

import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from rsd_fast import processes
from rsd_fast.data import ImageArray

from . import cache
from .cache import Tensors

BLOCK = 1024  # images, at least, whose rows are written to disk at once

Read = Callable[[Tensor], Tensor]
Rows = Callable[[Tensor, Tensor], Tensors]
Observe = Callable[[Tensor, Tensor], Tensor]  # (images [B, C, H, W], their numbers [B]) -> observations, as images


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Images by their number: read(index [B] int64) -> [B, C, H, W] in [-1, 1].

    digest: of all that decides them, where that is known. kept: what is computed of them may be kept on disk.
    index_device: where `read` wants it.
    threaded: another thread may call `read`; not so where it compiles or captures CUDA graphs, which what happens
    beside it can break.
    """

    name: str
    count: int
    read: Read
    digest: str | None = None
    kept: bool = True
    index_device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    threaded: bool = True

    @classmethod
    def of(cls, images: Tensor, name: str = "images") -> "ImageSet":
        """Those of a tensor [N, C, H, W]."""
        return cls(name=name, count=len(images), read=lambda index: images[index])

    @classmethod
    def of_array(cls, source: ImageArray) -> "ImageSet":
        """Those of a source, as they are."""
        return cls(name=source.name, count=len(source), read=source.tensor, digest=array_digest(source))


def array_digest(source: ImageArray) -> str:
    return cache.digest(source.images, source.mask, source.sigma, source.maps)


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Mean [D] and covariance [D, D] of a reference's features that somebody published: all that FID needs of it."""

    name: str
    mean: np.ndarray
    covariance: np.ndarray
    digest: str


@dataclass
class Stopwatch:
    """Seconds by stage; stages of several threads overlap."""

    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, stage: str, since: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - since


def collect(
    images: ImageSet,
    rows: Rows,
    *,
    batch: int = 256,
    unfinished: str | None = None,
    title: str | None = None,
    watch: Stopwatch | None = None,
) -> Tensors:
    """rows(images [B, C, H, W], index [B]) -> {name: [B, ...]} of all images, on the CPU, in every process.

    unfinished: name under which finished blocks are kept on disk until all are there: a killed process's are taken up
    again. The rest as `in_turn`.
    """
    partial = cache.Partial(unfinished) if unfinished else None
    collected = partial.blocks() if partial else []
    done = processes.least(sum(map(_length, collected)))
    while sum(map(_length, collected)) > done:  # another process has less
        collected.pop()
    block: list[Tensors] = []
    for part in in_turn(images, rows, batch=batch, first=done, title=title, watch=watch):
        block.append(part)
        if partial is None or sum(map(_length, block)) >= BLOCK:
            collected.append(_joined(block))
            if partial is not None and processes.rank() == 0:
                partial.add(done, collected[-1])
            done += _length(collected[-1])
            block = []
    return _joined([*collected, *block])


def in_turn(
    images: ImageSet,
    rows: Rows,
    *,
    batch: int = 256,
    first: int = 0,
    title: str | None = None,
    watch: Stopwatch | None = None,
) -> Iterator[Tensors]:
    """rows(images [B, C, H, W], index [B]) -> {name: [B, ...]} of image number `first` and those after it, batch by
    batch, on the CPU, in every process.

    Each process takes its share of a batch, and a thread makes the next images while rows of these are computed.
    title: of a progress bar, on a terminal. watch: gets the seconds of "images" and "features".
    """
    watch = watch or Stopwatch()
    left = images.count - first
    hidden = title is None or processes.rank() != 0 or not sys.stderr.isatty()
    with tqdm(total=images.count, initial=first, desc=title, unit="images", disable=hidden) as bar:
        for index, some in _ahead(images, batch, first, watch):
            start = time.perf_counter()
            part = {name: processes.gather(t)[:left].cpu() for name, t in rows(some, index).items()}
            watch.add("features", start)
            left -= _length(part)
            bar.update(_length(part))
            yield part


def _joined(blocks: list[Tensors]) -> Tensors:
    return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]} if blocks else {}


def _length(block: Tensors) -> int:
    return len(next(iter(block.values())))


def _shares(images: ImageSet, batch: int, first: int, watch: Stopwatch) -> Iterator[tuple[Tensor, Tensor]]:
    """(index, images) of this process's shares."""
    for part in processes.shares(images.count, batch, first):
        start = time.perf_counter()
        index = torch.arange(part.start, part.stop, device=images.index_device)
        # What a share has beyond the last image is dropped when all are gathered.
        with torch.no_grad():
            some = images.read(index.clamp(max=images.count - 1))
        watch.add("images", start)
        yield index, some


def _ahead(images: ImageSet, batch: int, first: int, watch: Stopwatch) -> Iterator[tuple[Tensor, Tensor]]:
    """`_shares`, read by a thread, one batch ahead; with CUDA on a stream of its own."""
    if not images.threaded:
        yield from _shares(images, batch, first, watch)
        return
    coming: queue.Queue = queue.Queue(maxsize=1)
    stopped = threading.Event()
    cuda = images.index_device.type == "cuda"
    # Weights may still be on their way to the device on the caller's stream.
    here = torch.cuda.current_stream(images.index_device) if cuda else None

    def put(item: object) -> None:
        while not stopped.is_set():
            try:
                return coming.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            stream = torch.cuda.Stream(images.index_device) if cuda else None
            if stream is not None and here is not None:
                torch.cuda.set_device(images.index_device)  # a thread begins with the first
                stream.wait_stream(here)
            with torch.cuda.stream(stream):
                for index, some in _shares(images, batch, first, watch):
                    ready = torch.cuda.Event() if cuda else None
                    if ready is not None:
                        ready.record()
                    put((index, some, ready))
                    if stopped.is_set():
                        return
            put(None)
        except BaseException as error:  # is raised where it is waited for
            put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := coming.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            index, some, ready = item
            if ready is not None and here is not None:
                here.wait_event(ready)
                some.record_stream(here)
                index.record_stream(here)
            yield index, some
    finally:
        stopped.set()
        thread.join()
