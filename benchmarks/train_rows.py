"""The rows of `train.py`: which switches each has on, and the configs, networks and methods that they come to."""

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as nnf

from rsd_fast import presets, sampler
from rsd_fast.config import (
    Distill,
    Distillation,
    Objective,
    Observations,
    Pretrain,
    RunConfig,
    Training,
    choose_network,
)
from rsd_fast.methods import DistillMethod, Method, PretrainMethod, distill
from rsd_fast.networks import Denoiser, blocks, place, set_checkpointing, set_precision

SIZES = {"digits": 8, "small": 32, "cifar10": 32, "edm-cifar10-ncsnpp": 32, "ffhq64": 64}  # pixels, by preset
SIGMA_OBS = 0.2


@dataclass(frozen=True)
class Row:
    """A configuration: which switches are on."""

    backend: str = "reference"  # what serves the ops; "" for the fastest there is
    precision: str = "fp32"
    channels_last: bool = False
    fused_attention: bool = False  # no matrix of all scores
    fast_dropout: bool = False  # on a CPU one draw serves four elements
    cast_once: bool = False  # weights that are not trained, rather than at every evaluation
    input_only: bool = False  # no weight gradients in frozen networks
    sigma: str = "clamped"
    cuda_graphs: bool = False
    compile: bool = False
    reuse_batch: bool = False
    concurrent_scores: bool = False
    checkpoint_activations: bool = False


@dataclass(frozen=True)
class Setup:
    """A row of a preset's network, and where it runs."""

    row: Row
    preset: str
    batch: int  # images a step
    device: str
    threads: int

    @property
    def layout(self) -> torch.memory_format:
        return torch.channels_last if self.row.channels_last else torch.contiguous_format


def rows(phase: str, device: str, *, compiled: bool) -> dict[str, Row]:
    """Rows by name: from `plain` to `full` each has one more switch on than the one before; others vary `full`."""
    row = Row()
    by_name = {"plain": row}
    if device == "cuda":
        by_name["plain, fp16 autocast"] = Row(precision="fp16")

    def add(name: str, **switch: Any) -> None:
        nonlocal row
        row = dataclasses.replace(row, **switch)
        by_name[name] = row

    add("+ channels-last", channels_last=True)
    add("+ bf16", precision="bf16")
    add("+ fused ops", backend="")
    add("+ fused attention", fused_attention=True)
    if phase == "pretrain" and device == "cpu":  # the other phases have no dropout
        add("+ fast dropout", fast_dropout=True)
    if phase != "pretrain":
        add("+ weights cast once", cast_once=True)
    if phase == "distill":
        add("+ input-only backward", input_only=True)
    if phase != "sample":
        add("+ truncated sigma", sigma="truncated")
    if device == "cuda":
        add("+ CUDA graphs", cuda_graphs=True)
    if compiled and phase == "distill":  # the others gain nothing by it
        add("+ compile", compile=True)
    by_name["full"] = row

    def vary(name: str, **switch: Any) -> None:
        by_name[f"full, {name}"] = dataclasses.replace(row, **switch)

    if compiled and phase != "distill":
        vary("compiled", compile=True)
    if phase == "distill":
        vary("batch reused", reuse_batch=True)
    if phase == "distill" and device == "cuda":
        vary("two streams", concurrent_scores=True)
    if phase != "sample":
        vary("checkpointed", checkpoint_activations=True)
    return by_name


def noisy(data: str, count: int, shape: tuple[int, int, int]) -> Observations:
    """Noisy observations of `count` clean images [C, H, W]."""
    return Observations(
        data=data,
        simulate=True,
        corruption="identity",
        sigma_obs=SIGMA_OBS,
        seed=0,
        num_images=count,
        image_shape=shape,
        observation_shape=shape,
    )


def configs(setup: Setup, observations: Observations | None = None, **training: Any) -> tuple[Pretrain, Distill]:
    """The configs of pretraining and of distilling. training: further fields of config.Training."""
    if observations is None:
        size = SIZES[setup.preset]
        observations = noisy("memory", 4096, (1 if setup.preset == "digits" else 3, size, size))
    preset, row = presets.load(setup.preset), setup.row
    settings = {
        "batch": setup.batch,
        "precision": "fp32" if row.precision == "fp16" else row.precision,  # fp16 is here for comparison only
        "device": setup.device,
        "cuda_graphs": row.cuda_graphs,
        "checkpoint_activations": row.checkpoint_activations,
        **training,
    }
    network = choose_network(preset.network, {}, observations.observation_shape[1])
    objective = Objective(name="tweedie", sigma_distribution=row.sigma)
    teacher = Pretrain(
        preset=setup.preset,
        observations=observations,
        network=network,
        objective=objective,
        training=Training(**preset.pretrain | settings),
    )
    student = Distill(
        preset=setup.preset,
        teacher="memory",
        observations=observations,
        network=network.without_dropout(),
        objective=objective,
        distillation=Distillation(
            **preset.distillation, reuse_batch=row.reuse_batch, concurrent_scores=row.concurrent_scores
        ),
        training=Training(**preset.distill | settings),
    )
    return teacher, student


def placed(setup: Setup, network: Denoiser) -> Denoiser:
    """The network on the setup's device, in the row's memory format and precision."""
    network = place(network, setup.device, setup.layout)
    network.channels_last = setup.row.channels_last
    set_checkpointing(network, setup.row.checkpoint_activations)
    set_precision(network, setup.row.precision)
    if setup.row.precision == "fp16":
        network.compute_dtype = torch.float16
    return network


def method_of(setup: Setup, config: RunConfig, network: Denoiser) -> Method:
    """The method of a config with a network that is not placed yet."""
    if isinstance(config, Pretrain):
        return PretrainMethod(config, placed(setup, network))
    method = DistillMethod(config, placed(setup, network))
    if not setup.row.input_only:  # as published: both scores' weight gradients are computed, and discarded
        method.input_only = False
        method.teacher.requires_grad_(True)
    return method


def switch_off(row: Row) -> None:
    """Replace, in this process, what the library has no option for."""
    replacements: list[tuple[bool, Any, str, Any]] = [
        (row.fused_attention, blocks, "attention", attention_of_matrices),
        (row.fast_dropout, blocks, "dropout", nnf.dropout),
        (row.cast_once, distill, "cast_weights", keep_weights),
        (row.cast_once, sampler, "cast_weights", keep_weights),
    ]
    for on, module, name, plain in replacements:
        if not on:
            getattr(module, name)  # which the library must have, or nothing would be switched off
            setattr(module, name, plain)


def attention_of_matrices(qkv: torch.Tensor, heads: int) -> torch.Tensor:
    """Self-attention as published code has it, by the matrix of all scores."""
    batch, channels, height, width = qkv.shape
    q, k, v = qkv.reshape(batch * heads, channels // (3 * heads), 3, height * width).unbind(2)
    scores = torch.einsum("ncq,nck->nqk", q, k / q.shape[1] ** 0.5).softmax(2)
    return torch.einsum("nqk,nck->ncq", scores, v).reshape(batch, channels // 3, height, width)


def keep_weights(denoiser: Denoiser) -> None:
    """Takes the place of `cast_weights`."""


Task = TypeVar("Task", bound=Setup)


def in_own_process(script: str, task: Setup) -> subprocess.CompletedProcess[str]:
    """Run `script --task TASK`, with the kernels of the task's row, which are chosen at import."""
    environment = {**os.environ, "RSD_FAST_BACKEND": task.row.backend}
    if not task.row.backend:
        del environment["RSD_FAST_BACKEND"]
    command = [sys.executable, script, "--task", json.dumps(dataclasses.asdict(task))]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def read_task(kind: type[Task], text: str) -> Task:
    """What `in_own_process` wrote."""
    values = json.loads(text)
    return kind(**{**values, "row": Row(**values["row"])})
