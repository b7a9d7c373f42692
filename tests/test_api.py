"""Both stages from Python: the command line's settings by the same names, data and operators as objects."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import Dataset

import rsd_fast
from rsd_fast.cli.distill import distill as distill_command
from rsd_fast.cli.pretrain import pretrain as pretrain_command
from rsd_fast.config import to_json
from rsd_fast.corruptions import Corruption
from rsd_fast.data import IN_MEMORY, DataError
from rsd_fast.errors import FieldError
from rsd_fast.runs import Run, RunError
from rsd_fast.settings import STAGES, resolve_distill, resolve_pretrain

from .command_line import run_in_process

SHORT = {"kimg": 0.064, "batch": 16, "log_kimg": 0.016, "snapshot_kimg": 0.032, "device": "cpu", "precision": "fp32"}
NETWORK = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]}
TINY = {**SHORT, **NETWORK}
DIGITS = {"data": "digits", "simulate": True, "sigma_obs": 0.5}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """40 noisy digits, float32 [N, C, H, W]."""
    clean = rsd_fast.data.open_source("digits").images[:40] / 127.5 - 1
    return (clean + 0.2 * np.random.default_rng(0).standard_normal(clean.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return rsd_fast.pretrain("digits", out=tmp_path_factory.mktemp("runs") / "t", simulate=True, sigma_obs=0.5, **TINY)


class Digits(Dataset):
    """The same images, one by one."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self.images[index])


def weights(run: Run, name: str = "model") -> dict[str, Tensor]:
    return load_file(run.latest() / f"{name}.safetensors")


def test_from_an_array_to_samples(images, tmp_path):
    run = rsd_fast.pretrain(images, out=tmp_path / "teacher", sigma_obs=0.2, **TINY)
    assert run.denoiser()(torch.zeros(2, 1, 8, 8), 1.0).shape == (2, 1, 8, 8)
    student = rsd_fast.distill(run, out=tmp_path / "generator", data=images, eval_num=20, **SHORT)
    assert student.generator().sample(3).shape == (3, 1, 8, 8)
    assert [record["kimg"] for record in student.log()] == [0.016, 0.032, 0.048, 0.064]
    assert [record["num"] for record in student.metrics()] == [20, 20, 20]
    assert student.config.kind == "distill" and student.config.observations.data == IN_MEMORY
    assert sorted(path.name for path in tmp_path.iterdir()) == ["generator", "teacher"]


def test_from_a_data_set_to_samples(images, tmp_path, capsys):
    run = rsd_fast.pretrain(Digits(images), out=tmp_path / "teacher", sigma_obs=0.2, **TINY)
    student = rsd_fast.distill(run, out=tmp_path / "generator", **SHORT)
    assert student.generator().sample(3).shape == (3, 1, 8, 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["generator", "teacher"]
    assert student.metrics()[-1]["metric"] == "proximal-pixel-fd"  # against the data, which the teacher's run remembers
    capsys.readouterr()
    by_path = rsd_fast.distill(run.path, out=tmp_path / "by-path", **SHORT)
    assert not by_path.metrics() and "checkpoints are not evaluated" in capsys.readouterr().err
    assert all(torch.equal(value, weights(student)[name]) for name, value in weights(by_path).items())
    np.save(tmp_path / "images.npy", images)
    for number, data in enumerate((torch.from_numpy(images), tmp_path / "images.npy")):
        other = rsd_fast.pretrain(data, out=tmp_path / str(number), sigma_obs=0.2, **TINY)
        assert all(torch.equal(value, weights(run)[name]) for name, value in weights(other).items())


def test_images_in_memory_are_given_again_to_go_on(images, tmp_path):
    run = rsd_fast.pretrain(images, out=tmp_path / "run", sigma_obs=0.2, **TINY)
    with pytest.raises(DataError, match="given in memory"):
        rsd_fast.pretrain(out=run, resume=True, kimg=0.08)
    rsd_fast.pretrain(images, out=run, resume=True, kimg=0.08)
    assert run.latest().name == "000000.080"
    with pytest.raises(DataError, match="holds 39 images"):
        rsd_fast.pretrain(images[1:], out=run, resume=True, kimg=0.096)


def test_runs_in_memory_are_evaluated_and_reported_with_their_data(images, tmp_path):
    teacher = rsd_fast.pretrain(images, out=tmp_path / "teacher", sigma_obs=0.2, **TINY)
    student = rsd_fast.distill(teacher, out=tmp_path / "generator", eval_kimg=0, **SHORT)
    assert len(repr(student)) < 200
    for run in (teacher, student):
        (result,) = rsd_fast.evaluate(run, metrics="proximal-pixel-fd", num=20)
        (by_data,) = rsd_fast.evaluate(run.path, metrics="proximal-pixel-fd", observations=images, num=20)
        assert result.value == by_data.value
        page = rsd_fast.report(run).path.read_text(encoding="utf-8")
        assert "No observations to show" not in page and "cannot be opened" not in page
    with pytest.raises(DataError, match=r"rsd_fast.evaluate\(run, observations="):
        rsd_fast.evaluate(student.path, metrics="proximal-pixel-fd", num=20)


# an operator that no SPEC can say


class Gains(Corruption):
    """Every pixel times a gain of its own, a tensor [H, W]."""

    name = "gains"

    def __init__(self, gains: Tensor) -> None:
        self.gains, self.spec = gains, "gains"

    def forward(self, x: Tensor, *, index: Tensor | None = None, seed: int = 0) -> Tensor:
        return x * self.gains

    def adjoint(self, y: Tensor, *, index: Tensor | None = None, seed: int = 0) -> Tensor:
        return y * self.gains


def test_an_operator_with_tensors_is_learned_through(tmp_path):
    gains = Gains(torch.linspace(0.5, 1, 64).reshape(8, 8))
    simulated = {"simulate": True, "sigma_obs": 0.2}
    run = rsd_fast.pretrain("digits", out=tmp_path / "teacher", corruption=gains, **simulated, **TINY)
    assert run.config.observations.corruption == "gains"
    plain = rsd_fast.pretrain("digits", out=tmp_path / "plain", **simulated, **TINY)
    assert run.log()[-1]["teacher_loss"] < plain.log()[-1]["teacher_loss"], "of darker images"
    student = rsd_fast.distill(run, out=tmp_path / "generator", eval_num=20, **SHORT)
    assert student.generator().sample(2).shape == (2, 1, 8, 8) and len(student.metrics()) == 3
    for again in (
        lambda: rsd_fast.distill(run.path, out=tmp_path / "other", **SHORT),
        lambda: rsd_fast.distill(out=student, resume=True, kimg=0.08),
        lambda: rsd_fast.pretrain(out=run, resume=True, kimg=0.08),
    ):
        with pytest.raises(FieldError, match=r"give the operator object again \(corruption=") as error:
            again()
        assert error.value.field == "corruption"
    rsd_fast.pretrain(out=run, resume=True, kimg=0.08, corruption=gains)
    rsd_fast.distill(out=student, resume=True, kimg=0.08, corruption=gains)
    assert student.latest().name == run.latest().name == "000000.080"
    (known,) = rsd_fast.evaluate(student, metrics="proximal-pixel-fd", num=20)
    (by_path,) = rsd_fast.evaluate(student.path, metrics="proximal-pixel-fd", num=20, corruption=gains)
    assert known.value == by_path.value
    drawn = [rsd_fast.sample(student, 2), rsd_fast.sample(student.path, 2, corruption=gains)]
    assert torch.equal(*drawn)
    opened = rsd_fast.TrainedRun(student.path, gains)
    for page in (rsd_fast.report(opened), rsd_fast.report(student.path, corruption=gains)):
        assert "give the operator object again" not in page.path.read_text(encoding="utf-8")
    with pytest.raises(FieldError, match="a resumed run keeps it") as error:
        rsd_fast.pretrain(out=plain, resume=True, corruption=gains)
    assert error.value.field == "corruption"
    with pytest.raises(FieldError, match="was trained with gains, not identity"):
        rsd_fast.distill(run.path, out=tmp_path / "other", corruption=rsd_fast.corruptions.Identity(), **SHORT)


# settings


@pytest.mark.parametrize("command", [pretrain_command, distill_command], ids=lambda command: command.name)
def test_the_settings_are_the_commands_options(command):
    options = {parameter.name for parameter in command.params if parameter.expose_value} - {"dry_run"}
    only_in_python = {"data", "corruption"} if command.name == "distill" else set()
    assert set(STAGES[command.name]) - only_in_python == options | {"config"}


@pytest.mark.parametrize(
    "settings",
    [
        DIGITS,
        {**DIGITS, **TINY, "corruption": "gaussian_blur:size=3,std=0.5", "augment": "hflip", "seed": 7},
        {**DIGITS, "corruption": "random_mask:missing=0.5", "sigma_obs": 0, "delta": 0.2, "gated": True},
        {**DIGITS, "sigma_obs": (0.1, 0.3), "clean_share": 0.25, "cond": True, "label_dropout": 0.1},
        {**DIGITS, "preset": "small", "eval_kimg": 1, "eval_metrics": ("proximal-pixel-fd",), "micro_batch": "auto"},
        {**DIGITS, "preset": "edm-cifar10", "sigma_obs": 0, "attn_resolutions": (), "augment_probability": 0.3},
    ],
    ids=["plain", "blurred", "masked", "levels", "preset", "clean"],
)
def test_python_and_the_command_line_resolve_to_the_same_config(settings, tmp_path, capsys):
    code, printed, error = run_in_process(
        capsys, "pretrain", *as_options(settings), "--out", tmp_path / "r", "--dry-run"
    )
    assert code == 0, error
    assert to_json(resolve_pretrain({**settings, "out": tmp_path / "r"}).config) == printed


def test_both_resolve_a_distillation_alike(teacher, tmp_path, capsys):
    settings = {**SHORT, "teacher": teacher, "loss": "dmd", "fake_lr": 1e-4, "seed": 3, "eval_kimg": 0.032}
    code, printed, error = run_in_process(
        capsys, "distill", *as_options(settings), "--out", tmp_path / "r", "--dry-run"
    )
    assert code == 0, error
    assert to_json(resolve_distill({**settings, "out": tmp_path / "r"}).config) == printed


def as_options(settings: dict) -> list[str]:
    """As one types them."""
    options = []
    for name, value in settings.items():
        option = "--" + name.replace("_", "-")
        if value is True:
            options.append(option)
        elif isinstance(value, tuple | list):
            between = ":" if name == "sigma_obs" else ","
            options += [option, between.join(map(str, value)) or "none"]
        else:
            options += [option, str(getattr(value, "path", value))]
    return options


@pytest.mark.parametrize(
    ("settings", "field", "words"),
    [
        ({"lrr": 1e-3}, "lrr", "unknown setting of pretrain; did you mean 'lr'"),
        ({"eval_kmig": 1}, "eval_kmig", "did you mean 'eval_kimg'"),
        ({"lr": 0}, "lr", ""),
        ({"lr": "fast"}, "lr", "'fast'"),
        ({"batch": 10, "micro_batch": 3}, "batch", "10 is not divisible by micro-batch 3"),
        ({"channel_mult": "1,2"}, "channel_mult", "'1,2'"),
        ({"cond": 1}, "cond", "got 1"),
        ({"device": "tpu"}, "device", "'tpu'"),
        ({"preset": "huge"}, "preset", "'huge'; known: afhqv2-64"),
        ({"objective": "standard"}, "objective", "use 'tweedie'"),
        ({"objective": "best"}, "objective", "'best'"),
        ({"corruption": "fog"}, "corruption", "unknown corruption 'fog'; known: box_mask"),
        ({"corruption": "gaussian_blur:size=31"}, "corruption", "too large for 8x8 images"),
        ({"corruption": 3}, "corruption", "expected a SPEC or an operator"),
        ({"augment": "hflips"}, "augment", "'hflips'"),
        ({"sigma_obs": None}, "sigma_obs", "missing"),
        ({"sigma_obs": -1}, "sigma_obs", "-1"),
        ({"sigma_obs": float("nan")}, "sigma_obs", "nan"),
        ({"sigma_obs": "estimate"}, "sigma_obs", "with --simulate say how much noise to add"),
        ({"data": None}, "data", "missing"),
        ({"channel_mult": [1, 2, 2, 2, 2], "attn_resolutions": []}, "data", "8x8 images do not divide by 16"),
        ({"attn_resolutions": [5]}, "attn_resolutions", "are not among the levels' heights"),
        ({"delta": 0.2}, "delta", "hides nothing"),
        ({"corruption": "box_mask:size=2", "sigma_obs": 0, "delta": 0.2}, "delta", "hides a second box instead"),
        ({"eval_num": 20}, "eval_num", "without --eval-kimg"),
        ({"eval_kimg": 1, "eval_metrics": ["proximal-fod"]}, "eval_metrics", "unknown metric 'proximal-fod'"),
        ({"resume": True, "resume_or_start": True}, "resume", "exclude each other"),
    ],
)
def test_errors_name_their_setting(settings, field, words, tmp_path):
    with pytest.raises(FieldError) as error:
        rsd_fast.pretrain(out=tmp_path / "run", **{**DIGITS, **TINY, **settings})
    assert error.value.field == field and words in error.value.problem, error.value
    assert not (tmp_path / "run").exists()


def test_a_distillation_names_its_settings_too(teacher, tmp_path):
    for settings, field in [({"alhpa": 1.0}, "alhpa"), ({"tmax": 2000}, "tmax"), ({"loss": "kl"}, "loss")]:
        with pytest.raises(FieldError) as error:
            rsd_fast.distill(teacher, out=tmp_path / "run", **SHORT, **settings)
        assert error.value.field == field
    with pytest.raises(FieldError, match="teacher: missing"):
        rsd_fast.distill(out=tmp_path / "run")
    with pytest.raises(RunError, match="not a one-step generator"):
        teacher.generator()
    with pytest.raises(RunError, match="already holds a run"):
        rsd_fast.distill(teacher, out=teacher)


def test_settings_come_from_a_config_under_those_that_are_given(teacher, tmp_path):
    for config in (teacher.config_path, json.loads(teacher.config_path.read_text())):
        again = resolve_pretrain({"config": config, "out": tmp_path / "run"}).config
        assert again == teacher.config
    longer = resolve_pretrain({"config": teacher.config_path, "out": tmp_path / "run", "kimg": 0.5}).config
    assert longer.training.kimg == 0.5 and longer.training.lr == again.training.lr
    (tmp_path / "part.json").write_text(json.dumps({"training": {"lr": 1e-4}, "cond": True}))
    part = resolve_pretrain({**DIGITS, "config": tmp_path / "part.json", "out": tmp_path / "run"}).config
    assert part.training.lr == 1e-4 and part.observations.label_dim == 10


# the callback


def test_a_callback_sees_each_tick_and_may_stop_a_run_that_goes_on_later(teacher, tmp_path):
    records = []

    def stop(record: dict) -> bool:
        records.append(record)
        return record["kimg"] >= 0.032

    how = {**DIGITS, **TINY, "snapshot_kimg": 10.0, "out": tmp_path / "run"}
    run = rsd_fast.pretrain(**how, callback=stop)
    assert [record["kimg"] for record in records] == [0.016, 0.032] and records == run.log()
    assert run.latest().name == "000000.032" and run.denoiser() is not None
    run = rsd_fast.pretrain(out=tmp_path / "run", resume=True, callback=lambda record: None)
    for name in ("model", "training"):
        stopped, whole = weights(run, name), weights(teacher, name)
        assert stopped.keys() == whole.keys() and all(torch.equal(stopped[key], whole[key]) for key in whole)


def test_a_run_may_be_given_wherever_its_path_can(teacher, tmp_path):
    assert Path(teacher) == teacher.path
    assert rsd_fast.load_denoiser(teacher)(torch.zeros(1, 1, 8, 8), 1.0).shape == (1, 1, 8, 8)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda run: rsd_fast.pretrain("digits", out="r", precision="fp8"), "precision"),
        (lambda run: rsd_fast.sample(run, 2, precision="fp8"), "precision"),
        (lambda run: rsd_fast.evaluate(run, reference="digits", precision="fp8"), "precision"),
        (lambda run: rsd_fast.pretrain("digits", out="r", sigma_obs=0.5, simulate=True, callback=3), "callback"),
        (lambda run: rsd_fast.distill(run, out="r", callback=3), "callback"),
    ],
    ids=["pretrain", "sample", "evaluate", "callback", "callback-of-distill"],
)
def test_what_a_setting_cannot_be_is_refused_before_anything_is_done(call, field, teacher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FieldError) as error:
        call(teacher)
    assert error.value.field == field and not list(tmp_path.iterdir())


def test_sigma_obs_may_be_a_tensor(tmp_path):
    settings = {**DIGITS, **TINY, "out": tmp_path / "r"}
    for value in (torch.tensor(0.5), np.float32(0.5), np.array(0.5)):
        config = resolve_pretrain({**settings, "sigma_obs": value}).config
        assert to_json(config) == to_json(resolve_pretrain(settings).config)
