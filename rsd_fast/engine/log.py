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

from rsd_fast import files

from . import distributed


class Statistics:
    """Count, sum, least and greatest of named values since the last `summary`; no host synchronisation before it."""

    def __init__(self) -> None:
        self.moments: dict[str, Tensor] = {}  # [2]: count, sum
        self.extremes: dict[str, Tensor] = {}  # [2]: -least, greatest

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

    def summary(self) -> dict[str, tuple[float, float, float]]:
        """{name: (mean, least, greatest)} over all processes; starts anew."""
        result = {}
        for name in sorted(self.moments):
            count, total = distributed.reduce(self.moments[name], "sum").tolist()
            least, greatest = distributed.reduce(self.extremes[name], "max").tolist()
            result[name] = (total / count, -least, greatest)
        self.moments, self.extremes = {}, {}
        return result


class Log:
    """Appends an object a tick to log.jsonl and shows it; silent on every process but the first."""

    def __init__(self, path: Path, *, total_kimg: float, kimg: float, title: str):
        self.path = path
        self.active = distributed.rank() == 0
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
        losses = {key: value for key, value in record.items() if key.endswith("_loss")}
        shown = ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in losses.items())
        rate = f"{record['images_per_sec']:.4g} images/s"
        if self.bar.disable:
            print(
                f"{self.title} {record['kimg']:.2f}/{self.total_kimg:.2f} kimg, {shown}, {rate}, "
                f"{record['seconds']:.0f} s",
                file=sys.stderr,
                flush=True,
            )
        else:
            self.bar.set_postfix_str(f"{shown}, {rate}", refresh=True)

    def close(self) -> None:
        self.bar.close()


def peak_memory_gb(device: torch.device) -> float:
    """Largest memory held so far: the device's allocations with CUDA, else the process's resident size."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _drop_after(path: Path, kimg: float) -> None:
    """Drop the records after `kimg`: a resumed run writes them again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # the line a kill cut short
            continue
        if record["kimg"] <= kimg:
            kept.append(line + "\n")
    files.write_text(path, "".join(kept))
