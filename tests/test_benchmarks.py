"""The benchmark of the ops: what it counts, what it measures, and (slow) its command line."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_leaves

from rsd_fast import ops

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))
import cases  # noqa: E402
import timing  # noqa: E402

sys.path.remove(str(FOLDER))

EVERY = list(cases.cases(list(cases.OPS), [(3, 12, 20), (2, 32, 6, 4)], ["fp32", "bf16"], batch=2, quick=False))
FORWARD = [case for case in EVERY if not case.backward]


@pytest.mark.parametrize("case", FORWARD, ids=str)
def test_traffic_is_every_image_once(case):
    call = cases.call(case, ops, "cpu")
    output = getattr(ops.reference, case.op)(*call.arguments, **call.options)
    tensors = [t for t in tree_leaves((call.arguments, output)) if isinstance(t, torch.Tensor) and t.ndim == 4]
    assert case.nbytes == sum(t.nbytes for t in tensors)


@pytest.mark.parametrize("case", [case for case in EVERY if case.backward], ids=str)
def test_gradients_are_wanted_of_floating_point_inputs(case):
    call = cases.call(case, ops, "cpu")
    output = getattr(ops.reference, case.op)(*call.arguments, **call.options)
    grads = torch.autograd.grad(output, call.differentiated, torch.ones_like(output))
    assert [g.shape for g in grads] == [t.shape for t in call.differentiated] and grads


@pytest.mark.parametrize("case", FORWARD, ids=str)
def test_the_baseline_has_the_shapes_of_the_op(case):
    call = cases.call(case, ops, "cpu")
    if baseline := cases.with_torch_randn(case, call):
        expected = tree_leaves(getattr(ops.reference, case.op)(*call.arguments, **call.options))
        images = [t for t in expected if t.is_floating_point()][-len(tree_leaves(baseline())) :]
        assert [(t.shape, t.dtype) for t in tree_leaves(baseline())] == [(t.shape, t.dtype) for t in images]


def test_measure_is_in_milliseconds():
    median, p20, p80 = timing.measure(lambda: time.sleep(0.004), "cpu", seconds=0.1)
    assert 4 <= p20 <= median <= p80 < 40


def test_measure_calls_a_slow_function_as_often_as_asked_and_no_oftener():
    calls = []
    timing.measure(lambda: calls.append(time.sleep(0.01)), "cpu", seconds=0.01, minimum=4)
    assert len(calls) == 1 + 2 + 4


def test_copy_bandwidth_counts_bytes_read_and_written(monkeypatch):
    monkeypatch.setattr(timing, "measure", lambda function, device, seconds: (2.0, 1.0, 3.0))
    assert timing.copy_bandwidth("cpu", 8_000_000) == pytest.approx(4.0)


def test_append_results(tmp_path):
    for row in ({"op": "a"}, {"op": "b"}):
        timing.append_results(tmp_path / "new" / "rows.jsonl", [row])
    assert [json.loads(line) for line in (tmp_path / "new" / "rows.jsonl").read_text().splitlines()] == [
        {"op": "a"},
        {"op": "b"},
    ]


def run(*arguments):
    environment = {**os.environ, "RSD_FAST_BACKEND": "", "TRITON_INTERPRET": "0"}
    command = [sys.executable, str(FOLDER / "kernels.py"), "--device", "cpu", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_command_line(tmp_path):
    file = tmp_path / "kernels.json"
    done = run(
        "--quick",
        "--op",
        "denoise",
        "--op",
        "perturb",
        "--shape",
        "3x8x8",
        "--dtype",
        "fp32",
        "--batch",
        2,
        "--json",
        file,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text())
    times = {(row["op"], row["backend"]): row for row in rows}
    assert {("denoise", "eager"), ("denoise", "compile"), ("perturb", "eager"), ("perturb", "torch_randn")} <= set(
        times
    )
    assert (("denoise", "native") in times) == ("compiler" in ops.native_info())
    row = times["denoise", "compile"]
    assert (row["device"], row["dtype"], row["shape"], row["pass"]) == ("cpu", "fp32", "2x3x8x8", "forward")
    assert row["speedup_vs_eager"] == pytest.approx(times["denoise", "eager"]["ms_median"] / row["ms_median"])
    assert row["speedup_vs_compile"] == 1 and row["speedup_vs_torch_randn"] is None
    assert row["gb_per_s"] == pytest.approx(3 * 4 * 2 * 3 * 8 * 8 / row["ms_median"] / 1e6)
    assert 0 < row["ms_p20"] <= row["ms_median"] <= row["ms_p80"] and row["share_of_copy"] > 0
    assert set(row["machine"]) >= {"cpu", "cores", "threads"} and row["versions"]["torch"] == torch.__version__
    assert "copy      GB/s" in done.stdout and "x eager" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--op", "nothing"], "invalid choice"),
        (["--shape", "3x0x8"], "expected CxHxW"),
        (["--batch", "0"], "expected a whole number above 0"),
    ],
)
def test_wrong_options(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.slow
def test_the_loader_is_timed_wherever_images_lie(tmp_path):
    command = [sys.executable, str(FOLDER / "data.py"), "--quick", "--device", "cpu", "--threads", "1", "--work", "1"]
    files = ["--json", str(tmp_path / "data.json"), "--folder", str(tmp_path)]
    done = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "data.json").read_text())
    assert {(row["source"], row["images"], row["ahead"]) for row in rows} >= {
        ("memory", 6_000, False),
        ("mapped", 6_000, True),
        ("mapped", 600_000, True),
    }
    assert all(row[name] > 0 for row in rows for name in ("read_per_sec", "images_per_sec", "wait_ms_median"))
    assert [path.name for path in tmp_path.iterdir()] == ["data.json"]


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["pretrain", "distill", "sample"])
def test_whole_steps_are_timed_plain_and_full(tmp_path, phase):
    """The command line of benchmarks/train.py; `full` takes no gradient that `plain` computes in vain."""
    options = ["--quick", "--batch", "4", "--threads", "1", "--phase", phase, "--config", "full"]
    files = ["--json", str(tmp_path / "train.json"), "--profile", str(tmp_path / "profiles")]
    command = [sys.executable, str(FOLDER / "train.py"), *options, *files]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    plain, full = json.loads((tmp_path / "train.json").read_text())
    assert (plain["config"], full["config"]) == ("plain", "full")
    for row in (plain, full):
        assert "error" not in row, row
        names = ("images_per_sec", "step_ms", "peak_memory_gb", "tflops", "share_of_matmul_peak", "share_of_conv")
        assert all(row[name] > 0 for name in names)
        assert row["images_per_sec"] == pytest.approx(4000 / row["step_ms"])
        assert row["machine"]["cpu"] and row["versions"]["torch"] == torch.__version__
    work = [row["tflops"] * row["step_ms"] for row in (plain, full)]
    assert (work[1] < 0.9 * work[0]) if phase == "distill" else work[1] == pytest.approx(work[0], rel=0.05)
    if phase == "pretrain":
        assert plain["useful_images_per_sec"] < 0.7 * plain["images_per_sec"]
        assert full["useful_images_per_sec"] == full["images_per_sec"]
    assert {path.suffix for path in (tmp_path / "profiles").iterdir()} == {".json", ".txt"}


@pytest.mark.slow
def test_an_evaluation_is_timed_by_stage(tmp_path):
    command = [sys.executable, str(FOLDER / "evaluation.py"), "--small", "--num", "64", "--device", "cpu"]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "evaluation.json")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second = json.loads((tmp_path / "evaluation.json").read_text())["seconds"]
    assert all(first[stage] > 0 for stage in ("reference", "images", "features", "metrics", "total"))
    assert second["reference"] < first["reference"] / 5


def test_selection_is_summed_up(monkeypatch):
    pytest.importorskip("torch_fidelity")
    monkeypatch.syspath_prepend(str(FOLDER))
    import selection

    clean, proximal = [9.0, 5.0, 4.0, 4.2], [8.0, 3.0, 2.5, 2.0]
    found = [
        {"metric": metric, "kimg": float(kimg), "value": value}
        for metric, values in (("pixel-fd", clean), ("proximal-pixel-fd", proximal))
        for kimg, value in enumerate(values)
    ]
    told = selection.summary(found[::-1], "pixels")
    assert (told["spearman"], told["spearman_second_half"]) == (0.8, -1.0)
    assert (told["picked_kimg"], told["best_kimg"], told["picked_over_best"]) == (3.0, 2.0, 1.05)
    assert told["last_over_best"] == 1.05
