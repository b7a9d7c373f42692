"""The training engine: resume, accumulation, averages, checkpoints, and what happens when things go wrong."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rsd_fast import config as configs
from rsd_fast import files, loading, processes, train
from rsd_fast.build import build_denoiser
from rsd_fast.engine import Interrupted, NonFiniteLoss, Trainer
from rsd_fast.engine.ema import Ema
from rsd_fast.engine.log import Statistics
from rsd_fast.methods import PretrainMethod
from rsd_fast.run_dataset import open_observations
from rsd_fast.runs import Run, RunError

from . import tiny


def longer(config, **changes):
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **changes))


def model(run: Path) -> dict[str, torch.Tensor]:
    return load_file(Run(run).latest() / "model.safetensors")


def state(run: Path) -> dict[str, torch.Tensor]:
    return load_file(Run(run).latest() / "training.safetensors")


def assert_same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return train.pretrain(tiny.pretrain(), tmp_path_factory.mktemp("runs") / "teacher")


@pytest.mark.parametrize("threads", [1, 2])
def test_resumed_pretraining_is_the_same_run(teacher, tmp_path, threads):
    torch.set_num_threads(threads)
    try:
        resumed_pretraining(teacher, tmp_path)
    finally:
        torch.set_num_threads(1)


def resumed_pretraining(teacher: Path, tmp_path: Path) -> None:
    config = tiny.pretrain(network=dataclasses.replace(tiny.NETWORK, dropout=0.2))
    whole = train.pretrain(config, tmp_path / "whole")
    train.pretrain(longer(config, kimg=0.032), tmp_path / "halves")
    train.pretrain(config, tmp_path / "halves", resume=True)
    assert_same_bits(model(whole), model(tmp_path / "halves"))
    assert_same_bits(state(whole), state(tmp_path / "halves"))
    assert not torch.equal(model(whole)["model.map_layer0.weight"], model(teacher)["model.map_layer0.weight"])


def test_resumed_distillation_is_the_same_run(teacher, tmp_path):
    config = tiny.distill(tiny.pretrain(), loading.model_file(teacher))
    whole = train.distill(config, tmp_path / "whole")
    train.distill(longer(config, kimg=0.032), tmp_path / "halves")
    gone = dataclasses.replace(config, teacher=str(tmp_path / "gone"))
    train.distill(gone, tmp_path / "halves", resume=True)  # a resumed run needs no teacher but its own copy
    assert_same_bits(model(whole), model(tmp_path / "halves"))
    assert_same_bits(state(whole), state(tmp_path / "halves"))


def test_logging_and_snapshots_do_not_change_the_run(teacher, tmp_path):
    other = train.pretrain(longer(tiny.pretrain(), log_kimg=1.0, snapshot_kimg=1.0), tmp_path / "quiet")
    assert_same_bits(model(teacher), model(other))


def test_a_micro_batch_gives_the_gradient_of_the_batch(teacher, tmp_path):
    parts = train.pretrain(longer(tiny.pretrain(), micro_batch=4), tmp_path / "parts")
    for name, value in state(teacher).items():
        if ".exp_avg." in name:
            torch.testing.assert_close(state(parts)[name], value, rtol=1e-3, atol=1e-4)


def test_bf16_trains_float32_weights_to_about_the_same_loss(teacher, tmp_path):
    run = train.pretrain(longer(tiny.pretrain(), precision="bf16"), tmp_path / "bf16")
    assert {tensor.dtype for tensor in state(run).values()} == {torch.float32}
    losses = [
        [json.loads(line)["teacher_loss"] for line in (path / "log.jsonl").read_text().splitlines()]
        for path in (teacher, run)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[0] != losses[1]  # it was computed in another precision


def test_clipping_bounds_the_gradient_that_adam_sees(teacher, tmp_path):
    def first_moment_norm(run: Path) -> float:
        moments = [value for name, value in state(run).items() if ".exp_avg." in name]
        return torch.stack([moment.norm() for moment in moments]).norm().item()

    one_step = longer(tiny.pretrain(), kimg=0.016)
    free = train.pretrain(one_step, tmp_path / "free")
    clipped = train.pretrain(longer(one_step, clip=0.5), tmp_path / "clipped")
    assert first_moment_norm(free) > 0.1  # (1 - beta1) times the gradient's norm
    assert first_moment_norm(clipped) == pytest.approx(0.1 * 0.5, rel=1e-3)


def test_a_run_directory_holds_what_is_promised(teacher):
    config = configs.from_json((teacher / "config.json").read_text())
    assert config == tiny.pretrain()
    records = [json.loads(line) for line in (teacher / "log.jsonl").read_text().splitlines()]
    assert [record["kimg"] for record in records] == [0.016, 0.032, 0.048, 0.064]
    needed = {"kimg", "step", "teacher_loss", "teacher_sigma", "images_per_sec", "seconds", "peak_memory_gb"}
    assert all(needed <= record.keys() for record in records)
    assert all(record["teacher_sigma_min"] >= 0.5 for record in records)
    assert (teacher / "latest").read_text() == "000000.064\n"
    names = sorted(p.name for p in (teacher / "checkpoints").iterdir())
    assert names == ["000000", "000000.032", "000000.064"]
    pictures = {p.name for p in (teacher / "samples").iterdir()}
    assert pictures == {*(f"{name}.png" for name in names), "observations.png"}
    assert [p.parent.name for p in teacher.rglob("training.safetensors")] == ["000000.064"]
    assert not list(teacher.rglob(files.TEMPORARY_PREFIX + "*"))


def test_lr_ramps_up_and_ema_follows_its_half_life(teacher):
    records = [json.loads(line) for line in (teacher / "log.jsonl").read_text().splitlines()]
    assert [record["lr"] for record in records] == [5e-4, 1e-3, 1e-3, 1e-3]  # as it was used
    network, average = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(network.weight)
    torch.nn.init.zeros_(average.weight)
    ema = Ema(network, average, halflife_kimg=1.0, rampup=None)
    for step in range(10):
        ema.update((step + 1) * 100, 100)
    assert average.weight.item() == pytest.approx(0.5)  # after one half-life, half of it is new
    ramped = Ema(network, average, halflife_kimg=1.0, rampup=0.05)
    torch.nn.init.zeros_(average.weight)
    ramped.update(1000, 100)
    assert average.weight.item() == pytest.approx(1 - 0.5 ** (100 / 50))


def test_statistics_are_of_all_that_was_added():
    statistics = Statistics()
    statistics.add("a", torch.tensor([1.0, 2.0]))
    statistics.add("a", torch.tensor([6.0]))
    assert statistics.summary() == {"a": (3.0, 1.0, 6.0)}
    assert statistics.summary() == {}


def test_a_non_finite_loss_stops_the_run_and_saves_nothing_of_it(tmp_path):
    config = longer(tiny.pretrain(), lr=1e30, lr_rampup_kimg=0.0)
    with pytest.raises(NonFiniteLoss, match=r"teacher's loss or gradient is not finite at 0\.0\d* kimg"):
        train.pretrain(config, tmp_path / "run")
    for tensor in model(tmp_path / "run").values():
        assert torch.isfinite(tensor).all()
    with pytest.raises(NonFiniteLoss):  # and again: the checkpoint is sound, the settings are not
        train.pretrain(config, tmp_path / "run", resume=True)


def test_an_occupied_folder_is_refused_and_left_alone(teacher, tmp_path):
    before = sorted(p.name for p in teacher.iterdir())
    with pytest.raises(RunError, match="already holds a run"):
        train.pretrain(tiny.pretrain(), teacher)
    assert sorted(p.name for p in teacher.iterdir()) == before
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match=r"not empty \(it holds thesis.txt\) and not a run"):
        train.pretrain(tiny.pretrain(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(RunError, match="no run to resume"):
        train.pretrain(tiny.pretrain(), tmp_path / "absent", resume=True)


def test_a_run_killed_before_its_second_checkpoint_goes_on(teacher, tmp_path):
    class Killed(train.ShuffledObservations):
        def __call__(self, positions, then=None):
            if positions[0] >= 16:
                raise KeyboardInterrupt
            return super().__call__(positions, then)

    original, train.ShuffledObservations = train.ShuffledObservations, Killed
    try:
        with pytest.raises(KeyboardInterrupt):
            train.pretrain(tiny.pretrain(), tmp_path / "run")
    finally:
        train.ShuffledObservations = original
    assert Run(tmp_path / "run").latest().name == "000000"
    train.pretrain(tiny.pretrain(), tmp_path / "run", resume=True)
    assert_same_bits(model(teacher), model(tmp_path / "run"))


def test_a_checkpoint_that_lacks_a_tensor_is_named(teacher, tmp_path):
    shutil.copytree(teacher, tmp_path / "run")
    path = Run(tmp_path / "run").latest() / "training.safetensors"
    tensors = load_file(path)
    del tensors["teacher.weight.model.map_layer0.bias"]
    save_file(tensors, path)
    with pytest.raises(RunError, match=r"run.*map_layer0\.bias' is missing"):
        train.pretrain(tiny.pretrain(), tmp_path / "run", resume=True)


def test_damaged_runs_are_named(teacher, tmp_path):
    with pytest.raises(RunError, match=r"absent: no such run"):
        loading.load_denoiser(tmp_path / "absent")
    with pytest.raises(RunError, match="not a run"):
        loading.load_denoiser(tmp_path)
    with pytest.raises(RunError, match="holds a teacher, not a one-step generator"):
        loading.load_generator(teacher)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((Run(teacher).latest() / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(RunError, match=r"cut.safetensors: not a readable safetensors file"):
        loading.load_denoiser(cut)


def test_a_config_survives_json_and_names_what_is_wrong():
    config = tiny.distill(tiny.pretrain(), "teacher")
    assert configs.from_json(configs.to_json(config)) == config
    values = json.loads(configs.to_json(config))
    values["training"]["lr"] = "fast"
    with pytest.raises(ValueError, match=r"training\.lr: expected .*float.*, got 'fast'"):
        configs.from_json(json.dumps(values))
    values["training"] = {**values["training"], "lr": 1e-3, "momentum": 0.9}
    with pytest.raises(ValueError, match=r"training\.momentum: unknown field"):
        configs.from_json(json.dumps(values))
    with pytest.raises(ValueError, match="batch: 10 is not divisible by micro-batch 3"):
        tiny.training(batch=10, micro_batch=3)
    with pytest.raises(ValueError, match="sigma_obs: expected at least 0"):
        tiny.observations(sigma_obs=-0.1)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "file.txt"
    files.write_text(target, "old")
    with pytest.raises(OSError, match="full"), files.atomic_file(target) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    assert target.read_text() == "old"
    with pytest.raises(OSError, match="full"), files.atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "half").write_text("half")
        raise OSError("disk full")
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


SCRIPT = """
import sys
from rsd_fast import train
import tiny
config = tiny.pretrain(training=tiny.training(kimg=1000.0, snapshot_kimg=0.016))
train.pretrain(config, sys.argv[1], resume=sys.argv[2] == "resume")
"""


def start(run: Path, *how: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    here = Path(__file__).parent
    command = [sys.executable, "-c", SCRIPT, str(run), *how]
    return subprocess.Popen(command, cwd=here, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for(condition, process: subprocess.Popen) -> None:
    for _ in range(6000):
        if condition():
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)  # polls another process; no assertion depends on how long it takes
    raise AssertionError("did not come within a minute")


@pytest.mark.slow
def test_killed_at_any_instant_a_run_is_loadable_and_goes_on(tmp_path):
    run = tmp_path / "run"
    process = start(run, "start")
    for _ in range(4):
        seen = len(list(run.glob("checkpoints/0*")))
        wait_for(
            lambda seen=seen: run.joinpath("config.json").exists() and len(list(run.glob("checkpoints/0*"))) > seen + 1,
            process,
        )
        process.kill()  # SIGKILL: nothing can be tidied up
        process.communicate()
        before = loading.load(run).kimg
        process = start(run, "resume")
        wait_for(lambda before=before: loading.load(run).kimg > before, process)
    process.terminate()
    _, errors = process.communicate()
    assert "Interrupted" in errors and "is saved at" in errors


@pytest.fixture
def heeded_sigint():
    """SIGINT as in a terminal: where a shell started the tests in the background, it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_saves_and_says_how_to_go_on(tmp_path, heeded_sigint):
    config = longer(tiny.pretrain(), kimg=1000.0, log_kimg=0.016)
    run = Run(tmp_path / "run")

    class Impatient(train.ShuffledObservations):
        def __call__(self, positions, then=None):
            if positions[0] >= 48:
                os.kill(os.getpid(), signal.SIGINT)
            return super().__call__(positions, then)

    original, train.ShuffledObservations = train.ShuffledObservations, Impatient
    try:
        with pytest.raises(Interrupted, match=r"SIGINT: .* is saved at 0\.064 kimg; go on with --resume"):
            train.pretrain(config, run.path)
    finally:
        train.ShuffledObservations = original
    assert run.latest().name == "000000.064"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def trainer(config, run: Path, **options) -> Trainer:
    """Of a teacher, not yet stepped."""
    torch.manual_seed(config.training.seed)
    data = train.ShuffledObservations(open_observations(config.observations), seed=config.training.seed)
    return Trainer(PretrainMethod(config, build_denoiser(config)), config, Run(run), data=data, **options)


def test_a_callback_has_each_record_of_the_log_and_changes_nothing(tmp_path):
    records = []
    for name, callback in (("watched", records.append), ("alone", None)):
        trainer(tiny.pretrain(), tmp_path / name, callback=callback).run_to_end()
    assert records == Run(tmp_path / "watched").log() and len(records) == 4
    assert_same_bits(state(tmp_path / "watched"), state(tmp_path / "alone"))


def test_a_callback_stops_a_run_which_is_saved_and_goes_on(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    config = longer(tiny.pretrain(), snapshot_kimg=1.0)  # none is due when it is stopped
    trainer(config, whole).run_to_end()
    evaluated = []

    def evaluate(folder):
        evaluated.append(folder.name)
        return [{"metric": "fid", "value": 1.0, "floor": None, "checkpoint": folder.name}]

    first = trainer(
        dataclasses.replace(config, monitoring=configs.Monitoring(eval_kimg=1.0)),
        stopped,
        callback=lambda record: record["step"] == 2,
        evaluate=evaluate,
    )
    first.run_to_end()
    assert [record["kimg"] for record in Run(stopped).log()] == [0.016, 0.032]
    assert Run(stopped).latest().name == "000000.032"
    assert evaluated == ["000000", "000000.032"], "as at an end"
    trainer(config, stopped, state=Run(stopped).load_training()).run_to_end()
    assert_same_bits(state(whole), state(stopped))


def test_an_interruption_comes_before_what_a_callback_says(tmp_path, heeded_sigint):
    def interrupt(record):
        if record["step"] == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return record["step"] == 2

    with pytest.raises(Interrupted, match=r"is saved at 0\.032 kimg"):
        trainer(tiny.pretrain(), tmp_path, callback=interrupt).run_to_end()


@pytest.mark.parametrize("said", [True, False])
def test_the_first_process_decides_for_all(said, monkeypatch):
    def from_the_first(values, src):
        assert src == 0
        values.fill_(said)

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(processes.dist, "broadcast", from_the_first)
    monkeypatch.setattr(processes.dist, "get_backend", lambda: "gloo")
    assert [processes.broadcast(flag) for flag in (True, False)] == [said, said]
