"""Networks, presets and checkpoints from the command line."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import rsd_fast
from rsd_fast import networks, presets
from rsd_fast.cli.distill import distill
from rsd_fast.cli.pretrain import pretrain
from rsd_fast.config import Distillation, Objective, Training, UNet
from tests import edm_files, generators
from tests.command_line import cli, run_in_process

SMALL = ["--model-channels", "8", "--channel-mult", "1,2", "--num-blocks", "1", "--attn-resolutions", "4"]
SHORT = ["--kimg", "0.064", "--batch", "32", "--log-kimg", "0.064", "--snapshot-kimg", "0.064", "--device", "cpu"]


def run(capsys, *arguments):
    code, out, error = run_in_process(capsys, *arguments)
    assert code == 0, error
    return out


def dry_run(capsys, *arguments):
    return json.loads(run(capsys, *arguments, "--dry-run"))


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A few 32x32 colour images, of classes."""
    file = tmp_path_factory.mktemp("data") / "clean.npz"
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (24, 3, 32, 32), np.uint8)
    np.savez(file, images=images, labels=np.arange(24) % 4)
    return file


@pytest.fixture
def checkpoint(tmp_path):
    """A published pickle of a small network."""
    torch.manual_seed(0)
    settings = {"image_size": 8, "in_channels": 1, "out_channels": 1, "model_channels": 8, "channel_mult": (1, 2)}
    denoiser = networks.create("ncsnpp", **settings, num_blocks=1, attn_resolutions=(4,), augment_dim=9)
    edm_files.write_pickle(tmp_path / "edm.pkl", denoiser, img_resolution=8, img_channels=1)
    return tmp_path / "edm.pkl"


def test_a_published_checkpoint_is_converted_distilled_and_sampled(checkpoint, tmp_path):
    described = ["--sigma-obs", "0.2", "--preset", "digits"]
    done = cli("convert", checkpoint, tmp_path / "teacher", *described)
    assert done.stdout.strip() == f"{tmp_path / 'teacher'}: denoiser, ncsnpp, images 1x8x8"
    cli("distill", "--teacher", tmp_path / "teacher", "--out", tmp_path / "gen", *SHORT)
    cli("sample", "--run", tmp_path / "gen", "--out", tmp_path / "samples.npz", "--num", 5)
    assert np.load(tmp_path / "samples.npz")["images"].shape == (5, 1, 8, 8)
    config = json.loads((tmp_path / "gen" / "config.json").read_text())
    assert config["objective"]["name"] == "tweedie" and config["observations"]["data"] == "edm.pkl"

    cli("convert", tmp_path / "gen", tmp_path / "gen.pt", "--to", "edm-state-dict")
    state = torch.load(tmp_path / "gen.pt", weights_only=True)
    assert "model.enc.8x8_conv.weight" in state
    cli("convert", tmp_path / "gen.pt", tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_convert_says_what_is_wrong_in_one_line(checkpoint, tmp_path, capsys):
    (tmp_path / "evil.pkl").write_bytes(b"cposix\nsystem\n(S'touch gone'\ntR.")
    (tmp_path / "page.pkl").write_bytes(b"<!doctype html><html>not found</html>")
    out = tmp_path / "out"
    for arguments, code, culprit in [
        ([tmp_path / "absent.pkl", out], 1, "absent.pkl: no such file"),
        ([tmp_path / "evil.pkl", out], 1, "names posix.system"),
        ([tmp_path / "page.pkl", out], 1, "page.pkl: a web page"),
        ([checkpoint, out, "--key", "G"], 1, "holds no network under 'G'; it holds ema, dataset_kwargs"),
        ([checkpoint, tmp_path], 1, "exists already"),
        ([checkpoint, out, "--corruption", "fog"], 2, "unknown corruption 'fog'"),
        ([checkpoint, out, "--corruption", "random_mask:missing=.5"], 1, "has 1 input and 1 output channels"),
        ([checkpoint, out, "--preset", "huge"], 2, "unknown preset 'huge'"),
        ([checkpoint, out, "--preconditioning", "vp"], 1, "has the preconditioning 'edm', not 'vp'"),
        ([checkpoint, out, "--image-width", "9"], 1, "8x9 images do not divide by 2"),
        ([checkpoint, out, "--to", "edm-state-dict"], 2, "out: expected a name that ends in .safetensors"),
        ([checkpoint, out.with_suffix(".pt"), "--to", "edm-state-dict"], 1, "edm.pkl: not a readable safetensors file"),
        ([checkpoint, out, "--to", "onnx", "--sigma-obs", "1"], 2, "--sigma-obs: describes a published checkpoint"),
        ([checkpoint], 2, "OUT"),
    ]:
        actual, printed, error = run_in_process(capsys, "convert", *arguments)
        assert (actual, printed) == (code, "") and culprit in error and error.count("\n") == 1, error
        assert not out.exists()


def test_a_generator_is_exported(tmp_path, capsys):
    made = generators.write(tmp_path / "gen")
    code, printed, error = run_in_process(
        capsys, "convert", tmp_path / "gen", tmp_path / "g.pt2", "--to", "torch-export"
    )
    assert code == 0 and printed.strip() == str(tmp_path / "g.pt2"), error
    inputs = rsd_fast.export.example_inputs(made)
    images = torch.export.load(tmp_path / "g.pt2").module()(**inputs)
    torch.testing.assert_close(images.clamp(-1, 1), made.sample(2), rtol=1e-5, atol=1e-5)


def test_presets_are_listed_and_shown(capsys):
    _, listed, _ = run_in_process(capsys, "presets")
    assert [line.split()[0] for line in listed.splitlines()] == presets.names()
    _, shown, _ = run_in_process(capsys, "presets", "edm-imagenet64")
    assert (
        "295.9 M" in shown and "  channel-mult         1,2,3,4" in shown and "  kimg                 2500000" in shown
    )
    _, as_json, _ = run_in_process(capsys, "presets", "edm-imagenet64", "--json")
    assert json.loads(as_json)["network"]["architecture"] == "adm"
    code, _, error = run_in_process(capsys, "presets", "huge")
    assert code == 2 and "unknown preset 'huge'; known: afhqv2-64" in error


def test_a_preset_gives_the_settings_and_every_option_overrides_it(clean, tmp_path, capsys):
    where = ["pretrain", "--data", clean, "--simulate", "--out", tmp_path / "run", "--device", "cpu"]
    config = dry_run(capsys, *where, "--preset", "edm-cifar10-ncsnpp")
    assert config["network"]["architecture"] == "ncsnpp" and config["network"]["augment_dim"] == 9
    assert config["augment_probability"] == 0.12 and config["observations"]["sigma_obs"] == 0
    assert (config["training"]["batch"], config["training"]["lr"]) == (512, 1e-3)

    changed = ["--batch", "64", "--dropout", "0.3", "--adam-eps", "1e-6", "--architecture", "adm", "--no-gated"]
    config = dry_run(capsys, *where, "--preset", "edm-cifar10-ncsnpp", "--augment-probability", "0", *changed)
    assert config["network"]["architecture"] == "adm" and config["network"]["augment_dim"] == 0
    assert config["network"]["dropout"] == 0.3 and config["training"]["adam_eps"] == 1e-6
    assert config["training"]["batch"] == 64 and config["augment_probability"] == 0


def test_presets_with_an_operator_or_classes_bring_them(clean, tmp_path, capsys):
    where = ["pretrain", "--data", clean, "--simulate", "--out", tmp_path / "run", "--device", "cpu"]
    config = dry_run(capsys, *where, "--preset", "inpainting64")
    assert config["observations"]["corruption"].startswith("random_mask:missing=0.6")
    assert config["objective"]["name"] == "ambient" and config["training"]["clip"] == 1
    config = dry_run(capsys, *where, "--preset", "inpainting64", "--corruption", "random_mask:missing=0.9")
    assert config["observations"]["corruption"].startswith("random_mask:missing=0.9")
    config = dry_run(capsys, *where, "--preset", "edm-imagenet64")
    assert config["observations"]["label_dim"] == 4 and config["network"]["attn_levels"] == [1, 2, 3]


def test_images_with_noise_are_never_augmented_by_interpolation(clean, tmp_path, capsys):
    where = ["pretrain", "--data", clean, "--simulate", "--out", tmp_path / "run", "--device", "cpu"]
    for how in (["--sigma-obs", "0.2"], ["--corruption", "gaussian_blur:size=5,std=1"]):
        config = dry_run(capsys, *where, "--preset", "edm-cifar10", *how)
        assert config["augment_probability"] == 0 and config["network"]["augment_dim"] == 0
        code, _, error = run_in_process(
            capsys, *where, "--preset", "edm-cifar10", *how, "--augment-probability", "0.1", "--dry-run"
        )
        assert code == 2 and "--augment-probability: " in error and "for clean images alone" in error


def test_training_with_augmentation_teaches_the_network_its_labels(tmp_path, capsys):
    arguments = ["--simulate", "--sigma-obs", "0", "--augment-probability", "0.5", *SMALL, *SHORT]
    run(capsys, "pretrain", "--data", "digits", *arguments, "--out", tmp_path / "run")
    checkpoints = sorted((tmp_path / "run" / "checkpoints").iterdir())
    first, last = (load_file(folder / "model.safetensors")["model.map_augment.weight"] for folder in checkpoints)
    assert first.shape == (8, 9) and (first != last).any(0).all()
    denoiser = rsd_fast.load_denoiser(tmp_path / "run")
    x = torch.zeros(1, 1, 8, 8)
    assert not torch.equal(denoiser(x, 1.0), denoiser(x, 1.0, augment_labels=torch.ones(1, 9)))


@pytest.mark.parametrize("architecture", ["ncsnpp", "adm"])
def test_both_stages_run_on_every_architecture(tmp_path, capsys, architecture):
    network = [*SMALL, "--architecture", architecture]
    run(
        capsys,
        "pretrain",
        "--data",
        "digits",
        "--simulate",
        "--sigma-obs",
        "0.5",
        *network,
        *SHORT,
        "--out",
        tmp_path / "t",
    )
    run(capsys, "distill", "--teacher", tmp_path / "t", *SHORT, "--out", tmp_path / "g")
    assert torch.isfinite(rsd_fast.load_generator(tmp_path / "g").sample(4)).all()


def test_both_stages_run_on_the_gated_network_of_masked_images(tmp_path, capsys):
    network = [*SMALL, "--gated", "--hidden-noise", "sigma"]
    masked = ["--corruption", "random_mask:missing=0.5", "--sigma-obs", "0"]
    run(capsys, "pretrain", "--data", "digits", "--simulate", *masked, *network, *SHORT, "--out", tmp_path / "t")
    denoiser = rsd_fast.load_denoiser(tmp_path / "t")
    assert "model.enc.8x8_conv.gate_weight" in denoiser.state_dict()
    assert denoiser.state_dict()["model.dec.8x8_aux_conv.weight"].shape[0] == 2
    run(capsys, "distill", "--teacher", tmp_path / "t", *SHORT, "--out", tmp_path / "g")
    assert torch.isfinite(rsd_fast.load_generator(tmp_path / "g").sample(4)).all()


def test_options_that_would_change_nothing_are_refused(tmp_path, capsys):
    where = ["pretrain", "--data", "digits", "--simulate", "--sigma-obs", "0.1", "--out", tmp_path / "run"]
    for option, message in [
        (["--hidden-noise", "sigma"], "--hidden-noise: objective 'tweedie' hides nothing"),
        (["--label-dropout", "0.1"], "--label-dropout: without --cond"),
    ]:
        code, _, error = run_in_process(capsys, *where, *option)
        assert code == 2 and message in error


# What no option sets follows from the data (augment_dim, attention by level), or is for imported weights alone.
DERIVED = {"augment_dim", "attn_levels", "preconditioning", "name"}


def test_every_setting_is_an_option():
    known = {parameter.name for command in (pretrain, distill) for parameter in command.params}
    for kind in (UNet, Training, Objective, Distillation):
        missing = {field.name for field in dataclasses.fields(kind)} - known - DERIVED
        assert not missing, kind


def test_push_prints_its_card_and_refuses_other_names(tmp_path, capsys):
    generators.write(tmp_path / "gen")
    code, card, _ = run_in_process(capsys, "push", tmp_path / "gen", "jane/digits", "--dry-run", "--license", "mit")
    assert code == 0 and "license: mit" in card and "# digits" in card
    code, _, error = run_in_process(capsys, "push", tmp_path / "gen", "digits")
    assert code == 2 and "expected an id such as jane/galaxies, got 'digits'" in error
    code, _, error = run_in_process(capsys, "push", tmp_path / "absent", "jane/digits", "--dry-run")
    assert code == 1 and "absent: no such run" in error
