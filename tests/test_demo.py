"""The demo: what it writes, and (slow) that its generator beats its teacher as the README says."""

import json

import pytest
import torch
from PIL import Image

import rsd_fast
from rsd_fast.demo import run_demo
from rsd_fast.presets import digits


def test_the_demo_writes_what_is_promised(tmp_path, monkeypatch):
    for settings in (digits.PRETRAIN, digits.DISTILL):
        for name, value in {"kimg": 0.128, "batch": 64, "log_kimg": 1.0, "snapshot_kimg": 1.0}.items():
            monkeypatch.setitem(settings, name, value)
    demo = run_demo(tmp_path / "demo", seed=3)
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert summary.keys() == {"pixel_fd", "pixel_fd_clipped", "seconds", "seed"} and summary["seed"] == 3
    assert list(summary["pixel_fd"]) == ["observations", "teacher_full", "teacher_truncated", "one_step"]
    assert list(summary["seconds"]) == ["pretrain", "distill", "evaluate", "report", "total"]
    assert all(value > 0 for value in summary["pixel_fd"].values())
    with Image.open(tmp_path / "demo" / "report.png") as picture:
        assert picture.size[0] > 600
    assert "<svg" in (tmp_path / "demo" / "generator" / "report.html").read_text()
    assert (tmp_path / "demo" / "teacher" / "report.html").exists()
    for fd in (demo.pixel_fd, demo.pixel_fd_clipped):
        assert all(f"{value:.3f}" in demo.table() for value in fd.values())
    assert summary["pixel_fd_clipped"]["observations"] < summary["pixel_fd"]["observations"]
    assert rsd_fast.load_generator(tmp_path / "demo" / "generator").sample(2).shape == (2, 1, 8, 8)
    with pytest.raises(OSError, match="already holds a run of the demo"):
        run_demo(tmp_path / "demo")


@pytest.mark.slow
def test_the_generator_beats_its_teacher(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        demo = run_demo(tmp_path / "demo")
    finally:
        torch.set_num_threads(threads)
    fd = demo.pixel_fd
    assert fd["one_step"] <= 0.75 * fd["teacher_truncated"]
    assert fd["one_step"] <= fd["teacher_full"] / 3
    assert fd["one_step"] < fd["observations"] / 5
