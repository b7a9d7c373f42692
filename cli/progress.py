"""The place of a command among several processes."""

from collections.abc import Iterator
from contextlib import contextmanager

from rsd_fast import processes


@contextmanager
def in_processes(device: str) -> Iterator[bool]:
    """In the process group, if torchrun started several; yields whether this is the process that writes."""
    with processes.process_group(processes.local_device(device)):
        yield processes.rank() == 0
        processes.barrier()
