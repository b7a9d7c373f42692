"""Backends as a whole: what is chosen, what a forced one says, and a training run that comes out the same on each."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rsd_fast import ops
from rsd_fast.runs import Run

ROOT = Path(__file__).parents[1]

TRAIN = """
import sys, torch
from pathlib import Path
from dataclasses import replace
from rsd_fast import train
from rsd_fast.runs import Run
from tests import tiny
torch.set_num_threads(1)
out = Path(sys.argv[1])
few = dict(kimg=0.8, log_kimg=0.016, snapshot_kimg=0.8)  # 50 steps of 16
observations = tiny.observations(corruption="gaussian_blur:size=3,std=1", sigma_obs=0.2)
teacher = tiny.pretrain(observations=observations, training=tiny.training(**few))
run = train.pretrain(teacher, out / "teacher")
config = tiny.distill(teacher, Run(run).latest() / "model.safetensors")
rate = dict(training=tiny.training(beta1=0.0, lr=1e-5, **few), distillation=replace(config.distillation, fake_lr=1e-5))
train.distill(replace(config, **rate), out / "generator")
"""


def python(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RSD_FAST_", "TRITON_"))}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env={**inherited, **environment}, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.skipif("compiler" not in ops.native_info(), reason="rsd_fast._C is not built")
def test_fifty_steps_with_kernels_and_without_agree(tmp_path):
    """Both stages, to what rounding grows to: sums differ in their last places.

    The bias of attention's keys adds the same to all of a query's scores, so that its exact gradient is 0: what Adam
    makes of rounding there says nothing of the kernels.
    """
    runs = {}
    for backend in ("native", "reference"):
        done = python(TRAIN, tmp_path / backend, RSD_FAST_BACKEND=backend, OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
        runs[backend] = tmp_path / backend
    for stage in ("teacher", "generator"):
        logs = [
            [json.loads(line) for line in (run / stage / "log.jsonl").read_text().splitlines()] for run in runs.values()
        ]
        assert len(logs[0]) == len(logs[1]) == 50
        for native, reference in zip(*logs, strict=True):
            losses = [name for name in native if name.endswith("loss")]
            assert losses
            for name in losses:
                largest = max(abs(line[name]) for line in logs[1])  # a generator's loss is a sum that cancels
                expected = pytest.approx(reference[name], rel=1e-5, abs=2e-5 * largest)
                assert native[name] == expected, (stage, native["step"], name)
        weights = [load_file(Run(run / stage).latest() / "model.safetensors") for run in runs.values()]
        for name in weights[0]:
            difference = (weights[0][name] - weights[1][name]).abs()
            if name.endswith("qkv.bias"):
                difference = difference.reshape(-1, 3)[:, [0, 2]]
            assert difference.max() < 1e-4, f"{stage}: {name} differs by {difference.max()}"


@pytest.mark.parametrize(
    ("forced", "message"),
    [
        ("fast", "RSD_FAST_BACKEND: expected native, triton or reference, got 'fast'"),
        ("native", "RSD_FAST_BACKEND=native: rsd_fast._C is .*RSD_FAST_NATIVE=1"),
        ("triton", "RSD_FAST_BACKEND=triton: Triton is not installed"),
    ],
)
def test_a_forced_backend_that_is_not_there_says_how_to_get_it(forced, message):
    hide = "import sys; sys.modules['rsd_fast._C'] = None\n"
    hide += "import importlib.util as u; find = u.find_spec\n"
    hide += "u.find_spec = lambda name, *a: None if name == 'triton' else find(name, *a)\n"
    done = python(hide + "import rsd_fast.ops", RSD_FAST_BACKEND=forced)
    assert done.returncode != 0
    assert re.search(message, done.stderr.strip().splitlines()[-1]), done.stderr


def test_every_op_is_served_on_both_devices():
    for op, served in ops.backends().items():
        assert set(served) == {"cpu", "cuda"} and set(served.values()) <= {"native", "triton", "reference"}, op
    if "compiler" in ops.native_info() and not os.environ.get("RSD_FAST_BACKEND"):
        assert {served["cpu"] for served in ops.backends().values()} == {"native"}


@pytest.mark.gpu
def test_a_replayed_graph_draws_fresh_noise():
    """No allocation by the kernels, no synchronisation, and the step read from the device."""
    device = torch.device("cuda")
    y, sample = torch.zeros(4, 3, 16, 16, device=device), torch.arange(4, device=device)
    sigma, step = torch.ones(4, device=device), torch.zeros(1, dtype=torch.int64, device=device)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        ops.perturb(y, sigma, 0.0, 1, sample, step)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x_t, _ = ops.perturb(y, sigma, 0.0, 1, sample, step)
        step += 1
    drawn = []
    for _ in range(3):
        graph.replay()
        drawn.append(x_t.clone())
    for i, x in enumerate(drawn):
        expected, _ = ops.reference.perturb(y, sigma, 0.0, 1, sample, i)
        assert torch.equal(x, expected)


@pytest.mark.gpu
def test_a_stream_of_its_own_and_no_synchronisation():
    x, sigma = torch.randn(8, 3, 32, 32, device="cuda"), torch.ones(8, device="cuda")
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.stream(stream):
            F = torch.randn_like(x).requires_grad_()
            ops.denoising_loss(F, x, x * 0.9, sigma, 0.1).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    stream.synchronize()
    G = F.detach().clone().requires_grad_()
    ops.reference.denoising_loss(G, x, x * 0.9, sigma, 0.1).sum().backward()
    torch.testing.assert_close(F.grad, G.grad)
