"""Drawing images from a run of either kind, batch by batch, on one device or in several processes."""

import math
import os
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from . import objectives, processes
from .config import Distill
from .corruptions import Corruption, Identity, View
from .cuda_graphs import Graphed
from .errors import FieldError
from .generator import latents
from .loading import load, model_file
from .methods import Teacher, generate
from .methods.base import corruption_of
from .networks import cast_weights, compile_network, set_precision
from .ops import Key


class Sampler:
    """Draws images from a run of either kind, batch by batch; image i is a function of (seed, i) alone.

    steps: of Heun's method, for a teacher. truncate: stop a teacher's sampling at sigma_obs, below which it was not
    trained, and return D there. compile: `torch.compile` the network, anew for each size of batch. cuda_graphs: draw a
    batch, all of Heun's steps, by replaying a CUDA graph, which the second batch in a row of one size and seed records;
    an operator of one's own then must read nothing on the host.
    Raises ValueError for options that do not apply to the run or the device.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        device: str | torch.device = "cpu",
        *,
        steps: int = 18,
        truncate: bool = False,
        precision: str = "fp32",
        compile: bool = False,
        cuda_graphs: bool = False,
        corruption: Corruption | None = None,
    ):
        self.device = torch.device(device)
        if cuda_graphs and self.device.type != "cuda":
            raise FieldError("cuda_graphs", "only CUDA devices have them; use --device cuda")
        self.file = model_file(path)
        self.denoiser, self.config, self.kimg = load(self.file, device)
        set_precision(self.denoiser, precision)
        cast_weights(self.denoiser)
        self.compiled = compile
        if compile:
            compile_network(self.denoiser)
        self.steps = steps
        observations = self.config.observations
        self.one_step = isinstance(self.config, Distill)
        self.stop_at = observations.sigma_least if truncate else None
        if truncate and (self.one_step or not self.stop_at):
            what = "a one-step generator" if self.one_step else "a teacher of observations without noise"
            raise FieldError("truncate", f"{path} holds {what}; there is nothing to truncate")
        self.shape = observations.image_shape if self.one_step else observations.observation_shape
        self.objective = objectives.create(self.config.objective)
        self.corruption: Corruption = Identity()  # where whole images are seen, no other is needed
        if self.config.objective.conditional:
            self.corruption = corruption_of(observations, self.denoiser, corruption)
        self.cuda_graphs = cuda_graphs
        self.graph: tuple[tuple[int, int], Graphed] | None = None  # of a (seed, size of batch)

    @torch.no_grad()
    def draw(self, index: Tensor, seed: int) -> Tensor:
        """Images number `index` [B] of `seed`: float32 [B, C, H, W], about [-1, 1] (not clipped)."""
        index = index.to(self.device)
        if not self.cuda_graphs:
            return self._draw(index, seed)
        kind = (seed, len(index))
        if self.graph is None or self.graph[0] != kind:
            # The first batch of its kind warms up, at no cost, and a graph for it alone would not pay.
            self.graph = kind, Graphed(lambda index: self._draw(index, seed), warmup=0)
            return self._draw(index, seed)
        with torch.cuda.device_of(index):  # the device whose launches a capture sees
            return self.graph[1](index).clone()  # for the next replay overwrites it

    def _draw(self, index: Tensor, seed: int) -> Tensor:
        """Waits for nothing on the host, so that it can be captured."""
        z, labels = latents(self.shape, self.denoiser.label_dim, index, seed)
        if isinstance(self.config, Distill):
            view = self.view(index, seed)
            return generate(self.denoiser, z, self.config.distillation.sigma_init, labels, view)
        teacher = Teacher(self.denoiser, self.corruption, self.config.observations.image_shape, self.objective)
        return teacher.sample(z, index, seed, labels=labels, steps=self.steps, stop_at=self.stop_at)

    def view(self, index: Tensor, seed: int) -> View:
        """What a generator sees of the latents number `index` [B] of `seed`."""
        return self.objective.latent_view(self.corruption, self.shape, Key(seed, index))

    def batches(
        self, num: int, seed: int = 0, batch: int = 256, finish: Callable[[Tensor], Tensor] | None = None
    ) -> Iterator[Tensor]:
        """`num` images in all, in order, on the CPU; at most `batch` at a time in every process.

        finish: applied to each batch [B, C, H, W] where it is drawn, before it travels; what it returns is yielded.
        From a CUDA device a batch comes when the next one is queued there.
        """
        return _brought(self._batches(num, seed, batch, finish))

    def _batches(self, num: int, seed: int, batch: int, finish: Callable[[Tensor], Tensor] | None) -> Iterator[Tensor]:
        left, read = num, self.reader(seed, min(batch, math.ceil(num / processes.world_size())))
        for part in processes.shares(num, batch):
            # Made on the device: copying it there would wait for all before it.
            images = read(torch.arange(part.start, part.stop, device=self.device))
            yield processes.gather(images if finish is None else finish(images))[:left]
            left -= len(part) * processes.world_size()

    def reader(self, seed: int, batch: int) -> Callable[[Tensor], Tensor]:
        """`draw` for batches of at most `batch`. A smaller one would be compiled and captured again, which costs more
        than the images that fill it up."""
        if not (self.compiled or self.cuda_graphs):
            return lambda index: self.draw(index, seed)

        def read(index: Tensor) -> Tensor:
            more = torch.arange(1, 1 + batch - len(index), device=index.device)
            return self.draw(torch.cat([index, index[-1] + more]), seed)[: len(index)]

        return read


class _Coming:
    """A batch on its way from a CUDA device to the CPU."""

    def __init__(self, batch: Tensor) -> None:
        self.copied = batch.to("cpu", non_blocking=True)  # into pinned memory
        self.arrived = torch.cuda.Event(blocking=True)
        self.arrived.record(torch.cuda.current_stream(batch.device))

    def wait(self) -> Tensor:
        self.arrived.synchronize()
        return self.copied.clone()  # out of pinned memory, of which a caller may keep too much


def _brought(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Each on the CPU; one of a CUDA device once the next one is queued, so that the device does not idle meanwhile."""
    coming = None
    for batch in batches:
        if batch.device.type != "cuda":
            yield batch
            continue
        before, coming = coming, _Coming(batch)
        if before is not None:
            yield before.wait()
    if coming is not None:
        yield coming.wait()
