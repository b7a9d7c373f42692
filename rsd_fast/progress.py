"""Progress of streams of images, on stderr."""

import sys
from collections.abc import Iterable, Iterator

from torch import Tensor
from tqdm import tqdm

from . import processes


def counted(batches: Iterable[Tensor], total: int, title: str) -> Iterator[Tensor]:
    """The batches, with a bar on a terminal and nothing elsewhere."""
    is_hidden = processes.rank() != 0 or not sys.stderr.isatty()
    with tqdm(total=total, desc=title, unit="images", disable=is_hidden) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))
