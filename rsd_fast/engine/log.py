"""What a run says while it works: log.jsonl, a progress bar or lines on stderr, statistics gathered on the device."""

import json
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from rsd_fast import files, processes
from rsd_fast.runs import read_lines

from .publish import Publisher

SIGMA_EDGES = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 80.0)  # between bands of noise levels; the last band takes what is beyond


class Statistics:
    """Count, sum, least and greatest of named values since the last `summary`; no host synchronisation before it."""

    def __init__(self) -> None:
        self.moments: dict[str, Tensor] = {}  # [2]: count, sum
        self.extremes: dict[str, Tensor] = {}  # [2]: -least, greatest
        self.bands: dict[str, Tensor] = {}  # [2, bands]: count, sum

    @torch.no_grad()
    def add(self, name: str, values: Tensor) -> None:
        values = values.detach().to(torch.float64).flatten()
        count = torch.full((), values.numel(), dtype=values.dtype, device=values.device)
        moments = torch.stack([count, values.sum()])
        extremes = torch.stack([-values.min(), values.max()])
        if name in self.moments:
            self.moments[name] += moments
            self.extremes[name] = torch.maximum(self.extremes[name], extremes)
        else:
            self.moments[name], self.extremes[name] = moments, extremes

    @torch.no_grad()
    def add_by_sigma(self, name: str, values: Tensor, sigma: Tensor) -> None:
        """values and their noise levels, both [B]."""
        levels = sigma.detach().flatten()[:, None]
        above = torch.stack([levels >= edge for edge in SIGMA_EDGES[1:-1]], 1).sum(1)  # [B, 1]
        band = (above == torch.arange(len(SIGMA_EDGES) - 1, device=above.device)).to(torch.float64)
        sums = torch.stack([band.sum(0), values.detach().to(torch.float64).flatten() @ band])
        self.bands[name] = self.bands[name] + sums if name in self.bands else sums

    def by_sigma(self) -> dict[str, Any]:
        """{"edges": the bands' edges, name: the means in the bands, None where no value fell}, over all processes.

        It starts anew.
        """
        result: dict[str, Any] = {"edges": list(SIGMA_EDGES)} if self.bands else {}
        for name in sorted(self.bands):
            counts, totals = processes.reduce(self.bands[name], "sum").tolist()
            result[name] = [total / count if count else None for count, total in zip(counts, totals, strict=True)]
        self.bands = {}
        return result

    def summary(self) -> dict[str, tuple[float, float, float]]:
        """{name: (mean, least, greatest)} over all processes. It starts anew."""
        result = {}
        for name in sorted(self.moments):
            count, total = processes.reduce(self.moments[name], "sum").tolist()
            least, greatest = processes.reduce(self.extremes[name], "max").tolist()
            result[name] = (total / count, -least, greatest)
        self.moments, self.extremes = {}, {}
        return result


class Log:
    """Appends an object a tick to log.jsonl, prints and publishes it; it is silent in every process but the first.

    headline: names of the values that the progress line has.
    """

    def __init__(
        self, path: Path, *, total_kimg: float, kimg: float, title: str, headline: tuple[str, ...], publisher: Publisher
    ) -> None:
        self.path, self.headline, self.publisher = path, headline, publisher
        self.active = processes.rank() == 0
        terminal = self.active and sys.stderr.isatty()
        self.title = title
        self.total_kimg = total_kimg
        self.bar = tqdm(
            total=round(total_kimg, 3),
            initial=round(kimg, 3),
            unit="kimg",
            desc=title,
            disable=not terminal,
            ncols=shutil.get_terminal_size().columns,  # a terminal that does not know its width has 80
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} kimg [{elapsed}<{remaining}{postfix}]",
        )
        if self.active:
            _drop_after(path, kimg)

    def advance(self, kimg: float) -> None:
        if not self.bar.disable:
            self.bar.update(kimg - self.bar.n)

    def say(self, line: str) -> None:
        if self.active:
            tqdm.write(f"{self.title}: {line}", file=sys.stderr)

    def tick(self, record: dict[str, Any]) -> None:
        if not self.active:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.publisher.scalars(record, record["kimg"])
        headline = ", ".join(f"{key.replace('_', ' ')} {record[key]:.4g}" for key in self.headline)
        rate = f"{record['images_per_sec']:.4g} images/s"
        if self.bar.disable:
            print(
                f"{self.title} {record['kimg']:.2f}/{self.total_kimg:.2f} kimg, {headline}, {rate}, "
                f"{record['seconds']:.0f} s",
                file=sys.stderr,
                flush=True,
            )
        else:
            self.bar.set_postfix_str(f"{headline}, {rate}", refresh=True)

    def close(self) -> None:
        self.bar.close()
        self.publisher.close()


def peak_memory_gb(device: torch.device) -> float:
    """The most memory held so far, GiB: what is allocated on a CUDA device, else the process's resident size."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _drop_after(path: Path, kimg: float) -> None:
    """Drop the records after `kimg`: a resumed run writes them again."""
    if not path.exists():
        return
    kept = [json.dumps(record) + "\n" for record in read_lines(path) if record["kimg"] <= kimg]
    files.write_text(path, "".join(kept))
