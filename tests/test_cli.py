"""The command line as a user meets it: both stages end to end on little data, and every kind of bad input."""

import gzip
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import rsd_fast
from rsd_fast.cli.main import COMMANDS
from rsd_fast.runs import Run
from tests.command_line import ROOT, cli, run_in_process, two_processes

NETWORK = ["--model-channels", "8", "--channel-mult", "1,2", "--num-blocks", "1", "--attn-resolutions", "4"]
SHORT = [
    "--kimg",
    "0.064",
    "--batch",
    "32",
    "--snapshot-kimg",
    "0.032",
    "--log-kimg",
    "0.032",
    "--device",
    "cpu",
]


@pytest.fixture(scope="module")
def observations(tmp_path_factory) -> Path:
    """96 blurred and noisy digits, as `corrupt` writes them."""
    folder = tmp_path_factory.mktemp("data")
    clean = rsd_fast.data.open_source("digits").images[:96]
    np.save(folder / "clean.npy", clean)
    arguments = ["--corruption", "gaussian_blur:size=3,std=0.5", "--sigma-obs", "0.2"]
    cli(
        "corrupt",
        "--data",
        folder / "clean.npy",
        *arguments,
        "--out",
        folder / "seen.npz",
        "--preview",
        folder / "p.png",
    )
    with Image.open(folder / "p.png") as preview:
        assert preview.size[0] > 100
    return folder / "seen.npz"


@pytest.fixture(scope="module")
def runs(observations, tmp_path_factory) -> Path:
    """A teacher and a generator, from the command line."""
    folder = tmp_path_factory.mktemp("runs")
    how = ["--corruption", "gaussian_blur:size=3,std=0.5", "--sigma-obs", "0.2"]
    cli("pretrain", "--data", observations, *how, "--out", folder / "teacher", *NETWORK, *SHORT)
    cli("distill", "--teacher", folder / "teacher", "--out", folder / "gen", *SHORT)
    return folder


def test_corrupt_writes_what_simulate_would_train_on(observations):
    from rsd_fast.data import ObservedDataset, open_source

    source = open_source(observations.parent / "clean.npy")
    operator = rsd_fast.corruptions.parse("gaussian_blur:size=3,std=0.5")
    dataset = ObservedDataset(source, corruption=operator, sigma_obs=0.2, seed=0, simulate=True)
    written = np.load(observations)["images"]
    assert np.array_equal(written, dataset.batch(torch.arange(96))[0].numpy())


def test_both_stages_make_loadable_networks(runs):
    generator = rsd_fast.load_generator(runs / "gen")
    images = generator.sample(5, seed=1)
    assert images.shape == (5, 1, 8, 8) and images.dtype == torch.float32 and images.abs().max() <= 1
    torch.testing.assert_close(generator.sample(5, seed=1, batch=2), images, rtol=1e-5, atol=1e-5)
    assert not torch.equal(generator.sample(5, seed=2), images)
    denoiser = rsd_fast.load_denoiser(runs / "teacher")
    assert denoiser(torch.zeros(2, 1, 8, 8), torch.ones(2)).shape == (2, 1, 8, 8)
    config = json.loads((runs / "gen" / "config.json").read_text())
    assert config["observations"]["corruption"] == "gaussian_blur:size=3,std=0.5"
    assert config["objective"]["name"] == "tweedie"


def test_sample_writes_an_npz_or_a_folder(runs, tmp_path):
    cli("sample", "--run", runs / "gen", "--out", tmp_path / "a.npz", "--num", 7, "--seed", 3, "--batch", 4)
    images = np.load(tmp_path / "a.npz")["images"]
    assert images.shape == (7, 1, 8, 8) and images.dtype == np.uint8
    expected = rsd_fast.data.to_uint8(rsd_fast.load_generator(runs / "gen").sample(7, seed=3)).numpy()
    assert np.abs(images.astype(int) - expected).max() <= 1
    cli("sample", "--run", runs / "teacher", "--out", tmp_path / "b", "--num", 3, "--steps", 4, "--truncate")
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["000000.png", "000001.png", "000002.png"]


def test_evaluate_prints_and_records(runs, observations, tmp_path):
    clean = observations.parent / "clean.npy"
    done = cli(
        "evaluate", "--run", runs / "gen", "--reference", clean, "--metrics", "pixel-fd,proximal-pixel-fd",
        "--num", 50, "--json", tmp_path / "result.json",
    )  # fmt: skip
    results = json.loads((tmp_path / "result.json").read_text())
    assert [r["metric"] for r in results] == ["pixel-fd", "proximal-pixel-fd"]
    assert all(r["num"] == 50 and r["seed"] == 0 and r["checkpoint"] == "000000.064" for r in results)
    assert all(f"{r['value']:.4f}" in done.stdout for r in results)
    logged = [json.loads(line) for line in (runs / "gen" / "metrics.jsonl").read_text().splitlines()]
    assert logged[-2:] == results  # after those of the run itself
    error = cli("evaluate", "--run", runs / "gen", "--reference", clean, "--num", 20, "--json", "/dev/null/x", code=1)
    assert "pixel-fd" in error.stdout, "what was computed is told, even where it cannot be written"
    cli("evaluate", "--run", clean, "--reference", clean, "--json", tmp_path / "same.json")
    assert json.loads((tmp_path / "same.json").read_text())[0]["value"] == pytest.approx(0, abs=1e-4)


def test_resume_goes_on_and_only_where_there_is_a_run(runs, observations, tmp_path):
    how = ["--corruption", "gaussian_blur:size=3,std=0.5", "--sigma-obs", "0.2"]
    begin = ["pretrain", "--data", observations, *how, "--out", tmp_path / "run", *NETWORK, *SHORT]
    error = cli(*begin, "--resume", code=1).stderr
    assert "no run to resume" in error and not (tmp_path / "run").exists()
    cli(*begin, "--kimg", "0.032", "--resume-or-start")
    cli(*begin, "--resume-or-start")
    first, second = (rsd_fast.load_denoiser(path).state_dict() for path in (runs / "teacher", tmp_path / "run"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    cli("pretrain", "--out", tmp_path / "run", "--resume", "--kimg", "0.096")  # all else comes from the run
    assert (tmp_path / "run" / "latest").read_text() == "000000.096\n"
    error = cli("pretrain", "--out", tmp_path / "run", "--resume", "--lr", "0.5", code=2).stderr
    assert "--lr: " in error and "a resumed run keeps it" in error
    error = cli(*begin, code=1).stderr
    assert "already holds a run" in error
    error = cli("distill", "--out", tmp_path / "run", "--resume", code=1).stderr
    assert "is a run of rsd-fast pretrain" in error


def test_dry_run_prints_the_config_and_does_nothing(observations, tmp_path):
    done = cli(
        "pretrain",
        "--data",
        observations,
        "--sigma-obs",
        "0.2",
        "--out",
        tmp_path / "run",
        "--dry-run",
        "--seed",
        7,
    )
    config = json.loads(done.stdout)
    assert config["observations"]["seed"] == config["training"]["seed"] == 7
    assert config["observations"]["num_images"] == 96 and not (tmp_path / "run").exists()


def test_help_and_doctor(runs):
    for command in COMMANDS:
        assert "Usage: rsd-fast" in cli(command, "--help").stdout
    found = json.loads(cli("doctor", "--json").stdout)
    assert found["versions"]["rsd-fast"] == rsd_fast.__version__ and "randn" in found["ops"]
    assert "philox" in cli("doctor").stdout


def test_importing_the_command_line_does_not_import_torch():
    code = "import sys, rsd_fast, rsd_fast.cli.main; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT).strip() == "False False"


def folder_of(path: Path, *images: Image.Image) -> Path:
    path.mkdir()
    for i, image in enumerate(images):
        image.save(path / f"{i}.png")
    return path


def truncated_png(path: Path) -> Path:
    folder_of(path, *[Image.effect_noise((16, 16), 50)] * 3)
    whole = (path / "1.png").read_bytes()
    (path / "1.png").write_bytes(whole[: len(whole) // 2])
    return path


def saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def with_nan(shape: tuple[int, ...]) -> np.ndarray:
    array = np.zeros(shape, np.float32)
    array[1, 0, 0] = np.nan
    return array


def lying_idx(path: Path) -> Path:
    path.write_bytes(gzip.compress(struct.pack(">BBBBIII", 0, 0, 8, 3, 60000, 28, 28) + bytes(100)))
    return path


BAD_DATA = {
    "missing": (lambda d: d / "absent", "absent"),
    "empty folder": (lambda d: folder_of(d / "empty"), "empty"),
    "truncated png": (lambda d: truncated_png(d / "cut"), "1.png"),
    "two sizes": (lambda d: folder_of(d / "s", Image.new("L", (16, 16)), Image.new("L", (16, 8))), "1.png"),
    "grey among colour": (
        lambda d: folder_of(d / "g", Image.new("RGB", (8, 8)), Image.new("L", (8, 8))),
        "1.png",
    ),
    "beyond [-1, 1]": (lambda d: saved(d / "big.npy", np.full((4, 8, 8), 200.0, np.float32)), "big.npy"),
    "nan": (lambda d: saved(d / "nan.npy", with_nan((4, 8, 8))), "nan.npy"),
    "integers": (lambda d: saved(d / "int.npy", np.zeros((4, 8, 8), np.int64)), "int.npy"),
    "no kind": (lambda d: saved(d / "x.npy", np.zeros(3)).rename(d / "x.tiffs"), "x.tiffs"),
    "short idx": (lambda d: lying_idx(d / "train-images-idx3-ubyte.gz"), "train-images-idx3-ubyte.gz"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_named(case, tmp_path, capsys):
    make, culprit = BAD_DATA[case]
    source = make(tmp_path)
    code, out, error = run_in_process(
        capsys, "pretrain", "--data", source, "--simulate", "--sigma-obs", "0.1", "--out", tmp_path / "run"
    )
    assert code == 1 and out == ""
    assert error.count("\n") == 1 and culprit in error, error
    assert not (tmp_path / "run").exists()


def test_images_that_the_network_cannot_halve_are_named(tmp_path, capsys):
    source = saved(tmp_path / "odd.npy", np.zeros((4, 9, 9), np.uint8))
    code, _, error = run_in_process(
        capsys, "pretrain", "--data", source, "--simulate", "--sigma-obs", "0.1", "--out", tmp_path / "run"
    )
    assert code == 2 and error.count("\n") == 1 and "odd.npy: 9x9 images do not divide by 2" in error


def test_bad_teachers_runs_and_places_are_named(runs, observations, tmp_path, capsys):
    for arguments, culprit in [
        (["distill", "--teacher", tmp_path, "--out", tmp_path / "o"], "not a run"),
        (["distill", "--teacher", runs / "absent", "--out", tmp_path / "o"], "absent"),
        (["distill", "--teacher", runs / "gen", "--out", tmp_path / "o"], "holds a one-step generator"),
        (["distill", "--out", tmp_path / "o"], "--teacher"),
        (["distill", "--teacher", runs / "teacher", "--out", runs], "not empty"),
        (["distill", "--teacher", runs / "teacher", "--out", observations], "is a file"),
        (["sample", "--run", observations, "--out", tmp_path / "o", "--num", 2], "safetensors"),
        (
            ["sample", "--run", runs / "gen", "--out", observations.parent, "--num", 2],
            str(observations.parent),
        ),
        (["sample", "--run", runs / "gen", "--out", tmp_path / "o", "--num", 2, "--truncate"], "--truncate"),
        (["sample", "--run", runs / "gen", "--out", observations, "--num", 2], "exists already"),
        (["sample", "--run", runs / "gen", "--out", tmp_path / "o.tar", "--num", 2], "--out: expected FILE.npz"),
        (["evaluate", "--run", runs / "gen", "--metrics", "proximal-pixel-fd", "--sigma-obs", 1], "--sigma-obs: "),
        (["evaluate", "--run", runs / "gen", "--reference", "digits", "--simulate"], "--simulate: "),
        (["evaluate", "--run", runs / "gen", "--reference", "digits", "--metrics", ""], "--metrics: none given"),
        (["evaluate", "--run", observations, "--reference", "digits", "--steps", 40], "--steps: "),
        (["evaluate", "--run", observations, "--reference", "digits", "--precision", "bf16"], "--precision: "),
        (["evaluate", "--run", runs / "gen", "--reference", "digits", "--features", "pixels"], "--features: applies"),
        (["evaluate", "--run", runs / "gen"], "--reference"),
        (
            ["evaluate", "--run", runs / "gen", "--reference", "digits", "--metrics", "fod"],
            "unknown metric 'fod'",
        ),
        (["evaluate", "--run", observations, "--metrics", "proximal-pixel-fd"], "--observations"),
        (["corrupt", "--data", "digits", "--out", observations], "exists already"),
        (["teach"], "teach"),
    ]:
        code, out, error = run_in_process(capsys, *arguments)
        assert code in (1, 2) and out == "" and error.count("\n") == 1 and culprit in error, (
            arguments,
            error,
        )
        assert not (tmp_path / "o").exists()


def test_a_relative_name_is_not_taken_for_an_option(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    code, _, error = run_in_process(
        capsys, "pretrain", "--data", "photos", "--simulate", "--sigma-obs", "0", "--out", "run"
    )
    assert code == 1 and error.startswith("Error: photos: ")


def test_a_distillation_with_its_own_seed_resumes_and_keeps_its_teacher(runs, tmp_path, capsys):
    begin = ["distill", "--teacher", runs / "teacher", "--out", tmp_path / "gen", *SHORT, "--seed", 5]
    for kimg in ("0.032", "0.064"):
        code, _, error = run_in_process(capsys, *begin, "--kimg", kimg, "--resume-or-start")
        assert code == 0, error
    other = runs / "teacher" / "checkpoints" / "000000"
    code, _, error = run_in_process(capsys, "distill", "--teacher", other, "--out", tmp_path / "gen", "--resume")
    assert code == 2 and error.startswith("Error: --teacher: ") and "keeps it" in error


def test_cuda_graphs_are_refused_on_a_cpu(runs, tmp_path, capsys):
    for arguments in (
        ["sample", "--run", runs / "gen", "--out", tmp_path / "o", "--num", 2],
        ["evaluate", "--run", runs / "gen", "--reference", "digits"],
    ):
        code, _, error = run_in_process(capsys, *arguments, "--cuda-graphs", "--device", "cpu")
        assert code == 2 and error.startswith("Error: --cuda-graphs: only CUDA devices have them")
    code, _, error = run_in_process(
        capsys, "sample", "--run", runs / "gen", "--out", tmp_path / "o", "--num", 2, "--no-cuda-graphs"
    )
    assert code == 0 and len(list((tmp_path / "o").iterdir())) == 2


def test_debug_shows_the_traceback(runs, tmp_path, capsys):
    code, _, error = run_in_process(capsys, "sample", "--run", tmp_path, "--out", tmp_path / "o", "--num", 1, "--debug")
    assert code == 1 and "Traceback" in error


def test_a_full_disk_is_one_line_and_loses_nothing(runs, tmp_path, capsys, monkeypatch):
    import errno

    from rsd_fast.runs import model_file

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(model_file.safetensors.torch, "save_file", full)
    code, _, error = run_in_process(capsys, "distill", "--teacher", runs / "teacher", "--out", tmp_path / "run", *SHORT)
    assert code == 1 and error.count("\n") == 1 and "model.safetensors: No space left on device" in error
    monkeypatch.undo()
    code, _, error = run_in_process(capsys, "distill", "--teacher", runs / "teacher", "--out", tmp_path / "run", *SHORT)
    assert code == 0, error


@pytest.mark.slow
def test_two_processes_train_as_one(observations, tmp_path):
    """Data parallel over gloo: the same batches, so the same weights to rounding."""
    how = ["--corruption", "gaussian_blur:size=3,std=0.5", "--sigma-obs", "0.2", *NETWORK, *SHORT]
    how += ["--precision", "fp32"]  # bfloat16's rounding differs with the batch that a process has
    cli("pretrain", "--data", observations, *how, "--out", tmp_path / "one")
    two_processes("pretrain", "--data", observations, *how, "--out", tmp_path / "two")
    one, two = (load_file(Run(tmp_path / name).latest() / "training.safetensors") for name in ("one", "two"))
    assert any(".exp_avg." in name for name in one)
    for name in one:
        if ".exp_avg." in name:  # the gradients: Adam's steps are blind to their scale
            torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-6 + 1e-4 * float(one[name].abs().max()))
    two_processes("sample", "--run", tmp_path / "two", "--out", tmp_path / "s.npz", "--num", 5, "--batch", 2)
    assert np.load(tmp_path / "s.npz")["images"].shape == (5, 1, 8, 8)


@pytest.mark.slow
def test_compiled_training_agrees_with_eager(tmp_path):
    from dataclasses import replace

    from rsd_fast import train

    from . import tiny

    eager = train.pretrain(tiny.pretrain(), tmp_path / "eager")
    compiled = train.pretrain(replace(tiny.pretrain(), training=tiny.training(compile=True)), tmp_path / "compiled")
    losses = [
        [json.loads(line)["teacher_loss"] for line in (run / "log.jsonl").read_text().splitlines()]
        for run in (eager, compiled)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
