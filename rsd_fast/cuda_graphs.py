"""CUDA graphs: what a function launches, recorded once and replayed at the cost of one launch."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


def capture(function: Callable[[], Any], pool: Any = None) -> Callable[[], Any]:
    """A replay of function(), which must neither read a value on the host nor launch anything that depends on one.

    The function is recorded, and not run. The replay returns what the function returned when it was recorded, and
    every replay overwrites the tensors in that. pool: a `torch.cuda.graph_pool_handle()`, the memory that graphs share
    which are replayed in the order of their capture.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        outputs = function()

    def replay() -> Any:
        graph.replay()
        return outputs

    return replay


@contextlib.contextmanager
def on_stream(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """Queue what is within on `stream`: it runs after what was queued here before, and before what is queued after."""
    if stream is None:
        yield
        return
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


class Graphed:
    """function(*tensors) in a CUDA graph for each signature (shapes, strides, dtypes, devices) of its arguments.

    The next call overwrites what it returns. warmup: how often the function is run, on another stream, before it is
    recorded, so that what it allocates once, and chooses by trying, is done by then; 0 for a function that changes
    anything but what it returns, which its owner has to warm up. capture: takes the place of `capture` in tests.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        warmup: int = 2,
        pool: Any = None,
        capture: Callable[[Callable[[], Any], Any], Callable[[], Any]] = capture,
    ) -> None:
        self.function, self.warmup, self.pool, self.capture = function, warmup, pool, capture
        self.recorded: dict[Any, tuple[list[Tensor], Callable[[], Any]]] = {}

    def __call__(self, *arguments: Tensor) -> Any:
        signature = tuple((t.shape, t.stride(), t.dtype, t.device) for t in arguments)
        if signature not in self.recorded:
            self.recorded[signature] = self.record(arguments)
        inputs, replay = self.recorded[signature]
        for kept, argument in zip(inputs, arguments, strict=True):
            kept.copy_(argument, non_blocking=True)
        return replay()

    def record(self, arguments: tuple[Tensor, ...]) -> tuple[list[Tensor], Callable[[], Any]]:
        inputs = [torch.empty_like(t) for t in arguments]
        for kept, argument in zip(inputs, arguments, strict=True):
            kept.copy_(argument)
        if self.warmup:
            with on_stream(torch.cuda.Stream() if torch.cuda.is_available() else None):
                for _ in range(self.warmup):
                    self.function(*inputs)
        return inputs, self.capture(lambda: self.function(*inputs), self.pool)
