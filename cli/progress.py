"""Progress of image streams on stderr, and their place among several processes."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor
from tqdm import tqdm

from rsd_fast import processes


def counted(batches: Iterable[Tensor], total: int, title: str) -> Iterator[Tensor]:
    """The batches, with a bar on a terminal and nothing elsewhere."""
    hidden = processes.rank() != 0 or not sys.stderr.isatty()
    with tqdm(total=total, desc=title, unit="images", disable=hidden) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))


@contextmanager
def in_processes(device: str) -> Iterator[bool]:
    """In the process group, if torchrun started several; yields whether this is the process that writes."""
    with processes.process_group(processes.local_device(device)):
        yield processes.rank() == 0
        processes.barrier()
