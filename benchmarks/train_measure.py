"""What `train.py` measures of a row: how long a step takes, how much it computes, and what the time goes into."""

import resource
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import timing
import torch
import torch.nn.functional as nnf
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from train_rows import SIGMA_OBS, Setup, configs, method_of, placed, switch_off

from rsd_fast import corruptions, schedules
from rsd_fast.build import build_denoiser
from rsd_fast.data import ImageArray, ObservedDataset, to_uint8
from rsd_fast.data.order import ShuffledObservations
from rsd_fast.engine import Trainer
from rsd_fast.methods import DistillMethod
from rsd_fast.networks import Denoiser, compile_network
from rsd_fast.runs import Run, save_model
from rsd_fast.sampler import Sampler

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Step = Callable[[], Any]


@dataclass(frozen=True)
class Task(Setup):
    """What a process is to measure."""

    phase: str
    seconds: float
    profile: str | None = None  # a folder


def measure(task: Task) -> dict[str, Any]:
    """The numbers of a row."""
    torch.set_num_threads(task.threads)
    torch.manual_seed(0)
    switch_off(task.row)
    with tempfile.TemporaryDirectory() as folder:
        step, networks = (sampling if task.phase == "sample" else training)(task, Path(folder))
        with FlopCounterMode(display=False) as counter:
            step()
        if task.row.compile:  # now: what is compiled is not counted
            for network in networks:
                compile_network(network)
        for _ in range(2):
            step()  # compiles what is compiled
        median, p20, p80 = timing.measure(step, task.device, seconds=task.seconds, minimum=3)
        memory = peak_memory_gb(task.device)
        shares = profiled(step, task, median)
        convolutions = convolutions_ms(task)
    flops = counter.get_total_flops()
    tflops = flops / median / 1e9
    peak = matmul_tflops(task.device, task.row.precision)
    rate = 1e3 * task.batch / median
    return {
        "images_per_sec": rate,
        "useful_images_per_sec": rate * useful_share(task),
        "step_ms": median,
        "step_ms_p20": p20,
        "step_ms_p80": p80,
        "peak_memory_gb": memory,
        "network_passes": flops / forward_flops(task),
        "tflops": tflops,
        "matmul_tflops": peak,
        "share_of_matmul_peak": tflops / peak,
        "share_of_conv": convolutions / median,
        **shares,
    }


def training(task: Task, folder: Path) -> tuple[Step, Sequence[Denoiser]]:
    """(the engine's step, the networks it evaluates)."""
    config = configs(task)[task.phase == "distill"]
    method, data = method_of(task, config, build_denoiser(config)), None
    if task.phase == "pretrain":
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(256, (4096, *config.observations.image_shape), generator=generator, dtype=torch.uint8)
        source = ImageArray(images=images.numpy(), name="memory")
        dataset = ObservedDataset(source, corruption=corruptions.Identity(), sigma_obs=SIGMA_OBS, seed=0, simulate=True)
        data = ShuffledObservations(dataset, seed=0, channels_last=task.row.channels_last, device=task.device)
    trainer = Trainer(method, config, Run(folder), data=data)

    def step() -> None:
        trainer.step()
        if isinstance(method, DistillMethod) and not task.row.input_only:
            method.teacher.zero_grad()

    return step, method.networks


def sampling(task: Task, folder: Path) -> tuple[Step, Sequence[Denoiser]]:
    """(drawing a batch of a one-step generator as 8-bit images on the CPU, its network)."""
    _, config = configs(task)
    save_model(folder / "model.safetensors", build_denoiser(config).state_dict(), config, 0.0)
    sampler = Sampler(
        folder / "model.safetensors",
        task.device,
        precision=config.training.precision,
        cuda_graphs=task.row.cuda_graphs,
    )
    placed(task, sampler.denoiser)
    index = torch.arange(task.batch)
    return lambda: to_uint8(sampler.draw(index, 0)).cpu(), [sampler.denoiser]


def useful_share(task: Task) -> float:
    """The share of the images seen that teach something."""
    if task.phase != "pretrain" or task.row.sigma != "clamped":
        return 1.0
    u = (torch.arange(100_000) + 0.5) / 100_000
    sigma, _ = schedules.clamped_log_normal(u.double(), SIGMA_OBS, -1.2, 1.2)
    return float((sigma > SIGMA_OBS * (1 + 1e-9)).double().mean())


def evaluations(task: Task) -> tuple[int, int, int]:
    """How often a step goes forward through a network, backward to its weights and input, and only to its input."""
    row = task.row
    if task.phase == "sample":
        return 1, 0, 0
    if task.phase == "pretrain":
        return 1 + row.checkpoint_activations, 1, 0
    full, input_only = (2, 2) if row.input_only else (4, 0)
    return 5 - row.reuse_batch + 4 * row.checkpoint_activations, full, input_only


def evaluation(task: Task) -> Step:
    """A network's forward pass over a batch, not compiled."""
    _, config = configs(task)
    network = placed(task, build_denoiser(config)).requires_grad_(False)
    x = torch.zeros(task.batch, *config.observations.image_shape, device=task.device)
    return lambda: network.raw(x, torch.ones(task.batch, device=task.device))


def forward_flops(task: Task) -> int:
    with FlopCounterMode(display=False) as counter:
        evaluation(task)()
    return counter.get_total_flops()


def convolutions_ms(task: Task) -> float:
    """What the convolutions of a step's network evaluations take by themselves, in the row's precision and layout."""
    shapes: Counter[tuple[Any, ...]] = Counter()
    convolve = nnf.conv2d

    def record(x: Tensor, weight: Tensor, bias: Any = None, **options: Any) -> Tensor:
        shapes[(tuple(x.shape), tuple(weight.shape), tuple(sorted(options.items())))] += 1
        return convolve(x, weight, bias, **options)

    evaluate = evaluation(task)
    with mock.patch.object(nnf, "conv2d", record):
        evaluate()
    return sum(count * convolution_ms(task, x, w, dict(options)) for (x, w, options), count in shapes.items())


def convolution_ms(task: Task, x_shape: Sequence[int], w_shape: Sequence[int], options: dict[str, Any]) -> float:
    """What one convolution takes in all the passes that a step makes through its network."""
    dtype, layout = DTYPES[task.row.precision], task.layout
    x, w = (torch.randn(*s, device=task.device, dtype=dtype).to(memory_format=layout) for s in (x_shape, w_shape))
    b = torch.zeros(w_shape[0], device=task.device, dtype=dtype)
    convolve = partial(nnf.conv2d, x, w, b, **options)
    forward, full, input_only = evaluations(task)
    total = forward * milliseconds(convolve, task)
    for passes, differentiated in ((full, (x, w, b)), (input_only, (x,))):
        if passes:
            for tensor in differentiated:
                tensor.requires_grad_()
            y = convolve()
            backward = partial(torch.autograd.grad, y, differentiated, torch.randn_like(y), retain_graph=True)
            total += passes * milliseconds(backward, task)
            for tensor in differentiated:
                tensor.requires_grad_(False)
    return total


def milliseconds(function: Step, task: Task) -> float:
    return timing.measure(function, task.device, seconds=min(0.2, task.seconds / 10), minimum=3)[0]


def matmul_tflops(device: str, precision: str) -> float:
    """TFLOP/s of the fastest square product of matrices of that precision."""
    sizes = (2048, 4096, 8192) if device == "cuda" else (1024, 2048)
    best = 0.0
    for size in sizes:
        a, b = (torch.randn(size, size, device=device).to(DTYPES[precision]) for _ in range(2))
        best = max(best, 2 * size**3 / timing.measure(partial(torch.matmul, a, b), device, seconds=0.5)[0] / 1e9)
    return best


def peak_memory_gb(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def profiled(step: Step, task: Task, median: float) -> dict[str, float]:
    """The shares of a step's time that group norm takes and, on a GPU, that this is busy.

    Writes the profile into the task's folder, if there is one.
    """
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (task.device == "cuda")
    with profile(activities=activities) as trace:
        step()
        if task.device == "cuda":
            torch.cuda.synchronize()
    kind = "device" if task.device == "cuda" else "cpu"
    events = trace.key_averages()
    times = {event.key: getattr(event, f"self_{kind}_time_total") for event in events}
    total = sum(times.values())
    shares = {"share_of_group_norm": sum(time for key, time in times.items() if "group_norm" in key) / total}
    if task.device == "cuda":
        shares["gpu_busy"] = total / 1e3 / median
    if task.profile:
        Path(task.profile).mkdir(parents=True, exist_ok=True)
        switches = "".join(f"-{name}" for name, on in asdict(task.row).items() if on is True)
        file = Path(task.profile) / f"{task.phase}-{task.preset}-{task.batch}-{task.row.precision}{switches}"
        trace.export_chrome_trace(f"{file}.json")
        table = events.table(
            sort_by=f"self_{kind if kind == 'cpu' else 'cuda'}_time_total", row_limit=25, max_name_column_width=60
        )
        Path(f"{file}.txt").write_text(table + "\n", encoding="utf-8")
    return shares
