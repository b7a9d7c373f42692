"""Drawing images from a run of either kind, batch by batch, on one device or in several processes."""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import objectives, processes
from .config import Distill
from .corruptions import Corruption, View
from .cuda_graphs import Graphed
from .errors import FieldError
from .generator import checked_labels, drawn_labels, latents
from .loading import load, model_file
from .methods import Teacher, generate
from .methods.base import sampling_operator
from .networks import cast_weights, compile_network, set_precision
from .ops import Key


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a run's samples are drawn.

    steps: of Heun's method, for a teacher. truncate: stop a teacher's sampling at sigma_obs, below which it was not
    trained, and return D there. precision: of the network, fp32, tf32 or bf16. compile: `torch.compile` the network,
    anew for each size of batch. cuda_graphs: draw a batch, all of Heun's steps, by replaying a CUDA graph, which the
    second batch in a row of one size and seed records; an operator of one's own then must read nothing on the host.
    """

    steps: int = 18
    truncate: bool = False
    precision: str = "fp32"
    compile: bool = False
    cuda_graphs: bool = False


class Sampler:
    """Draws images from a run of either kind, batch by batch; image i is a function of (seed, i) and its class.

    how: the fields of `Sampling`. corruption: the operator of the run, where its SPEC does not say all.
    Raises FieldError for options that do not apply to the run or the device.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        device: str | torch.device = "cpu",
        *,
        corruption: Corruption | None = None,
        **how: Any,
    ):
        self.device, self.how = torch.device(device), Sampling(**how)
        if self.how.cuda_graphs and self.device.type != "cuda":
            raise FieldError("cuda_graphs", "only CUDA devices have them; use --device cuda")
        self.file = model_file(path)
        self.denoiser, self.config, self.kimg = load(self.file, device, corruption=corruption)
        set_precision(self.denoiser, self.how.precision)
        cast_weights(self.denoiser)
        if self.how.compile:
            compile_network(self.denoiser)
        observations = self.config.observations
        self.one_step = isinstance(self.config, Distill)
        self.stop_at = observations.sigma_least if self.how.truncate else None
        if self.how.truncate and (self.one_step or not self.stop_at):
            what = "a one-step generator" if self.one_step else "a teacher of observations without noise"
            raise FieldError("truncate", f"{path} holds {what}; there is nothing to truncate")
        self.shape = observations.image_shape if self.one_step else observations.observation_shape
        self.objective = objectives.create(self.config.objective)
        self.corruption = sampling_operator(self.config, self.denoiser, corruption)
        self.graph: tuple[tuple[int, int, int], Graphed] | None = None  # for a (seed, size of batch, tensors of labels)

    @property
    def label_dim(self) -> int:
        """Number of classes of a conditional run; 0 for another."""
        return self.denoiser.label_dim

    def labels(self, num: int, seed: int = 0, labels: Tensor | int | None = None) -> Tensor | None:
        """The classes that `batches` gives its images, [num] int64 on the CPU; None for an unconditional run."""
        classes = checked_labels(labels, self.label_dim, num)
        if classes is None:
            classes = drawn_labels(self.label_dim, torch.arange(num, device=self.device), seed)
        return None if classes is None else classes.cpu()

    @torch.no_grad()
    def draw(self, index: Tensor, seed: int, labels: Tensor | None = None) -> Tensor:
        """Images number `index` [B] of `seed`: float32 [B, C, H, W], about [-1, 1] (not clipped).

        labels: their class indices [B]; None: those that a conditional run draws. They are not checked, which would
        wait for the device.
        """
        index, *classes = (t.to(self.device) for t in (index, labels) if t is not None)
        if not self.how.cuda_graphs:
            return self._draw(index, seed, *classes)
        kind = (seed, len(index), len(classes))
        if self.graph is None or self.graph[0] != kind:
            # The first batch of its kind warms up, at no cost, and a graph that only it used would not pay.
            self.graph = kind, Graphed(lambda index, *classes: self._draw(index, seed, *classes), warmup=0)
            return self._draw(index, seed, *classes)
        with torch.cuda.device_of(index):  # the device whose launches a capture sees
            return self.graph[1](index, *classes).clone()  # for the next replay overwrites it

    def _draw(self, index: Tensor, seed: int, classes: Tensor | None = None) -> Tensor:
        """Waits for nothing on the host, so that it can be captured."""
        z, labels = latents(self.shape, self.label_dim, index, seed, classes)
        if isinstance(self.config, Distill):
            view = self.view(index, seed)
            return generate(self.denoiser, z, self.config.distillation.sigma_init, labels, view)
        teacher = Teacher(self.denoiser, self.corruption, self.config.observations.image_shape, self.objective)
        return teacher.sample(z, index, seed, labels=labels, steps=self.how.steps, stop_at=self.stop_at)

    def view(self, index: Tensor, seed: int) -> View:
        """What a generator sees of the latents number `index` [B] of `seed`."""
        return self.objective.latent_view(self.corruption, self.config.observations.image_shape, Key(seed, index))

    def batches(
        self,
        num: int,
        seed: int = 0,
        batch: int = 256,
        finish: Callable[[Tensor], Tensor] | None = None,
        labels: Tensor | int | None = None,
    ) -> Iterator[Tensor]:
        """`num` images in all, float32 [B, C, H, W] as `draw` makes them, in order, on the CPU.

        batch: images at a time in every process, at most. finish: applied to each batch where it is drawn, before it
        travels; what it returns is yielded. labels: class indices, one for each image or one for all; None: those that
        a conditional run draws. From a CUDA device a batch comes when the next one is queued there. Raises FieldError
        for labels that do not fit.
        """
        classes = checked_labels(labels, self.label_dim, num)
        return _brought(self._batches(num, seed, batch, finish, classes))

    def _batches(
        self, num: int, seed: int, batch: int, finish: Callable[[Tensor], Tensor] | None, classes: Tensor | None
    ) -> Iterator[Tensor]:
        left, read = num, self.reader(seed, min(batch, math.ceil(num / processes.world_size())))
        if classes is not None:  # a part may go beyond the last image
            classes = torch.cat([classes, classes[-1:].expand(batch * processes.world_size())]).to(self.device)
        for part in processes.shares(num, batch):
            # Made on the device: copying it there would wait for all before it.
            index = torch.arange(part.start, part.stop, device=self.device)
            images = read(index) if classes is None else read(index, classes[part.start : part.stop])
            yield processes.gather(images if finish is None else finish(images))[:left]
            left -= len(part) * processes.world_size()

    def reader(self, seed: int, batch: int) -> Callable[..., Tensor]:
        """read(index) or read(index, labels): `draw` for batches of at most `batch`.

        A smaller one would be compiled and captured again, which costs more than the images that fill it up.
        """
        if not (self.how.compile or self.how.cuda_graphs):
            return lambda index, *labels: self.draw(index, seed, *labels)

        def read(index: Tensor, *labels: Tensor) -> Tensor:
            more = torch.arange(1, 1 + batch - len(index), device=index.device)
            filled = (torch.cat([t, t[-1:].expand(len(more))]) for t in labels)
            return self.draw(torch.cat([index, index[-1] + more]), seed, *filled)[: len(index)]

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
