"""What a run tells of itself while it trains: evaluations without a clean image, the best checkpoint, signals, logs."""

import json
import shutil
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch

from rsd_fast import loading, sampler, train
from rsd_fast.config import Monitoring
from rsd_fast.corruptions import View
from rsd_fast.engine import Interrupted
from rsd_fast.engine.log import SIGMA_EDGES, Statistics
from rsd_fast.engine.publish import Publisher, numbers
from rsd_fast.engine.selection import Selection
from rsd_fast.evaluation import evaluate_path
from rsd_fast.evaluation.training import CheckpointEvaluator
from rsd_fast.methods import DistillMethod
from rsd_fast.methods.distill import Compared
from rsd_fast.objectives import Noised
from rsd_fast.runs import Run
from rsd_fast.sampler import Sampling

from . import generators, tiny
from .command_line import cli, run_in_process, two_processes
from .test_methods import LinearDenoiser, batch

EVERY = Monitoring(eval_kimg=0.016, eval_num=50)  # each step of tiny.training


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return train.pretrain(tiny.pretrain(monitoring=EVERY), tmp_path_factory.mktemp("runs") / "teacher")


def distilled(teacher, out, monitoring=EVERY, **changes):
    config = tiny.distill(Run(teacher).read_config(), Run(teacher).latest() / "model.safetensors")
    config = replace(config, monitoring=monitoring, training=replace(config.training, **changes))
    return train.distill(config, out)


@pytest.fixture(scope="module")
def generator(teacher, tmp_path_factory):
    return distilled(teacher, tmp_path_factory.mktemp("runs") / "generator")


# evaluations while training


@pytest.mark.parametrize("kind", ["teacher", "generator"])
def test_every_evaluation_is_what_the_command_gives_for_the_checkpoint(kind, request, tmp_path):
    run = request.getfixturevalue(kind)
    records = Run(run).metrics()
    assert [r["checkpoint"] for r in records] == ["000000", "000000.016", "000000.032", "000000.048", "000000.064"]
    for record in records:
        path = str(shutil.copytree(run / "checkpoints" / record["checkpoint"], tmp_path / record["checkpoint"]))
        how = Sampling(truncate=kind == "teacher")  # where there is noise a teacher's samples are
        (again,) = evaluate_path(["proximal-pixel-fd"], path, num=50, sampled=how)
        assert record["value"] == pytest.approx(again.value, rel=1e-5)  # another batch rounds otherwise
        assert record["floor"] == pytest.approx(again.floor, rel=1e-6)
        assert record["training"] and not again.training
        same = ("kimg", "reference_hash", "model_hash", "num", "seed", "sampling", "versions")
        assert all(record[name] == getattr(again, name) for name in same)
    best = min(records, key=lambda record: record["value"])
    assert (run / "best").read_text() == best["checkpoint"] + "\n"


def test_the_best_checkpoint_is_had_by_its_name(generator, capsys, tmp_path):
    best = Run(generator).named("best")
    assert loading.model_file(generator / "best") == best / "model.safetensors"
    run = shutil.copytree(generator, tmp_path / "run")
    (run / "best").write_text("000000.016\n")
    evaluate = ["evaluate", "--run", run / "best", "--metrics", "proximal-pixel-fd", "--num", 20]
    assert run_in_process(capsys, *evaluate)[0] == 0
    last = Run(run).metrics()[-1]
    assert (last["checkpoint"], last["num"]) == ("000000.016", 20), "recorded with the run"
    (run / "best").write_text("000000.999\n")
    code, _, error = run_in_process(capsys, "sample", "--run", run / "best", "--num", 2, "--out", tmp_path / "s.npz")
    assert code == 1 and "000000.999: named by" in error


def test_what_the_command_adds_chooses_no_checkpoint(generator, tmp_path):
    run = Run(shutil.copytree(generator, tmp_path / "run"))
    before = Selection(run.metrics(), EVERY, 0)
    worse = dict(run.metrics()[0], value=0.0, training=False)
    run.add_metrics([worse, dict(worse, checkpoint="run")])  # as of --steps 2, and of the teacher's own file
    after = Selection(run.metrics(), EVERY, 0)
    assert (after.best, after.since_best, after.names) == (before.best, before.since_best, before.names)
    evaluate_path(["proximal-pixel-fd"], str(run.path / "teacher.safetensors"), num=20)
    assert len(run.metrics()) == 7, "which is none of the run's checkpoints"


def test_a_run_without_the_name_of_its_best_checkpoint_finds_it_again(generator, tmp_path):
    run = Run(shutil.copytree(generator, tmp_path / "run"))
    (run.path / "best").unlink()  # as a kill in between leaves it
    train.distill(run.read_config(), run.path, resume=True)
    assert (run.path / "best").read_text() == (generator / "best").read_text()


def test_samples_that_are_not_finite_end_no_run(teacher, tmp_path, monkeypatch):
    draw = sampler.Sampler.draw
    monkeypatch.setattr(sampler.Sampler, "draw", lambda self, index, seed: draw(self, index, seed) / 0)
    run = Run(distilled(teacher, tmp_path / "run", replace(EVERY, stop_patience=9)))
    assert run.latest().name == "000000.064" and not (run.path / "best").exists()
    assert all(np.isnan(record["value"]) for record in run.metrics())


def test_evaluations_change_nothing_of_what_is_learned(teacher, generator, tmp_path):
    from safetensors.torch import load_file

    plain = distilled(teacher, tmp_path / "plain", Monitoring())
    for name in ("model", "training"):
        first, second = (load_file(Run(run).latest() / f"{name}.safetensors") for run in (plain, generator))
        assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    assert not Run(plain).metrics() and not (plain / "best").exists()
    assert len(list((plain / "checkpoints").iterdir())) == 3  # of --snapshot-kimg alone


def test_a_run_killed_before_an_evaluation_makes_up_for_it(teacher, generator, tmp_path, monkeypatch):
    def killed(self, checkpoint):
        if checkpoint.name == "000000.032":
            raise KeyboardInterrupt
        return evaluate(self, checkpoint)

    evaluate = CheckpointEvaluator.__call__
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(CheckpointEvaluator, "__call__", killed)
        distilled(teacher, tmp_path / "run")
    run = Run(tmp_path / "run")
    with run.metrics_path.open("a") as file:
        file.write('{"metric": "proximal-pix')  # as a kill in the middle of a line leaves it
    train.distill(run.read_config(), run.path, resume=True)
    assert run.metrics() == Run(generator).metrics()
    assert (run.path / "best").read_text() == (generator / "best").read_text()


def test_patience_ends_a_run_and_more_of_it_goes_on(teacher, tmp_path, monkeypatch, capsys):
    values = iter([5.0, 3.0, 4.0, 3.5, 9.0, 2.0, 8.0, 7.0])

    def scripted(self, checkpoint):
        like = {"metric": "proximal-pixel-fd", "features": "pixels", "num": 50, "seed": 0, "floor": None}
        like["training"] = True
        return [{**like, "value": next(values), "checkpoint": checkpoint.name, "kimg": float(checkpoint.name)}]

    monkeypatch.setattr(CheckpointEvaluator, "__call__", scripted)
    patient = replace(EVERY, stop_patience=2)
    run = Run(distilled(teacher, tmp_path / "run", patient, kimg=0.112))
    assert run.latest().name == "000000.048" and (run.path / "best").read_text() == "000000.016\n"
    assert "no evaluation after 000000.016 was better, 2 in a row: stopped" in capsys.readouterr().err
    train.distill(run.read_config(), run.path, resume=True)
    assert run.latest().name == "000000.048", "its patience is exhausted still"
    more = replace(run.read_config(), monitoring=replace(patient, stop_patience=3))
    train.distill(more, run.path, resume=True)
    assert run.latest().name == "000000.064", "the third in a row"
    train.distill(replace(more, monitoring=replace(patient, stop_patience=4)), run.path, resume=True)
    assert run.latest().name == "000000.112" and next(values, None) is None
    assert (run.path / "best").read_text() == "000000.080\n"


def test_an_interrupted_run_is_saved_before_it_is_evaluated(teacher, tmp_path, monkeypatch):
    import signal

    monkeypatch.setattr(CheckpointEvaluator, "__call__", lambda *a: signal.raise_signal(signal.SIGTERM) or [])
    monkeypatch.setattr("rsd_fast.engine.selection.Selection.report", lambda *a: "")
    with pytest.raises(Interrupted, match=r"saved at 0\.016 kimg"):
        distilled(teacher, tmp_path / "run")


def evaluations(*values, **other):
    like = {"metric": "proximal-fid", "features": "x", "num": 10, "seed": 0, "training": True, **other}
    return [{**like, "checkpoint": f"{i:06}", "value": value} for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "best", "since"),
    [
        ([3.0], "000000", 0),
        ([3.0, 1.0, 2.0], "000001", 1),
        ([1.0, 1.0, 1.0], "000000", 2),  # no better than the first
        ([float("nan"), 2.0, float("inf")], "000001", 1),
        ([float("nan")], None, 1),
        ([], None, 0),
    ],
)
def test_the_best_checkpoint(values, best, since):
    monitoring = Monitoring(
        eval_kimg=1, eval_num=10, eval_metrics=("proximal-fid",), eval_features="x", stop_patience=2
    )
    others = (
        evaluations(0.1, features="y")
        + evaluations(0.1, num=11)
        + evaluations(0.1, metric="fid")
        + evaluations(0.1, training=False)
    )
    found = Selection(others + evaluations(*values), monitoring, 0)
    assert (found.best, found.since_best, found.exhausted) == (best, since, since >= 2)


# signals


def test_means_by_band_of_sigma():
    statistics, generator = Statistics(), torch.Generator().manual_seed(0)
    sigma = torch.rand(500, generator=generator) ** 4 * 20
    sigma[0] = 1e6
    values = torch.randn(500, generator=generator)
    statistics.add_by_sigma("x", values[:200], sigma[:200])
    statistics.add_by_sigma("x", values[200:], sigma[200:])
    statistics.add_by_sigma("y", torch.ones(3), torch.tensor([0.0, 0.1, 0.2]))
    found = statistics.by_sigma()
    band = torch.bucketize(sigma, torch.tensor(SIGMA_EDGES[1:-1]), right=True)
    expected = [values[band == i].double().mean().item() for i in range(len(SIGMA_EDGES) - 1)]
    assert found["x"] == pytest.approx(expected, rel=1e-9)
    assert found["y"] == [1.0, 1.0, None, None, None, None] and found["edges"] == list(SIGMA_EDGES)
    assert statistics.by_sigma() == {}


@pytest.mark.parametrize("kind", ["plain", "mask", "fourier"])
def test_signals_are_their_formulas(kind, monkeypatch):
    torch.manual_seed(0)
    method = DistillMethod(generators.config(kind), generators.generator(kind).denoiser)
    for parameter in method.fake_phase.network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    given, signals = [], method.signals
    monkeypatch.setattr(method, "signals", lambda *arguments: given.append(arguments) or signals(*arguments))
    _, found = method.loss(method.generator_phase, batch(2))
    noised, (u, operator, _) = given[0][0].noised, given[0][0].observation
    sigma, draw = noised.sigma, operator.draw

    def estimate(network):
        condition = noised.view.condition
        F = network.raw(noised.net_input, sigma, None, None, condition)
        return network.denoise(F, noised.x_t, sigma, condition)

    f, g, seen = estimate(method.teacher), estimate(method.fake_phase.network), torch.ones_like(u)
    if kind == "fourier":
        f, g = method.corruption.apply(f, draw), method.corruption.apply(g, draw)
    if kind != "plain":
        seen = draw.mask
    weight = (sigma**2 + 0.25) / (0.5 * sigma) ** 2

    def squared(error):
        return ((error * seen) ** 2).flatten(1).sum(1)

    torch.testing.assert_close(found["fisher"], squared(f - g) / sigma**2 / u[0].numel(), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found["teacher_loss"], weight * squared(f - u), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found["fake_loss"], weight * squared(g - u), rtol=1e-3, atol=1e-4)
    assert found["diversity"].shape == (1,) and found["diversity"] > 0


def test_fisher_is_the_divergence_of_gaussians():
    """Of exact scores of N(0, a) and N(0, b), at x_t ~ N(0, a + sigma^2): sigma^2 E|score difference|^2 per pixel."""
    a, b = 0.5, 0.2
    method = DistillMethod(generators.config(), LinearDenoiser(torch.full((1, 8, 8), b)))
    method.fake_phase.network.log_variance.data.fill_(torch.tensor(a).log())
    sigma = torch.full((4000,), 0.7)
    x = torch.randn(4000, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * a**0.5
    x_t = x + 0.7 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    noised = Noised(sigma, x_t, x_t, x_t / (0.49 + 0.25) ** 0.5, View())
    F = [network.raw(noised.net_input, sigma) for network in (method.teacher, method.fake_phase.network)]
    found = method.signals(Compared(*F, noised, tiny.observed(x)))
    exact = 0.49 * (1 / (a + 0.49) - 1 / (b + 0.49)) ** 2 * (a + 0.49)
    assert found["fisher"].mean() == pytest.approx(exact, rel=0.02)
    gap = (found["teacher_loss"] - found["fake_loss"]).mean()  # the fake score is exact: Pythagoras
    weight = (0.49 + 0.25) / (0.5 * 0.7) ** 2
    assert gap == pytest.approx(weight * 0.49 * 64 * exact, rel=0.05)


def test_signals_are_logged(generator, teacher):
    last = json.loads((generator / "log.jsonl").read_text().splitlines()[-1])
    assert {"generator_fisher", "generator_teacher_loss", "generator_fake_loss", "generator_diversity"} <= last.keys()
    assert {"fake_loss", "generator_fisher", "generator_teacher_loss", "generator_fake_loss"} <= last["by_sigma"].keys()
    first = json.loads((teacher / "log.jsonl").read_text().splitlines()[0])
    assert len(first["by_sigma"]["teacher_loss"]) == len(SIGMA_EDGES) - 1
    assert first["by_sigma"]["teacher_loss"][:2] == [None, None]  # nothing is drawn below sigma_obs


# TensorBoard, W&B


def test_tensorboard_holds_what_is_logged(teacher, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = distilled(teacher, tmp_path / "run", replace(EVERY, tensorboard=True))
    events = EventAccumulator(str(run / "tensorboard"), {"images": 0, "scalars": 0})
    events.Reload()
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    for event, record in zip(events.Scalars("fake_loss"), log, strict=True):
        assert event.value == pytest.approx(record["fake_loss"], rel=1e-6)
        assert event.step == round(record["kimg"] * 1000)
    values = [event.value for event in events.Scalars("proximal-pixel-fd")]
    assert values == pytest.approx([r["value"] for r in Run(run).metrics()], rel=1e-6)
    assert "fake_loss/sigma 0.3-1" in events.Tags()["scalars"]
    assert len(events.Images("samples")) == 5


def test_wandb_is_told_the_same(tmp_path, monkeypatch):
    told = []
    run = types.SimpleNamespace(log=told.append, finish=lambda: told.append("finished"))
    started = {}
    fake = types.SimpleNamespace(init=lambda **how: started.update(how) or run, Image=lambda path: ("image", path))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    publisher = Publisher(tmp_path / "gen", project="galaxies", config='{"kind": "distill"}')
    publisher.scalars({"kimg": 1.5, "step": 3, "fake_loss": 2.0, "by_sigma": {}}, 1.5)
    publisher.picture(tmp_path / "grid.png", 1.5)
    publisher.close()
    assert started["config"] == {"kind": "distill"}
    assert started["project"] == "galaxies" and started["name"] == "gen"
    first = started["id"]
    Publisher(tmp_path / "gen", project="galaxies")
    assert started["id"] == first, "the run that is resumed"
    Publisher(tmp_path / "other" / "gen", project="galaxies")
    assert started["id"] != first
    assert started["resume"] == "allow"
    assert told == [
        {"fake_loss": 2.0, "images": 1500},
        {"samples": ("image", str(tmp_path / "grid.png")), "images": 1500},
        "finished",
    ]


def test_numbers_are_flat_and_name_their_bands():
    record = {"kimg": 1.0, "step": 2, "lr": 0.1, "by_sigma": {"edges": [0, 0.1, 80], "loss": [None, 4.0]}, "x": "y"}
    assert numbers(record) == {"lr": 0.1, "loss/sigma 0.1-80": 4.0}


# commands

NETWORK = ["--model-channels", 8, "--channel-mult", "1,2", "--num-blocks", 1, "--attn-resolutions", 4]
SHORT = ["--kimg", 0.064, "--batch", 16, "--snapshot-kimg", 0.032]
DATA = ["--data", "digits", "--simulate", "--corruption", "identity", "--sigma-obs", 0.5]


def test_the_commands_options(capsys, tmp_path):
    how = ["--eval-kimg", 0.032, "--eval-num", 20, "--stop-patience", 9]
    code, _, error = run_in_process(capsys, "pretrain", *DATA, *NETWORK, *SHORT, *how, "--out", tmp_path / "teacher")
    assert code == 0 and "proximal-pixel-fd" in error and "the best" in error
    assert [r["num"] for r in Run(tmp_path / "teacher").metrics()] == [20, 20, 20]
    distill = ["distill", "--teacher", tmp_path / "teacher", *SHORT]
    code, out, _ = run_in_process(capsys, *distill, "--out", tmp_path / "run", "--dry-run")
    assert json.loads(out)["monitoring"] == {
        **{"eval_kimg": 0.032, "eval_num": 1000, "eval_metrics": ["proximal-pixel-fd"], "eval_features": None},
        **{"eval_features_weights": None, "stop_patience": None, "tensorboard": False, "wandb": None},
    }
    how = ["--eval-metrics", "proximal-fid,proximal-precision"]
    _, out, _ = run_in_process(capsys, *distill, *how, "--out", tmp_path / "run", "--dry-run")
    assert json.loads(out)["monitoring"]["eval_features"] == "efficientnet-lite0"


def test_a_resumed_run_checks_what_is_asked_of_it(capsys, generator, teacher, tmp_path):
    run = shutil.copytree(generator, tmp_path / "run")
    resume = ["distill", "--resume", "--out", run]

    def monitoring(*how):
        code, out, error = run_in_process(capsys, *resume, *how, "--dry-run")
        return json.loads(out)["monitoring"] if code == 0 else error

    saved = monitoring()
    assert saved == json.loads((run / "config.json").read_text())["monitoring"]
    assert monitoring("--eval-metrics", "proximal-fid")["eval_features"] == "efficientnet-lite0"
    assert monitoring("--stop-patience", 3) == saved | {"stop_patience": 3}
    assert "--eval-metrics: the first chooses" in monitoring("--eval-metrics", "proximal-recall")
    assert "--eval-features: proximal-pixel-fd needs none" in monitoring("--eval-features", "vgg16")
    none = distilled(teacher, tmp_path / "none", Monitoring())
    resume[-1] = none
    assert "--eval-num: without --eval-kimg" in monitoring("--eval-num", 9)
    assert monitoring("--eval-kimg", 1)["eval_num"] == 1000


def test_a_distillation_without_its_observations_goes_unevaluated(capsys, tmp_path):
    np.save(tmp_path / "data.npy", np.zeros((40, 8, 8), np.uint8))
    how = ["--data", tmp_path / "data.npy", "--corruption", "identity", "--sigma-obs", 0.5, *NETWORK, *SHORT]
    assert run_in_process(capsys, "pretrain", *how, "--out", tmp_path / "teacher")[0] == 0
    (tmp_path / "data.npy").unlink()
    distill = ["distill", "--teacher", tmp_path / "teacher", *SHORT, "--out", tmp_path / "run"]
    code, _, error = run_in_process(capsys, *distill, "--eval-kimg", 1)
    assert code == 1 and "data.npy" in error
    code, _, error = run_in_process(capsys, *distill)
    assert code == 0 and "not evaluated" in error and "data.npy" in error
    assert not Run(tmp_path / "run").metrics()
    code, _, error = run_in_process(capsys, "distill", "--resume", "--out", tmp_path / "run", "--eval-kimg", 1)
    assert code == 1 and "go on with --eval-kimg 0" in error


def test_a_run_goes_on_where_its_observations_are_gone(capsys, teacher, tmp_path):
    run = Run(distilled(teacher, tmp_path / "run", replace(EVERY, stop_patience=3)))
    config = run.read_config()
    run.write_config(replace(config, observations=replace(config.observations, data="gone.npy")))
    code, _, error = run_in_process(capsys, "distill", "--resume", "--out", run.path)
    assert code == 1 and "gone.npy" in error and "--eval-kimg 0" in error
    assert run_in_process(capsys, "distill", "--resume", "--out", run.path, "--eval-kimg", 0, "--kimg", 0.08)[0] == 0
    assert run.read_config().monitoring.stop_patience is None


def test_large_images_are_compared_by_features(capsys, tmp_path):
    np.save(tmp_path / "data.npy", np.zeros((20, 64, 64, 3), np.uint8))
    how = ["--data", tmp_path / "data.npy", "--corruption", "identity", "--sigma-obs", 0.5, *NETWORK[:6], *SHORT]
    how = ["pretrain", *how, "--attn-resolutions", "none", "--eval-kimg", 1, "--out", tmp_path / "run", "--dry-run"]
    _, out, error = run_in_process(capsys, *how)
    monitoring = json.loads(out)["monitoring"]
    assert (monitoring["eval_metrics"], monitoring["eval_features"]) == (["proximal-fid"], "efficientnet-lite0"), error
    code, _, error = run_in_process(capsys, *how, "--eval-metrics", "proximal-pixel-fd")
    assert code == 2 and "--eval-metrics: proximal-pixel-fd is for images of at most 4096 values" in error


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (["--eval-kimg", "-1"], "--eval-kimg"),
        (["--stop-patience", "2"], "--stop-patience: counts evaluations"),
        (["--eval-num", "50"], "--eval-num: without --eval-kimg"),
        (["--eval-kimg", "1", "--eval-metrics", "fid"], "--eval-metrics: expected proximal ones"),
        (["--eval-kimg", "1", "--eval-metrics", "proximal-fod"], "unknown metric 'proximal-fod'"),
        (["--eval-kimg", "1", "--eval-metrics", "proximal-recall"], "--eval-metrics: the first chooses"),
        (
            ["--eval-kimg", "1", "--eval-metrics", "proximal-fid", "--eval-features-weights", "missing.pth"],
            "--eval-features-weights: missing.pth: no such file",
        ),
        (["--eval-kimg", "1", "--eval-features", "pixels"], "--eval-features: proximal-pixel-fd needs none"),
        (["--eval-kimg", "1", "--eval-metrics", "proximal-fid", "--eval-features", "resnet"], "unknown 'resnet'"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_anything_is_written(capsys, tmp_path, how, message):
    code, _, error = run_in_process(capsys, "pretrain", *DATA, *NETWORK, *SHORT, *how, "--out", tmp_path / "run")
    assert code == 2 and message in error and error.count("\n") == 1, error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_evaluate_as_one(tmp_path):
    generators.write(tmp_path / "model")
    how = ["--run", str(tmp_path / "model"), "--metrics", "proximal-pixel-fd,proximal-fid", "--features", "pixels"]
    how += ["--reference", "digits", "--num", "101", "--batch", "8", "--precision", "fp32"]
    cli("evaluate", *how, "--json", tmp_path / "one.json")
    two_processes("evaluate", *how, "--json", tmp_path / "two.json")
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    for first, second in zip(one, two, strict=True):
        for name in ("value", "standard_error", "floor"):
            assert second.pop(name) == pytest.approx(first.pop(name), rel=1e-3)
        assert second == first
