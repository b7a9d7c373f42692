"""Trained networks from a run directory, a checkpoint folder, a model.safetensors file or the Hugging Face hub."""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import corruptions, networks, ops
from .config import Distill, Network, Observations, Pretrain, RunConfig
from .corruptions import DrawnCorruption, Fourier, View
from .engine import distributed
from .engine.checkpoint import POINTERS, Run, RunError, load_into, load_model, read_record
from .graphs import Graphed
from .hub.fetch import fetch, means_id
from .methods.base import corruption_of, sample_teacher
from .methods.distill import generate, latent_view
from .networks import Denoiser, cast_weights, compile_network, one_hot, set_precision


class Generator(nn.Module):
    """A one-step generator: images = D(sigma_init z, sigma_init) of latents z ~ N(0, I).

    image_shape is [C, H, W]; label_dim the number of classes, 0 for none; config the run's.
    """

    def __init__(self, denoiser: Denoiser, config: Distill):
        super().__init__()
        self.denoiser = denoiser
        self.config = config
        self.sigma_init = config.distillation.sigma_init
        self.image_shape = config.observations.image_shape
        self.label_dim = denoiser.label_dim
        self.corruption = corruption_of(config.observations, denoiser) if config.objective.conditional else None

    def forward(self, latents: Tensor, labels: Tensor | None = None, view: View | None = None) -> Tensor:
        """latents [B, C, H, W], labels [B, label_dim] one-hot or None -> images [B, C, H, W], about [-1, 1].

        view: what a generator from masked images or k-space sees of its latents, by `view`; None: all.
        """
        return generate(self.denoiser, latents, self.sigma_init, labels, view)

    def view(self, index: Tensor, seed: int) -> View | None:
        """As in training, drawn for the samples number `index` [B] of `seed`; None for a generator that sees all."""
        return latent_view(self.config, self.corruption, index, seed)

    def latent_mask(self, index: Tensor, seed: int) -> Tensor:
        """What of the latents that view leaves: the mask [B, ...] of a generator from masked images or k-space."""
        assert isinstance(self.corruption, DrawnCorruption)
        return self.corruption.latent_draw(self.image_shape, index, seed, self.config.objective.delta).mask

    @torch.no_grad()
    def sample(self, num: int, seed: int = 0, *, labels: Tensor | None = None, batch: int = 256) -> Tensor:
        """`num` images, float32 [num, C, H, W] clipped to [-1, 1]; image i is a function of (seed, i) alone.

        labels: [num] class indices; a conditional generator draws them uniformly where they are not given.
        batch: images a forward pass. Raises ValueError if num < 1 or labels do not fit.
        """
        if num < 1:
            raise ValueError(f"num: expected at least 1, got {num}")
        device = next(self.parameters()).device
        images = []
        for first in range(0, num, batch):
            index = torch.arange(first, min(first + batch, num), device=device)
            z, one_hot_labels = latents(self.image_shape, self.label_dim, index, seed, labels)
            images.append(self(z, one_hot_labels, self.view(index, seed)).clamp(-1, 1))
        return torch.cat(images)


def latents(
    shape: tuple[int, int, int], label_dim: int, index: Tensor, seed: int, labels: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """(z [B, *shape] ~ N(0, I), one-hot labels [B, label_dim] or None) of the samples number `index` [B] of `seed`.

    labels: class indices by sample number; where they are not given, uniform over the classes.
    """
    z = ops.randn((len(index), *shape), seed, index, 0, ops.Stream.LATENT)
    if not label_dim:
        if labels is not None:
            raise ValueError("labels: the network is not conditional on labels")
        return z, None
    if labels is None:
        classes = (ops.uniform((len(index),), seed, index, 0, ops.Stream.LABEL) * label_dim).long()
    else:
        if len(labels) <= int(index.max()):
            raise ValueError(f"labels: expected one for each image, got {len(labels)}")
        classes = labels.to(index.device)[index]
        if int(classes.min()) < 0 or int(classes.max()) >= label_dim:
            raise ValueError(f"labels: expected 0 to {label_dim - 1}, got {int(classes.min())} to {int(classes.max())}")
    return z, one_hot(classes, label_dim)


def load_generator(path: str | os.PathLike, device: str | torch.device = "cpu") -> Generator:
    """The one-step generator of a distillation, averaged weights, in evaluation mode.

    path: a run directory (its latest checkpoint), a checkpoint folder, a model.safetensors file, or the id of a model
    on the Hugging Face hub, `user/name` or `user/name@revision`.
    Raises RunError, one line that names the path, where it holds none.
    """
    denoiser, config, _ = load(path, device)
    if not isinstance(config, Distill):
        raise RunError(f"{path}: holds a teacher, not a one-step generator; make one with rsd-fast distill")
    return Generator(denoiser, config).eval()


def load_denoiser(path: str | os.PathLike, device: str | torch.device = "cpu") -> Denoiser:
    """The teacher D(x, sigma) of a pretraining, averaged weights, in evaluation mode. Arguments as load_generator."""
    denoiser, config, _ = load(path, device)
    if not isinstance(config, Pretrain):
        raise RunError(f"{path}: holds a one-step generator, not a teacher; use load_generator")
    return denoiser


class Loaded(NamedTuple):
    network: Denoiser  # averaged weights, frozen
    config: RunConfig  # of its run
    kimg: float  # thousand images it was trained on


def load(path: str | os.PathLike, device: str | torch.device = "cpu", *, trusted: bool = False) -> Loaded:
    """The product of a run of either kind. Arguments and errors as load_generator.

    An operator in a module of one's own is imported for runs alone, and for files that are `trusted`.
    """
    file = model_file(path)
    tensors, metadata = load_model(file)
    try:
        config, kimg = read_record(metadata)
        if not trusted and Run.of(file) is None:
            refuse_foreign(config)
        with torch.device("meta"):  # so that nothing is allocated that the file does not hold
            denoiser = build_denoiser(config)
    except ValueError as error:
        raise RunError(f"{file}: {error}") from None
    denoiser.hold_banks(tensors)
    load_into(denoiser, tensors, file, assign=True)
    denoiser = denoiser.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Loaded(denoiser.eval().requires_grad_(False), config, kimg)


def refuse_foreign(config: RunConfig) -> None:
    """ValueError for an operator that is none, or is in a module that is not imported: a file must not choose that."""
    try:
        with corruptions.without_imports():
            corruptions.parse(config.observations.corruption)
    except RecursionError:
        raise ValueError("names an operator of too many parts") from None


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
    ):
        self.device = torch.device(device)
        if cuda_graphs and self.device.type != "cuda":
            raise ValueError("cuda_graphs: only CUDA devices have them; use --device cuda")
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
            raise ValueError(f"truncate: {path} holds {what}; there is nothing to truncate")
        self.shape = observations.image_shape if self.one_step else observations.observation_shape
        conditional = self.config.objective.conditional  # else A, perhaps somebody else's, is not needed
        self.corruption = corruption_of(observations, self.denoiser) if conditional else None
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
            view = latent_view(self.config, self.corruption, index, seed)
            return generate(self.denoiser, z, self.config.distillation.sigma_init, labels, view)
        return sample_teacher(
            self.denoiser,
            self.corruption,
            self.config.observations.image_shape,
            self.config.objective,
            z,
            index,
            seed,
            labels=labels,
            steps=self.steps,
            stop_at=self.stop_at,
        )

    def batches(
        self, num: int, seed: int = 0, batch: int = 256, finish: Callable[[Tensor], Tensor] | None = None
    ) -> Iterator[Tensor]:
        """`num` images in all, in order, on the CPU; at most `batch` at a time in every process.

        finish: applied to each batch [B, C, H, W] where it is drawn, before it travels; what it returns is yielded.
        From a CUDA device a batch comes when the next one is queued there.
        """
        return _brought(self._batches(num, seed, batch, finish))

    def _batches(self, num: int, seed: int, batch: int, finish: Callable[[Tensor], Tensor] | None) -> Iterator[Tensor]:
        left, read = num, self.reader(seed, min(batch, math.ceil(num / distributed.world_size())))
        for part in distributed.shares(num, batch):
            # Made on the device: copying it there would wait for all before it.
            images = read(torch.arange(part.start, part.stop, device=self.device))
            yield distributed.gather(images if finish is None else finish(images))[:left]
            left -= len(part) * distributed.world_size()

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


def model_file(path: str | os.PathLike) -> Path:
    """The model.safetensors that `path` means: a file of that kind, a checkpoint's folder, RUN, which means its newest
    checkpoint, RUN/best, or a name on the hub. Raises RunError."""
    name, path = path, Path(path)
    if path.is_file() and path.name in POINTERS:
        return Run(path.parent).named(path.name) / "model.safetensors"
    if path.is_file():
        return path
    if not path.exists() and means_id(name):
        return fetch(os.fspath(name))
    if not path.exists():
        raise RunError(f"{path}: no such run, checkpoint folder or file")
    if (path / "model.safetensors").is_file():
        return path / "model.safetensors"
    if not (path / "config.json").is_file():
        raise RunError(f"{path}: not a run (it has no config.json)")
    return Run(path).latest() / "model.safetensors"


def _hidden(observations: Observations) -> str:
    """What a network may not see of its images: `networks.Denoiser`."""
    with torch.device("cpu"):  # where a network is built on another, the operator's kernel need not be there
        corruption = corruptions.parse(observations.corruption)
    if not isinstance(corruption, Fourier):
        return "pixels"
    return "columns" if corruption.coils == 1 and not corruption.real else "all"  # where A* A is a projection


def build_denoiser(config: RunConfig) -> Denoiser:
    """A network with fresh weights, of the shapes and settings of a run. Raises ValueError on what does not fit."""
    observations = config.observations
    channels, masked = observations.image_shape[0], config.objective.conditional
    _, height, width = observations.observation_shape
    levels = len(config.network.channel_mult)
    if height % 2 ** (levels - 1) or width % 2 ** (levels - 1):
        raise ValueError(
            f"{observations.data}: {height}x{width} images do not divide by {2 ** (levels - 1)}, as a network of "
            f"{levels} levels needs; pad or crop them, or give channel_mult fewer entries"
        )
    hidden = "pixels"
    if masked:
        hidden = "sigma" if config.network.hidden_noise == "sigma" else _hidden(observations)
    return build_network(
        config.network,
        (channels, height, width),
        label_dim=observations.label_dim,
        condition_channels=channels if masked else 0,
        hidden=hidden,
    )


def build_network(
    network: Network,
    image_shape: tuple[int, int, int],
    *,
    label_dim: int = 0,
    condition_channels: int = 0,
    hidden: str = "pixels",
) -> Denoiser:
    """A network with fresh weights for images [C, H, W], of a config's settings, or of a preset's:
    `build_network(Network(**presets.load("edm-cifar10").network), (3, 32, 32))`. The rest as `networks.create`."""
    channels, height, _ = image_shape
    levels = len(network.channel_mult)
    if max(network.attn_levels, default=0) >= levels or min(network.attn_levels, default=0) < 0:
        raise ValueError(f"attn_levels: {list(network.attn_levels)} are not among the {levels} levels")
    return networks.create(
        network.architecture,
        image_size=height,
        in_channels=channels,
        out_channels=channels,
        model_channels=network.model_channels,
        channel_mult=network.channel_mult,
        num_blocks=network.num_blocks,
        attn_resolutions=tuple(height >> level for level in network.attn_levels),
        label_dim=label_dim,
        augment_dim=network.augment_dim,
        dropout=network.dropout,
        sigma_data=network.sigma_data,
        label_dropout=network.label_dropout,
        gated=network.gated,
        preconditioning=network.preconditioning,
        condition_channels=condition_channels,
        hidden=hidden,
    )
