"""The registry of metrics: whatever lists or asks for metrics reads it, so that a new one touches nothing else."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rsd_fast
import rsd_fast.cli.evaluate  # before a test adds a metric to its help
from rsd_fast.api.training import TrainedRun
from rsd_fast.config import Monitoring
from rsd_fast.corruptions import Identity
from rsd_fast.data import open_source, write_npz
from rsd_fast.engine.selection import Selection
from rsd_fast.errors import FieldError
from rsd_fast.evaluation import Stopwatch, evaluate_path
from rsd_fast.evaluation.metrics import METRICS, PairMetric, Result, SetMetric, names, of_networks
from rsd_fast.evaluation.training import refuse_metrics
from rsd_fast.reporting.reading import Measurement
from rsd_fast.runs import Run

from . import generators
from .command_line import run_in_process

ROOT = Path(__file__).parents[1]


@pytest.fixture
def registry(monkeypatch):
    """A registry that forgets what a test adds."""
    monkeypatch.setattr(METRICS, "_records", dict(METRICS._records))
    return METRICS


@pytest.fixture
def mean_grey(registry):
    """A metric of pixels: how much brighter or darker samples are than the reference."""

    def compute(pixels, reference):
        return Result(float((pixels.mean() - reference.mean()).abs()), settings={"of": "pixels"})

    registry.add("mean-grey", SetMetric(about="difference of the mean grey", lower_is_better=True, compute=compute))


@pytest.fixture
def generator(tmp_path, monkeypatch):
    monkeypatch.setenv("RSD_FAST_CACHE", str(tmp_path / "cache"))
    generators.write(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.mark.usefixtures("mean_grey")
def test_a_new_metric_is_evaluated_listed_and_chooses_checkpoints(generator, tmp_path, capsys):
    digits = open_source("digits").tensor(range(1797))
    write_npz(tmp_path / "dull.npz", digits[:50] / 2)
    (result,) = evaluate_path(["mean-grey"], str(tmp_path / "dull.npz"), reference="digits")
    expected = abs(open_source(tmp_path / "dull.npz").tensor(range(50)).mean() - digits.mean())
    assert result.value == pytest.approx(float(expected), rel=1e-5)
    assert (result.features, result.settings, result.num) == ("pixels", {"of": "pixels"}, 50)

    how = ["--run", generator, "--reference", "digits", "--num", 30, "--json", tmp_path / "r.json", "--device", "cpu"]
    code, out, error = run_in_process(capsys, "evaluate", *how, "--metrics", "mean-grey,pixel-fd,proximal-mean-grey")
    assert code == 0, error
    assert [line.split()[0] for line in out.splitlines()] == ["mean-grey", "pixel-fd", "proximal-mean-grey"]
    values = {record["metric"]: record["value"] for record in json.loads((tmp_path / "r.json").read_text())}
    assert values["mean-grey"] > 0 and values["proximal-mean-grey"] != values["mean-grey"]

    code, _, error = run_in_process(capsys, "evaluate", *how, "--metrics", "mean-gray")
    assert code == 2 and "proximal-mean-grey" in error and "did you mean 'mean-grey'?" in error

    monitoring = Monitoring(eval_kimg=1, eval_metrics=("proximal-mean-grey",), eval_features="vgg16")
    refuse_metrics(monitoring)
    like = {"metric": "proximal-mean-grey", "num": 1000, "seed": 0, "training": True, "features": "pixels"}
    assert Selection([{**like, "checkpoint": "1", "value": 3.0}], monitoring, 0).best == "1"
    measured = dict(features="pixels", value=1, error=0, floor=0, num=9, kimg=0, checkpoint="", line={})
    assert Measurement(metric="proximal-mean-grey", **measured).distance
    assert not Measurement(metric="unheard-of", **measured).distance


def test_a_new_metric_of_a_networks_features(registry, tmp_path, monkeypatch):
    pytest.importorskip("torch_fidelity")
    monkeypatch.setenv("RSD_FAST_CACHE", str(tmp_path / "cache"))
    registry.add(
        "widest",
        SetMetric(
            about="greatest feature",
            lower_is_better=False,
            compute=lambda features, reference: Result(float(features.max() - reference)),
            prepare=lambda reference: float(reference.all().max()) + reference.count + reference.num / 1000,
            layer="fid",
        ),
    )
    write_npz(tmp_path / "dark.npz", torch.full((5, 1, 8, 8), -1.0))
    (result,) = rsd_fast.evaluate(
        tmp_path / "dark.npz", metrics="widest", reference="digits", features="pixels", device="cpu"
    )
    assert result.value == pytest.approx(-1 - (1 + 1797 + 0.005))
    assert "widest" in of_networks() and "proximal-widest" in names(SetMetric)
    with pytest.raises(FieldError, match="must be proximal-fid or proximal-kid or proximal-pixel-fd"):
        refuse_metrics(Monitoring(eval_kimg=1, eval_metrics=("proximal-widest",)))


def test_a_new_metric_of_pairs(registry, tmp_path):
    def on(device):
        return lambda images, truth: (images - truth).abs().flatten(1).mean(1)

    registry.add("mae", PairMetric(about="mean error", lower_is_better=True, on=on, package=None))
    write_npz(tmp_path / "a.npz", torch.zeros(3, 1, 8, 8))
    write_npz(tmp_path / "b.npz", torch.tensor([0.1, -0.2, 0.6]).reshape(3, 1, 1, 1).expand(3, 1, 8, 8))
    (result,) = rsd_fast.evaluate(tmp_path / "a.npz", metrics=["mae"], reference=tmp_path / "b.npz", device="cpu")
    assert result.value == pytest.approx(0.3, abs=1e-6) and "proximal-mae" not in names()


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="'fid': the name is taken"):
        METRICS.add("fid", METRICS["fid"])


def test_metrics_are_listed_without_torch():
    code = "import sys, rsd_fast.evaluation.metrics, rsd_fast.cli.evaluate; print({'torch', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"


def test_the_commands_help_lists_every_metric(capsys):
    _, out, _ = run_in_process(capsys, "evaluate", "--help")
    listed = dict(line.split(maxsplit=1) for line in out.partition("Metrics:\n")[2].splitlines())
    assert listed == {name: metric.about for name, metric in METRICS.items()}


def test_the_readmes_table_is_the_registry():
    rows = re.findall(r"^\| `([\w-]+)` \| (.*) \| (lower|higher) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    better = {True: "lower", False: "higher"}
    assert rows == [(name, metric.about, better[metric.lower_is_better]) for name, metric in METRICS.items()]


# rsd_fast.evaluate


def test_the_function_is_the_command(generator, tmp_path, capsys):
    how = ["--run", generator, "--reference", "digits", "--num", 30, "--seed", 2, "--precision", "fp32"]
    metrics = ["--metrics", "pixel-fd,proximal-pixel-fd", "--no-cache", "--device", "cpu", "--batch", 16]
    assert run_in_process(capsys, "evaluate", *how, *metrics, "--json", tmp_path / "r.json")[0] == 0
    watch = Stopwatch()
    results = rsd_fast.evaluate(
        Run(Path(generator)),
        metrics=["pixel-fd", "proximal-pixel-fd"],
        reference="digits",
        **{"num": 30, "seed": 2, "precision": "fp32", "cache": False, "device": "cpu", "batch": 16, "watch": watch},
    )
    assert [vars(result) for result in results] == json.loads((tmp_path / "r.json").read_text())
    assert set(watch.seconds) == {"reference", "images", "features", "metrics"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma_ob": 0.1}, "sigma_ob: unknown option of evaluate; did you mean 'sigma_obs'?"),
        ({"metrics": "pixel-df"}, "metrics: unknown metric 'pixel-df'; .*; did you mean 'pixel-fd'?"),
        ({"precision": "fp32"}, "precision: digits is no run, but a set of images"),
        ({"steps": 9}, "steps: digits is no run, but a set of images"),
        ({"device": "cuda"}, "device: no CUDA device is available"),
        ({"batch": 0}, "batch: expected at least 1, got 0"),
        ({"metrics": "fid", "features": "resnet"}, "features: unknown 'resnet'"),
        ({"reference": None}, "reference: pixel-fd compares with clean images"),
    ],
)
def test_an_option_that_does_not_fit_is_named(options, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(FieldError, match="^" + message.replace("?", r"\?")) as raised:
        rsd_fast.evaluate("digits", **{"reference": "digits", "device": "cpu", **options})
    assert raised.value.field == message.partition(":")[0]


def test_the_operator_that_a_run_was_given_observes_its_samples(generator):
    class Dimming(Identity):
        def __init__(self):
            super().__init__()
            self.operator = None

        def forward(self, x, **how):
            return x / 2

    def distance(corruption):
        run = TrainedRun(Path(generator), corruption)
        return rsd_fast.evaluate(run, metrics="proximal-pixel-fd", num=30, device="cpu", precision="fp32")[0].value

    assert distance(None) == distance(Identity()) != distance(Dimming())
    how = {"observations": open_source("digits").tensor(range(90)), "sigma_obs": 0.2, "simulate": True}
    dim, same, spec = (
        rsd_fast.evaluate("digits", metrics="proximal-pixel-fd", corruption=corruption, device="cpu", num=50, **how)[0]
        for corruption in (Dimming(), Identity(), "identity")
    )
    assert same == spec and same.sampling == {"corruption": "identity", "sigma_obs": 0.2}
    assert dim.value != same.value


def test_images_in_memory_are_evaluated():
    digits = open_source("digits").tensor(range(60))
    (result,) = rsd_fast.evaluate(digits, reference=digits.numpy(), device="cpu")
    assert result.value < 1e-6 and result.num == 60
    with pytest.raises(FieldError, match="truncate: a Tensor is no run"):
        rsd_fast.evaluate(digits, reference=digits, truncate=True, device="cpu")
    with pytest.raises(FieldError, match="observations: applies to proximal metrics"):
        rsd_fast.evaluate(digits, reference=digits, observations=digits, device="cpu")
