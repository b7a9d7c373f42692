"""Several processes, as `torchrun` starts them: their numbers, their shares of the work, what they tell each other."""

import contextlib
import math
import os
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from rsd_fast.errors import FieldError


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def share(batch: int, micro_batch: int | str | None) -> int:
    """Images of a batch that fall to each process. Raises FieldError where processes or micro-batches do not fit."""
    parts = micro_batch if isinstance(micro_batch, int) else 1
    if batch % (world_size() * parts):
        raise FieldError("batch", f"{batch} is not divisible by {world_size()} processes x micro-batch {parts}")
    return batch // world_size()


def shares(num: int, batch: int, first: int = 0) -> Iterator[range]:
    """This process's part of each batch of things number `first` .. num - 1, at most `batch` of them in every process.

    Parts are equal in all processes, as gathering needs, and may go beyond num: cut what `gather` makes of them there.
    """
    while first < num:
        part = min(batch, math.ceil((num - first) / world_size()))
        start = first + rank() * part
        yield range(start, start + part)
        first += part * world_size()


def local_device(device: str) -> torch.device:
    """The device of this process: with CUDA, the one of its local rank."""
    if device == "cuda" and world_size() > 1:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return torch.device(device)


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Within, there is the default process group, where there are several processes."""
    if world_size() == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def sum_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Add up every parameter's gradient over the processes, in one message."""
    if world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def reduce(values: Tensor, op: str) -> Tensor:
    """`values` combined over the processes; op is "sum", "min" or "max"."""
    if world_size() > 1:
        values = _sendable(values)
        dist.all_reduce(values, getattr(dist.ReduceOp, op.upper()))
    return values


def least(number: int | bool) -> int:
    """The least of the processes' numbers."""
    return int(reduce(torch.tensor(int(number)), "min"))


def broadcast(flag: bool) -> bool:
    """What the first process says, in every process."""
    if world_size() == 1:
        return flag
    answer = _sendable(torch.tensor(int(flag)))
    dist.broadcast(answer, src=0)
    return bool(answer)


def _sendable(values: Tensor) -> Tensor:
    """The values on a device from which the group's backend sends."""
    return values.cuda() if dist.get_backend() == "nccl" else values


def gather(values: Tensor) -> Tensor:
    """Every process's `values`, equal in shape, one after another along the first dimension."""
    if world_size() == 1:
        return values
    values = _sendable(values)
    parts = [torch.empty_like(values) for _ in range(world_size())]
    dist.all_gather(parts, values.contiguous())
    return torch.cat(parts)


def barrier() -> None:
    if world_size() > 1:
        dist.barrier()
