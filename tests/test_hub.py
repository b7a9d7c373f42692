"""Pushing a run and loading it by its id, through huggingface_hub, against a hub on this machine."""

import json
import os
import subprocess
import sys

import pytest

from rsd_fast import hub, push
from rsd_fast.config import Distill
from rsd_fast.loading import load
from rsd_fast.runs import RunError
from tests import generators
from tests.hub_server import Hub

PUSH_AND_LOAD = """
import json, sys, torch, rsd_fast
run = sys.argv[1]
address = rsd_fast.push_to_hub(run, "jane/digits", license="mit", private=True)
pushed = rsd_fast.load_generator("jane/digits")
assert torch.equal(pushed.sample(3, seed=1), rsd_fast.load_generator(run).sample(3, seed=1))
errors = []
for name in ("jane/nothing", "joe/none@v2"):
    try:
        rsd_fast.load_generator(name)
    except Exception as error:
        errors.append([type(error).__name__, str(error)])
print(json.dumps({"address": address, "errors": errors}))
"""


def run_folder(tmp_path):
    """A run directory with a checkpoint, a sample grid and evaluations."""
    run = tmp_path / "runs" / "gen"
    generators.write(run / "checkpoints" / "000012.500")
    (run / "latest").write_text("000012.500\n")
    (run / "config.json").write_text("{}")
    (run / "samples").mkdir()
    (run / "samples" / "000012.500.png").write_bytes(b"picture")
    records = [
        {"metric": "pixel-fd", "value": value, "num": 1000, "reference": "/home/jane/clean.npz", "features": "pixels"}
        | {"seed": 0, "kimg": 12.5, "checkpoint": checkpoint}
        for value, checkpoint in ((3.0, "000000"), (2.0, "000012.500"), (1.25, "000012.500"))
    ]
    lines = [json.dumps(record) for record in records]
    (run / "metrics.jsonl").write_text("\n".join([*lines, '{"metric": "pix']))
    return run


def test_a_run_goes_to_the_hub_and_comes_back_the_same(tmp_path):
    run = run_folder(tmp_path)
    with Hub() as hub:
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(tmp_path / "cache"),
            "HF_TOKEN": "hf_test",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        done = subprocess.run(
            [sys.executable, "-c", PUSH_AND_LOAD, run],
            env=environment,
            cwd=tmp_path,
            text=True,
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        files = hub.files["jane/digits"]
        assert any(request.endswith("/api/models/jane/digits/commit/main") for request in hub.requests)
    assert result["address"] == f"{hub.address}/jane/digits"
    for kind, message in result["errors"]:
        assert kind == "RunError" and "there is no such model" in message
    assert set(files) == {"README.md", "config.json", "model.safetensors", "samples.png"}
    assert files["samples.png"] == b"picture"
    assert b"license: mit" in files["README.md"]


def test_the_card_says_what_the_model_is_and_what_was_measured(tmp_path):
    run = run_folder(tmp_path)
    push.write_folder(run, tmp_path, repo_id="jane/digits")
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: rsd-fast\n") and "license" not in card
    for text in (
        "# digits\n",
        "one-step image generator, distilled from a diffusion teacher of corrupted images alone",
        "| images | 1x8x8 (C, H, W)",
        "| data | digits, 1797 images |",
        "| corruption A | `identity` (simulated, once for each image) |",
        "| noise sigma_obs | 0.5 |",
        "| objective | tweedie |",
        "| trained on | 12.5 thousand images |",
        f"{sum(p.numel() for p in load(run).network.parameters()):,} weights |",
        "Made with rsd-fast",
        "| distillation | sid, alpha 1.2, sigma_init 2.5 |",
        "| pixel-fd | 1.2500 | 1000 | clean.npz | pixels |",
        'load_generator("jane/digits")',
        "![Samples](samples.png)",
    ):
        assert text in card, text
    assert "2.0000" not in card and "3.0000" not in card  # an older evaluation, and another checkpoint's
    assert "/home" not in card


def test_the_card_of_a_converted_model_claims_no_training(tmp_path):
    generators.write(tmp_path / "run", kimg=0.0)
    pushed = tmp_path / "pushed"
    pushed.mkdir()
    push.write_folder(tmp_path / "run", pushed)
    card = (pushed / "README.md").read_text()
    assert "Converted by rsd-fast" in card and "| trained on | not known (converted) |" in card


def test_what_is_pushed_names_no_folder_of_this_machine(tmp_path):
    config = generators.config()
    observations = {**vars(config.observations), "data": "/home/jane/secret/data.npz"}
    teacher = "/home/jane/runs/teacher/checkpoints/000064/model.safetensors"
    config = Distill(**{**vars(config), "observations": type(config.observations)(**observations), "teacher": teacher})
    public = push.public(config)
    assert public.observations.data == "data.npz" and public.teacher == "teacher/000064"
    pushed = tmp_path / "pushed"
    pushed.mkdir()
    run = run_folder(tmp_path)
    push.write_folder(run, pushed)
    assert load(pushed).config == push.public(load(run).config)
    assert str(tmp_path).encode() not in (pushed / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("jane/galaxies", True),
        ("jane/galaxies@v1.0", True),
        ("./runs", False),
        ("runs/gen/checkpoints", False),
        ("/tmp/x", False),
        ("gen.safetensors", False),
        ("here/gen", False),
    ],
)
def test_an_id_is_what_can_be_no_path(tmp_path, monkeypatch, path, wanted):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert hub.means_id(path) is wanted


def test_without_the_client_an_id_is_a_missing_path_with_a_hint(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(RunError, match=r"jane/galaxies: no such run.*pip install 'rsd-fast\[hub\]'"):
        load("jane/galaxies")


def test_offline_an_id_is_refused_in_one_line():
    with pytest.raises(RunError, match=r"^jane/galaxies: no such file here, and not to be had from the hub: .*cache$"):
        load("jane/galaxies")


def test_a_measurement_of_the_card_has_its_error_and_no_reference_where_there_is_none():
    line = {"metric": "is", "value": 9.12345, "standard_error": 0.0512, "num": 50, "reference": None, "features": "x"}
    assert push._measured(line) == "| is | 9.1235 ± 0.051 | 50 |  | x |"
    del line["standard_error"]  # as older runs have it
    assert push._measured(line | {"reference": "a/clean.npz"}) == "| is | 9.1235 | 50 | clean.npz | x |"
