"""Whole steps: images a second of training and sampling, what each switch buys, and how near the hardware's peak it is.

    python benchmarks/train.py --preset cifar10 --batch 8 --json train.json --plot train.png
    python benchmarks/train.py --phase distill --preset ffhq64 --batch 64 --device cuda --profile profiles
    python benchmarks/train.py --quick

The rows go from `plain`, what published code does (eager, fp32 with TF32 off, channels-first, PyTorch's own ops, sigma
clamped, weight gradients in frozen networks), one switch at a time to `full`; of training it is the engine's own step
that is timed, on images in memory. Each row has a process of its own, since kernels are chosen at import.

`useful_images_per_sec` counts those alone whose sigma is not clamped to sigma_obs, where loss and gradient are zero.
`network_passes` is what a step computes, an image, in forward passes through the network.
`tflops` are those of the convolutions, products of matrices and attention that a row computes;
`share_of_matmul_peak` compares them with the fastest product of matrices in the row's precision, and `share_of_conv`
says how much of the step the network's own convolutions take by themselves, in the same process, and
`share_of_group_norm` what group norm and SiLU do by a profile of a step, which on a GPU also says how long that is busy
(`gpu_busy`; with two streams it may exceed 1).
"""

import argparse
import dataclasses
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timing
import torch
import torch.nn.functional as nnf
from torch.utils.flop_counter import FlopCounterMode

PHASES = ("pretrain", "distill", "sample")
SIZES = {"digits": 8, "small": 32, "cifar10": 32, "edm-cifar10-ncsnpp": 32, "ffhq64": 64}
SIGMA_OBS = 0.2
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclasses.dataclass(frozen=True)
class Row:
    """A configuration: which switches are on."""

    backend: str = "reference"  # of the ops; "" for the fastest there is
    precision: str = "fp32"
    channels_last: bool = False
    fused_attention: bool = False  # no matrix of all scores
    fast_dropout: bool = False  # on a CPU, of a draw for four elements
    cast_once: bool = False  # weights that are not trained, rather than at every evaluation
    input_only: bool = False  # no weight gradients in frozen networks
    sigma: str = "clamped"
    cuda_graphs: bool = False
    compile: bool = False
    reuse_batch: bool = False
    concurrent_scores: bool = False
    checkpoint_activations: bool = False


def rows(phase: str, device: str, *, compiled: bool) -> dict[str, Row]:
    """By name: from `plain` to `full` each with one more switch on than the one before; then one beside `full`."""
    row = Row()
    found = {"plain": row}
    if device == "cuda":
        found["plain, fp16 autocast"] = Row(precision="fp16")

    def add(name: str, **switch: Any) -> None:
        nonlocal row
        row = dataclasses.replace(row, **switch)
        found[name] = row

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
    found["full"] = row

    def beside(name: str, **switch: Any) -> None:
        found[f"full, {name}"] = dataclasses.replace(row, **switch)

    if compiled and phase != "distill":
        beside("compiled", compile=True)
    if phase == "distill":
        beside("batch reused", reuse_batch=True)
    if phase == "distill" and device == "cuda":
        beside("two streams", concurrent_scores=True)
    if phase != "sample":
        beside("checkpointed", checkpoint_activations=True)
    return found


# In a process of its own


@dataclasses.dataclass(frozen=True)
class Task:
    """What a process is to measure."""

    row: Row
    phase: str
    preset: str
    batch: int
    device: str
    threads: int
    seconds: float
    profile: str | None = None  # a folder


def measure(task: Task) -> dict[str, Any]:
    """The numbers of a row."""
    from rsd_fast.networks import compile_network

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


def noisy(data: str, count: int, shape: tuple[int, int, int]) -> Any:
    """Observations of so many clean images [C, H, W]."""
    from rsd_fast.config import Observations

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


def configs(task: Any, observations: Any = None, **further: Any) -> tuple[Any, Any]:
    """(config of pretraining, of distilling). task: of this script or of same_result.py; further: of the training."""
    from rsd_fast import presets
    from rsd_fast.config import Distill, Distillation, Objective, Pretrain, Training, UNet

    if observations is None:
        size = SIZES[task.preset]
        observations = noisy("memory", 4096, (1 if task.preset == "digits" else 3, size, size))
    preset = presets.load(task.preset)
    row = task.row
    settings = {
        "batch": task.batch,
        "precision": "fp32" if row.precision == "fp16" else row.precision,  # which is for comparison alone
        "device": task.device,
        "cuda_graphs": row.cuda_graphs,
        "checkpoint_activations": row.checkpoint_activations,
        **further,
    }
    network = UNet(**preset.network)
    objective = Objective(name="tweedie", sigma_distribution=task.row.sigma)
    teacher = Pretrain(
        preset=task.preset,
        observations=observations,
        network=network,
        objective=objective,
        training=Training(**preset.pretrain | settings),
    )
    student = Distill(
        preset=task.preset,
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


def placed(task: Any, network: Any) -> Any:
    from rsd_fast.networks import set_precision

    layout = torch.channels_last if task.row.channels_last else torch.contiguous_format
    network = network.to(task.device, memory_format=layout)
    network.channels_last = task.row.channels_last
    network.model.checkpoint_activations = task.row.checkpoint_activations
    set_precision(network, task.row.precision)
    if task.row.precision == "fp16":
        network.compute_dtype = torch.float16
    return network


def attention_of_matrices(qkv: torch.Tensor, heads: int) -> torch.Tensor:
    """Self-attention as published code has it, by the matrix of all scores."""
    batch, channels, height, width = qkv.shape
    q, k, v = qkv.reshape(batch * heads, channels // (3 * heads), 3, height * width).unbind(2)
    scores = torch.einsum("ncq,nck->nqk", q, k / q.shape[1] ** 0.5).softmax(2)
    return torch.einsum("nqk,nck->ncq", scores, v).reshape(batch, channels // 3, height, width)


def switch_off(row: Row) -> None:
    """What the library has no option for."""
    from rsd_fast import sampler
    from rsd_fast.methods import distill
    from rsd_fast.networks import blocks

    if not row.fused_attention:
        blocks.attention = attention_of_matrices
    if not row.fast_dropout:
        blocks.dropout = nnf.dropout
    if not row.cast_once:
        distill.cast_weights = sampler.cast_weights = lambda denoiser: None


def method_of(task: Any, config: Any, network: Any) -> Any:
    """The method of a config, of a network not yet placed."""
    from rsd_fast.methods import DistillMethod, PretrainMethod

    if config.kind == "pretrain":
        return PretrainMethod(config, placed(task, network))
    method = DistillMethod(config, placed(task, network))
    if not task.row.input_only:  # as published: both scores' weight gradients are computed, and discarded
        method.input_only = False
        method.teacher.requires_grad_(True)
    return method


def training(task: Task, folder: Path) -> tuple[Callable[[], Any], Sequence[Any]]:
    """(the engine's step, the networks it evaluates)."""
    from rsd_fast import corruptions
    from rsd_fast.build import build_denoiser
    from rsd_fast.data import ImageArray, ObservedDataset
    from rsd_fast.data.order import ShuffledObservations
    from rsd_fast.engine import Trainer
    from rsd_fast.runs import Run

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
        if task.phase == "distill" and not task.row.input_only:
            method.teacher.zero_grad()

    return step, method.networks


def sampling(task: Task, folder: Path) -> tuple[Callable[[], Any], Sequence[Any]]:
    """(drawing a batch of a one-step generator as 8-bit images on the CPU, its network)."""
    from rsd_fast.build import build_denoiser
    from rsd_fast.data import to_uint8
    from rsd_fast.runs import save_model
    from rsd_fast.sampler import Sampler

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
    """Of the images seen, those that teach something."""
    if task.phase != "pretrain" or task.row.sigma != "clamped":
        return 1.0
    from rsd_fast import schedules

    u = (torch.arange(100_000) + 0.5) / 100_000
    sigma, _ = schedules.clamped_log_normal(u.double(), SIGMA_OBS, -1.2, 1.2)
    return float((sigma > SIGMA_OBS * (1 + 1e-9)).double().mean())


def evaluations(task: Task) -> tuple[int, int, int]:
    """How often a step goes forward through a network, backward to its weights and input, and to its input alone."""
    row = task.row
    if task.phase == "sample":
        return 1, 0, 0
    if task.phase == "pretrain":
        return 1 + row.checkpoint_activations, 1, 0
    full, input_only = (2, 2) if row.input_only else (4, 0)
    return 5 - row.reuse_batch + 4 * row.checkpoint_activations, full, input_only


def evaluation(task: Task) -> Callable[[], Any]:
    """A network's forward pass over a batch, not compiled."""
    from rsd_fast.build import build_denoiser

    network = placed(task, build_denoiser(configs(task)[1])).requires_grad_(False)
    x = torch.zeros(task.batch, network.model.in_channels, *[SIZES[task.preset]] * 2, device=task.device)
    return lambda: network.raw(x, torch.ones(task.batch, device=task.device))


def forward_flops(task: Task) -> int:
    with FlopCounterMode(display=False) as counter:
        evaluation(task)()
    return counter.get_total_flops()


def convolutions_ms(task: Task) -> float:
    """What the convolutions of a step's network evaluations take by themselves, in the row's precision and layout."""
    shapes: Counter[tuple[Any, ...]] = Counter()
    convolve = nnf.conv2d

    def record(x: torch.Tensor, weight: torch.Tensor, bias: Any = None, **options: Any) -> torch.Tensor:
        shapes[(tuple(x.shape), tuple(weight.shape), tuple(sorted(options.items())))] += 1
        return convolve(x, weight, bias, **options)

    evaluate = evaluation(task)
    nnf.conv2d = record
    try:
        evaluate()
    finally:
        nnf.conv2d = convolve
    dtype, layout = (
        DTYPES[task.row.precision],
        torch.channels_last if task.row.channels_last else torch.contiguous_format,
    )
    forward, full, input_only = evaluations(task)
    total = 0.0
    for (x_shape, w_shape, options), count in shapes.items():
        x, w = (torch.randn(s, device=task.device, dtype=dtype).to(memory_format=layout) for s in (x_shape, w_shape))
        b = torch.zeros(w_shape[0], device=task.device, dtype=dtype)
        ahead = milliseconds(lambda x=x, w=w, b=b, o=dict(options): convolve(x, w, b, **o), task)
        times = [forward * ahead]
        for passes, wanted in ((full, (x, w, b)), (input_only, (x,))):
            if passes:
                for tensor in wanted:
                    tensor.requires_grad_()
                y = convolve(x, w, b, **dict(options))
                dy = torch.randn_like(y)
                times.append(
                    passes
                    * milliseconds(lambda y=y, t=wanted, dy=dy: torch.autograd.grad(y, t, dy, retain_graph=True), task)
                )
                for tensor in wanted:
                    tensor.requires_grad_(False)
        total += count * sum(times)
    return total


def milliseconds(function: Callable[[], Any], task: Task) -> float:
    return timing.measure(function, task.device, seconds=min(0.2, task.seconds / 10), minimum=3)[0]


def matmul_tflops(device: str, precision: str) -> float:
    """The fastest square product of matrices of that precision."""
    sizes = (2048, 4096, 8192) if device == "cuda" else (1024, 2048)
    best = 0.0
    for size in sizes:
        a, b = (torch.randn(size, size, device=device).to(DTYPES[precision]) for _ in range(2))
        best = max(best, 2 * size**3 / timing.measure(lambda a=a, b=b: a @ b, device, seconds=0.5)[0] / 1e9)
    return best


def peak_memory_gb(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def profiled(step: Callable[[], Any], task: Task, median: float) -> dict[str, float]:
    """Shares of a step's time: of group norm and, of a GPU, how long it is busy. Writes the profile where asked for."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (task.device == "cuda")
    with profile(activities=activities) as found:
        step()
        if task.device == "cuda":
            torch.cuda.synchronize()
    kind = "device" if task.device == "cuda" else "cpu"
    times = {event.key: getattr(event, f"self_{kind}_time_total") for event in found.key_averages()}
    total = sum(times.values())
    shares = {"share_of_group_norm": sum(time for key, time in times.items() if "group_norm" in key) / total}
    if task.device == "cuda":
        shares["gpu_busy"] = total / 1e3 / median
    if task.profile:
        Path(task.profile).mkdir(parents=True, exist_ok=True)
        switches = "".join(f"-{name}" for name, on in dataclasses.asdict(task.row).items() if on is True)
        file = Path(task.profile) / f"{task.phase}-{task.preset}-{task.batch}-{task.row.precision}{switches}"
        found.export_chrome_trace(f"{file}.json")
        table = found.key_averages().table(
            sort_by=f"self_{kind if kind == 'cpu' else 'cuda'}_time_total", row_limit=25, max_name_column_width=60
        )
        Path(f"{file}.txt").write_text(table + "\n", encoding="utf-8")
    return shares


# In the process that is started


def in_own_process(script: str, task: Any) -> subprocess.CompletedProcess[str]:
    """`script --task TASK`, with the kernels of the task's row."""
    environment = {**os.environ, "RSD_FAST_BACKEND": task.row.backend}
    if not task.row.backend:
        del environment["RSD_FAST_BACKEND"]
    command = [sys.executable, script, "--task", json.dumps(dataclasses.asdict(task))]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def run(task: Task) -> dict[str, Any]:
    """`measure` in a process of its own; {"error": why} where it fails."""
    done = in_own_process(__file__, task)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"error": lines[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


def line(result: dict[str, Any], plain: dict[str, Any] | None) -> str:
    if "error" in result:
        return f"{result['config']:<24} {result['error']}"
    ratio = result["images_per_sec"] / plain["images_per_sec"] if plain and "error" not in plain else float("nan")
    columns = [
        f"{result['config']:<24}",
        f"{result['images_per_sec']:10.2f}",
        f"{ratio:6.2f}x",
        f"{result['useful_images_per_sec']:10.2f}",
        f"{result['step_ms']:9.1f}",
        f"{result['peak_memory_gb']:7.2f}",
        f"{result['network_passes']:7.2f}",
        f"{result['tflops']:8.3f}",
        f"{result['share_of_matmul_peak']:7.1%}",
        f"{result['share_of_conv']:7.1%}",
        f"{result['share_of_group_norm']:7.1%}",
    ]
    return " ".join(columns)


HEADER = (
    f"{'config':<24} {'images/s':>10} {'ratio':>7} {'useful/s':>10} {'step ms':>9} {'mem GB':>7} {'passes':>7} "
    f"{'TFLOP/s':>8} {'of mm':>7} {'conv':>7} {'norm':>7}"
)


def plot(results: list[dict[str, Any]], file: str) -> None:
    """Bars of images a second, relative to plain."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    runs = list(dict.fromkeys((result["phase"], result["batch"]) for result in results))
    figure, axes = pyplot.subplots(1, len(runs), figsize=(5 * len(runs), 4), squeeze=False, sharex=True)
    for axis, (phase, batch) in zip(axes[0], runs, strict=True):
        shown = [r for r in results if (r["phase"], r["batch"]) == (phase, batch) and "error" not in r]
        base = next(r["images_per_sec"] for r in shown if r["config"] == "plain")
        bars = axis.barh([r["config"] for r in shown], [r["images_per_sec"] / base for r in shown])
        axis.bar_label(bars, fmt="%.1f")
        axis.invert_yaxis()
        axis.set_title(f"{phase}, {shown[0]['preset']}, batch {batch}")
        axis.set_xlabel("images a second, relative to plain")
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phase", choices=PHASES, action="append", help="pretrain, distill or sample (all)")
    parser.add_argument("--preset", choices=list(SIZES), help="network (cifar10)")
    parser.add_argument("--batch", type=int, action="append", help="images a step (8 on a CPU, 128 on a GPU)")
    parser.add_argument("--config", action="append", help="a row, by its name (all)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=20.0, help="for each row, after its warm-up (20)")
    parser.add_argument("--quick", action="store_true", help="preset digits, no compilation, a second a row")
    parser.add_argument("--profile", metavar="FOLDER", help="a Chrome trace and a table of operators for each row")
    parser.add_argument("--json", metavar="FILE", help="write the rows there, too")
    parser.add_argument("--plot", metavar="FILE.png")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.task:
        values = json.loads(given.task)
        print(json.dumps(measure(Task(**{**values, "row": Row(**values["row"])}))))
        return

    preset = given.preset or ("digits" if given.quick else "cifar10")
    batches = given.batch or [128 if given.device == "cuda" else 8]
    about = {"machine": timing.machine(given.device), "versions": timing.versions()}
    print(json.dumps(about))
    results = []
    for phase, batch in itertools.product(given.phase or PHASES, batches):
        size, plain = SIZES[preset], None
        measured: dict[Row, dict[str, Any]] = {}  # `full` is the row before it, under the name that is looked for
        print(f"\n{phase}, {preset}, {batch} x {size}x{size}, {given.threads} threads")
        print(HEADER)
        for name, row in rows(phase, given.device, compiled=not given.quick).items():
            if given.config and name not in (*given.config, "plain"):
                continue
            seconds = 1.0 if given.quick else given.seconds
            task = Task(row, phase, preset, batch, given.device, given.threads, seconds, given.profile)
            settings = {"phase": phase, "preset": preset, "batch": batch, "device": given.device, "config": name}
            if row not in measured:
                measured[row] = run(task)
            result = {**settings, "switches": dataclasses.asdict(row), **measured[row], **about}
            plain = plain or result
            print(line(result, plain), flush=True)
            results.append(result)
            if given.json:  # after each, so that what was measured is not lost
                Path(given.json).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if given.plot:
        plot(results, given.plot)


if __name__ == "__main__":
    main()
