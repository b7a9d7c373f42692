"""`rsd_fast.sample` and `rsd-fast sample`: images and their classes."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import rsd_fast
from rsd_fast.data import DataError, open_source, to_uint8
from rsd_fast.errors import FieldError
from rsd_fast.runs import RunError
from rsd_fast.sampler import Sampler
from tests.command_line import run_in_process
from tests.test_sampler import of_either_stage, saved

QUICK = {"steps": 2, "batch": 4, "device": "cpu", "precision": "fp32"}


@of_either_stage
def test_images_are_returned_as_they_are_drawn(tmp_path, stage):
    path = saved(tmp_path, "plain", stage)
    images = rsd_fast.sample(path, 6, seed=3, **QUICK)
    assert images.dtype == torch.float32 and images.shape == (6, 1, 8, 8)
    assert torch.equal(images, torch.cat(list(Sampler(path, steps=2).batches(6, 3, 4))))
    assert torch.equal(rsd_fast.sample(SimpleNamespace(path=path), 6, seed=3, **QUICK), images)


@of_either_stage
def test_out_is_what_the_command_writes(tmp_path, capsys, stage):
    """Of a conditional run with the classes of the images."""
    path = saved(tmp_path, "ncsnpp", stage)
    images = to_uint8(rsd_fast.sample(path, 6, seed=3, **QUICK)).numpy()
    labels = Sampler(path).labels(6, 3).tolist()
    arguments = ["sample", "--run", path, "--num", 6, "--seed", 3, "--steps", 2, "--batch", 4, "--precision", "fp32"]
    for name in ("x.npz", "x"):
        written = rsd_fast.sample(path, 6, out=tmp_path / name, seed=3, **QUICK)
        assert written == tmp_path / name
        code, _, error = run_in_process(capsys, *arguments, "--device", "cpu", "--out", tmp_path / f"command-{name}")
        assert code == 0, error
        for folder_or_file in (written, tmp_path / f"command-{name}"):
            source = open_source(folder_or_file)
            np.testing.assert_array_equal(source.images, images)
            assert source.labels.tolist() == labels
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "command-x.npz").read_bytes()
    entries = json.loads((tmp_path / "x" / "dataset.json").read_text())["labels"]
    assert entries == [[f"{i:06d}.png", label] for i, label in enumerate(labels)]


@of_either_stage
def test_a_conditional_run_is_asked_for_a_class(tmp_path, capsys, stage):
    path = saved(tmp_path, "ncsnpp", stage)
    arguments = ["sample", "--run", path, "--num", 5, "--steps", 2, "--batch", 4, "--precision", "fp32"]
    arguments += ["--device", "cpu"]
    code, _, error = run_in_process(capsys, *arguments, "--class", 7, "--out", tmp_path / "x.npz")
    assert code == 0, error
    written = np.load(tmp_path / "x.npz")
    assert written["labels"].tolist() == [7] * 5 and written["labels"].dtype == np.int64
    images = torch.cat(list(Sampler(path, steps=2).batches(5, 0, 4, labels=7)))
    np.testing.assert_array_equal(written["images"], to_uint8(images).numpy())
    assert torch.equal(rsd_fast.sample(path, 5, class_label=7, **QUICK), images)
    for label in (10, -1):
        code, out, error = run_in_process(capsys, *arguments, "--class", label, "--out", tmp_path / "y.npz")
        assert (code, out, error) == (2, "", f"Error: --class: expected 0 to 9, got {label}\n")
    assert not (tmp_path / "y.npz").exists()


@of_either_stage
def test_an_unconditional_run_has_no_classes(tmp_path, capsys, stage):
    path = saved(tmp_path, "plain", stage)
    arguments = ["sample", "--run", path, "--num", 2, "--steps", 2, "--device", "cpu", "--out", tmp_path / "x.npz"]
    code, out, error = run_in_process(capsys, *arguments, "--class", 0)
    assert (code, out, error) == (2, "", "Error: --class: the run is not conditional on classes\n")
    code, _, error = run_in_process(capsys, *arguments)
    assert code == 0 and list(np.load(tmp_path / "x.npz")) == ["images"], error


def test_what_does_not_fit_is_named_by_its_option(tmp_path):
    path = saved(tmp_path, "plain", "generator")
    for options, error, message in (
        ({"step": 3}, FieldError, "step: unknown option of sample; did you mean 'steps'?"),
        ({"steps": 0}, FieldError, "steps: expected at least 1, got 0"),
        ({"batch": 0}, FieldError, "batch: expected at least 1, got 0"),
        ({"num": 0}, FieldError, "num: expected at least 1, got 0"),
        ({"device": "gpu"}, FieldError, "device: expected auto, cpu, cuda, got 'gpu'"),
        ({"truncate": True}, FieldError, "truncate: "),
        ({"out": tmp_path / "x.tar"}, FieldError, "out: expected FILE.npz or a folder"),
        ({"out": tmp_path}, DataError, "exists already"),
        ({"run": tmp_path / "absent"}, RunError, "absent: no such run"),
    ):
        with pytest.raises(error) as caught:
            rsd_fast.sample(**{"run": path, "num": 2, **options})
        assert message in str(caught.value)
        if error is FieldError:
            assert message.startswith(f"{caught.value.field}: ")
