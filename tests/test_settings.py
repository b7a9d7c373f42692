"""Settings have one definition: options, defaults, checks and files all come from the fields."""

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass

import click
import numpy as np
import pytest
from click.testing import CliRunner

from rsd_fast import config, presets
from rsd_fast.cli import options
from rsd_fast.cli.distill import distill
from rsd_fast.cli.pretrain import pretrain
from rsd_fast.config import (
    Distill,
    Distillation,
    Monitoring,
    Objective,
    Observations,
    Pretrain,
    Settings,
    Training,
    UNet,
    setting,
    settings_from_file,
)
from rsd_fast.config.options import of_preset
from rsd_fast.config.setting import setting_of
from rsd_fast.errors import FieldError
from tests import tiny
from tests.command_line import ROOT, run_in_process

COMMANDS = {"pretrain": pretrain, "distill": distill}
# What no option sets: it follows from the data or other settings, or is only of weights that were imported.
NO_OPTION = {
    *("sigma_obs_min", "sigma_obs_in_data", "num_images", "image_shape", "observation_shape", "kind"),
    *("augment_dim", "preconditioning"),
}
OTHER_NAMES = {"label_dim": "cond", "attn_levels": "attn_resolutions", "name": "objective"}


@pytest.mark.parametrize("kind", [Observations, UNet, Objective, Training, Monitoring, Distillation, Pretrain, Distill])
def test_every_field_is_an_option_of_its_command_with_help_and_default(kind):
    commands = {Distillation: ["distill"], Distill: ["distill"], Training: [*COMMANDS], Monitoring: [*COMMANDS]}
    for command in commands.get(kind, ["pretrain"]):
        parameters = {parameter.name: parameter for parameter in COMMANDS[command].params}
        for field in dataclasses.fields(kind):
            if field.name in NO_OPTION or (isinstance(field.type, type) and issubclass(field.type, Settings)):
                continue
            option = parameters[OTHER_NAMES.get(field.name, field.name)]
            assert len(option.help.split()) >= 2, field.name
            settings = config.options(command)[option.name]
            words = config.default_text(settings, command)
            assert option.default is None and (not words or f"default: {words}]" in option.help), field.name
            assert words or field.name in ("data", "teacher", "eval_features_weights", "wandb")


def test_defaults_are_told_of_preset_and_field():
    texts = {name: config.default_text(option, "distill") for name, option in config.options("distill").items()}
    assert texts["alpha"] == "from the preset (1 or 1.2)" and texts["rho"] == "7" and texts["seed"] == "0"
    lengths = [preset.distill["kimg"] for preset in map(presets.load, presets.names())]
    assert texts["kimg"] == f"from the preset ({min(lengths):g} to {max(lengths):.10g})"
    assert texts["clip"] == "from the preset (1), or no clipping" and texts["reuse_batch"] == "no"
    assert texts["precision"] == "auto"


@dataclass(frozen=True, kw_only=True)
class Further(Settings):
    """Settings that a test has added."""

    warmth: float = setting(0.25, more_than=0, below=1, unit="kelvin", help="How warm it is.")
    counts: tuple[int, ...] = setting((1, 2), at_least=1, help="How many there are.")
    colour: str = setting("red", choices=("red", "green", "blue"), help="What colour it has.")
    bright: bool = setting(False, help="Is it bright?")
    most: int | None = setting(None, at_least=3, metavar="N", help="How many there may be.")
    hidden: int = setting(1, at_least=0)


@click.command()
@options.of_settings(config.options_of(Further))
def further(**values):
    """Make settings of the options."""
    click.echo(Further(**{name: value for name, value in values.items() if value is not None}))


def test_a_new_field_is_an_option_by_itself():
    runner = CliRunner()
    text = " ".join(runner.invoke(further, ["--help"]).output.split())
    assert "--warmth NUMBER How warm it is. [kelvin; default: 0.25] [0<x<1]" in text
    assert "--counts INTEGERS How many there are. [default: 1,2]" in text
    assert "--colour [red|green|blue]" in text and "--bright / --no-bright" in text and "--most N" in text
    assert "--hidden" not in text
    arguments = ["--warmth", ".5", "--counts", "3,4", "--colour", "blue", "--bright", "--most", "3"]
    made = runner.invoke(further, arguments).output.strip()
    assert made == str(Further(warmth=0.5, counts=(3, 4), colour="blue", bright=True, most=3))
    for bad in (["--warmth", "1"], ["--warmth", "nan"], ["--colour", "grey"], ["--most", "2"]):
        assert runner.invoke(further, bad).exit_code == 2, bad


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"warmth": 1}, "warmth: expected 0 < warmth < 1, got 1"),
        ({"warmth": float("nan")}, "warmth: expected 0 < warmth < 1, got nan"),
        ({"warmth": "hot"}, "warmth: expected float, got 'hot'"),
        ({"warmth": True}, "warmth: expected float, got True"),
        ({"counts": (1, 0)}, r"counts: expected at least 1 each, got \[1, 0\]"),
        ({"counts": 3}, "counts: expected tuple"),
        ({"colour": "grey"}, "colour: expected one of red, green, blue, got 'grey'"),
        ({"most": 2}, "most: expected at least 3, got 2"),
        ({"bright": 1}, "bright: expected bool, got 1"),
    ],
)
def test_values_are_checked_by_the_definition(values, message):
    with pytest.raises(FieldError, match=message) as caught:
        Further(**values)
    assert caught.value.field in values


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tiny.training(lr=-1), "lr: expected more than 0, got -1"),
        (lambda: tiny.training(kimg=float("inf")), "kimg: expected more than 0, got inf"),
        (lambda: tiny.training(beta1=1.0), "beta1: expected 0 <= beta1 < 1, got 1"),
        (lambda: tiny.training(seed=2**64), r"seed: expected 0 <= seed < 2\^64, got 18446744073709551616"),
        (lambda: tiny.training(micro_batch=0), "micro_batch: expected at least 1, got 0"),
        (lambda: tiny.training(lr_rampup_kimg=-1.0), "lr_rampup_kimg: expected at least 0, got -1"),
        (lambda: tiny.observations(clean_share=1.0), "clean_share: expected 0 <= clean_share < 1, got 1"),
        (lambda: tiny.observations(sigma_obs_min=0.6), "sigma_obs: expected 0 <= least <= greatest, got 0.6:0.5"),
        (lambda: Distillation(tmax=1001.0), "tmax: expected 0 < tmax <= 1000, got 1001"),
        (lambda: Distillation(loss="sdi"), "loss: unknown loss 'sdi'; known: sid, dmd, sds; did you mean"),
        (lambda: Objective(p_mean=float("inf")), "p_mean: expected a finite number, got inf"),
        (lambda: UNet(architecture="adn"), "architecture: unknown network 'adn'; known: ddpmpp, ncsnpp, adm; did you"),
        (lambda: UNet(channel_mult=()), "channel_mult: expected a number for each level"),
        (lambda: UNet(attn_levels=(3,)), r"attn_levels: \[3\] are not among the 3 levels"),
        (lambda: config.Network(), "architecture: 'ddpmpp' has the settings UNet, not Network"),
    ],
)
def test_the_settings_of_a_run_say_what_is_wrong(make, message):
    with pytest.raises(FieldError, match=message):
        make()


def test_lists_become_tuples_so_that_equal_settings_are_equal():
    assert UNet(channel_mult=[1, 2], attn_levels=[1]) == UNet(channel_mult=(1, 2), attn_levels=(1,))


def test_a_newer_format_is_refused_by_its_version_and_an_unknown_field_has_a_nearest():
    values = json.loads(config.to_json(tiny.pretrain()))
    with pytest.raises(ValueError, match="written by a newer rsd-fast: format 2; this one reads format 1"):
        config.from_json(json.dumps({**values, "format": 2, "kind": "restoration"}))
    with pytest.raises(ValueError, match="written by another version"):
        config.from_json(json.dumps({**values, "format": 0}))
    values["network"]["model_chanels"] = 8
    with pytest.raises(FieldError, match=r"network\.model_chanels: unknown field; did you mean 'model_channels'\?"):
        config.from_json(json.dumps(values))


def test_help_needs_no_torch_but_where_it_lists_the_operators():
    code = (
        "import sys; from rsd_fast.cli.main import group\n"
        "for command in (['--help'], ['distill', '--help'], ['sample', '--help'], ['evaluate', '--help']):\n"
        "    group.main(command, standalone_mode=False)\n"
        "print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    printed = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT)
    assert "[sid|dmd|sds]" in printed and printed.splitlines()[-1] == "False False"


def test_every_preset_names_its_architecture_and_has_its_settings():
    for name in presets.names():
        preset = presets.load(name)
        network = config.choose_network(preset.network, {}, 64)
        assert network.architecture == preset.network["architecture"]
        for command in COMMANDS:
            for section, kind in (("training", Training), ("distillation", Distillation), ("objective", Objective)):
                kind(**of_preset(preset, command, section))


BAD_OPTIONS = {
    ("--corruption", "fog"): "unknown corruption 'fog'; known: box_mask, compose, downsample, fourier, gaussian_blur,",
    ("--corruption", "gaussian_blur:radius=3"): "unknown key 'radius'; known: size, std",
    ("--corruption", "gaussian_blur:size=4"): "size expects an odd number",
    ("--corruption", "gaussian_blur:size=31"): "size 31 is too large for 8x8 images",
    ("--sigma-obs", "-1"): "--sigma-obs",
    ("--sigma-obs", "nan"): "--sigma-obs",
    ("--batch", "10", "--micro-batch", "3"): "--batch: 10 is not divisible by micro-batch 3",
    ("--preset", "huge"): "unknown preset 'huge'; known: afhqv2-64, celeba64, cifar10, digits,",
    ("--objective", "standard"): "use 'tweedie'",
    ("--attn-resolutions", "5"): "--attn-resolutions: [5] are not among the levels' heights",
    ("--lr", "0"): "--lr",
    ("--clip", "nan"): "--clip",
    ("--p-mean", "inf"): "--p-mean",
    ("--precision", "tf32", "--device", "cpu"): "--precision: tf32",
    ("--channel-mult", "1,x"): "--channel-mult",
    ("--no-such-option",): "--no-such-option",
    ("--resume", "--resume-or-start"): "exclude each other",
}


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=" ".join)
def test_bad_options_are_usage_errors(options, tmp_path, capsys):
    code, out, error = run_in_process(
        capsys,
        "pretrain",
        "--data",
        "digits",
        "--simulate",
        "--sigma-obs",
        "0.1",
        "--out",
        tmp_path / "run",
        *options,
    )
    assert code == 2 and out == ""
    assert error.count("\n") == 1 and BAD_OPTIONS[options] in error, error
    assert not (tmp_path / "run").exists()


def dry_run(capsys, command, *arguments):
    code, printed, error = run_in_process(capsys, command, *arguments, "--out", "no-such-run", "--dry-run")
    assert code == 0, error
    return printed


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Observations with labels and a noise level of each."""
    file = tmp_path_factory.mktemp("data") / "noisy.npz"
    images = np.random.default_rng(0).normal(0, 0.3, (12, 1, 8, 8)).astype(np.float32).clip(-1, 1)
    np.savez(file, images=images, labels=np.arange(12) % 3, sigma_obs=np.linspace(0.1, 0.3, 12, dtype=np.float32))
    return file


DIGITS = ["--data", "digits", "--simulate", "--device", "cpu"]
PRETRAININGS = {
    "plain": [*DIGITS, "--sigma-obs", "0.2"],
    "masked": [*DIGITS, "--sigma-obs", "0", "--corruption", "random_mask:missing=0.5", "--delta", "0.3",
               "--masked-loss", "kept", "--hidden-noise", "sigma", "--gated", "--consistency", "0.1"],
    "box": [*DIGITS, "--sigma-obs", "0", "--corruption", "box_mask:size=2", "--seed", "7"],
    "range": [*DIGITS, "--sigma-obs", "0.1:0.3", "--clean-share", "0.2", "--augment", "all", "--seed", "5"],
    "network": [*DIGITS, "--sigma-obs", "0.2", "--architecture", "adm", "--attn-resolutions", "8,4", "--cond",
                "--label-dropout", "0.1", "--no-gated", "--precision", "fp32", "--micro-batch", "auto"],
    "clean": [*DIGITS, "--preset", "edm-cifar10", "--channel-mult", "1,2", "--attn-resolutions", "none"],
    "watched": [*DIGITS, "--sigma-obs", "0.2", "--eval-kimg", "3", "--eval-num", "20", "--stop-patience", "2",
                "--clip", "1", "--preset", "small"],
    "k-space": [*DIGITS, "--sigma-obs", "0.01", "--corruption", "fourier:acceleration=2,acs_lines=2,real=1"],
    "levels": ["--sigma-obs", "data", "--device", "cpu", "--objective", "tweedie"],
}  # fmt: skip


@pytest.mark.parametrize("case", PRETRAININGS)
def test_a_pretraining_config_fed_back_gives_the_same_run(case, noisy, tmp_path, capsys):
    data = ["--data", noisy] if case == "levels" else []
    printed = dry_run(capsys, "pretrain", *data, *PRETRAININGS[case])
    (tmp_path / "config.json").write_text(printed)
    assert dry_run(capsys, "pretrain", "--config", tmp_path / "config.json") == printed
    overridden = dry_run(capsys, "pretrain", "--config", tmp_path / "config.json", "--lr", "0.5", "--beta2", "0.99")
    expected = json.loads(printed)
    expected["training"] |= {"lr": 0.5, "beta2": 0.99}
    assert json.loads(overridden) == expected


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    from rsd_fast import train

    return train.pretrain(tiny.pretrain(training=tiny.training(kimg=0.016, seed=3)), tmp_path_factory.mktemp("t") / "t")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--loss", "dmd", "--tmax", "500", "--no-compile", "--seed", "9"],
        ["--alpha", "1", "--reuse-batch", "--preset", "small", "--eval-kimg", "0", "--compile"],
    ],
    ids=["plain", "dmd", "sid"],
)
def test_a_distillation_config_fed_back_gives_the_same_run(arguments, teacher, tmp_path, capsys):
    printed = dry_run(capsys, "distill", "--teacher", teacher, "--device", "cpu", *arguments)
    (tmp_path / "config.json").write_text(printed)
    assert dry_run(capsys, "distill", "--config", tmp_path / "config.json") == printed
    other = json.loads(dry_run(capsys, "distill", "--config", tmp_path / "config.json", "--rho", "6"))
    assert other["distillation"]["rho"] == 6


def written(tmp_path, values):
    file = tmp_path / "part.json"
    file.write_text(json.dumps(values))
    return file


def test_a_part_of_a_config_gives_its_settings_by_the_options_names(tmp_path):
    part = {
        "format": 1,
        "observations": {"sigma_obs": 0.3, "sigma_obs_min": 0.1, "label_dim": 4, "augment": ["hflip", "vflip"]},
        "network": {"architecture": "adm", "channel_mult": [1, 2], "augment_dim": 9},
        "objective": {"name": "tweedie"},
        "training": {"lr": 1, "clip": None, "micro_batch": "auto"},
        "kimg": 3,
        "precision": "auto",
        "attn_resolutions": [4],
    }
    settings = settings_from_file(written(tmp_path, part), "pretrain")
    assert settings == {
        "sigma_obs": (0.1, 0.3),
        "cond": True,
        "augment": "flips",
        "architecture": "adm",
        "channel_mult": (1, 2),
        "objective": "tweedie",
        "lr": 1.0,
        "micro_batch": "auto",
        "kimg": 3.0,
        "precision": "auto",
        "attn_resolutions": (4,),
    }
    assert isinstance(settings["kimg"], float)
    shaped = {"observations": {"observation_shape": [1, 32, 32]}, "network": {"attn_levels": [1, 2]}}
    assert settings_from_file(written(tmp_path, shaped), "pretrain") == {"attn_resolutions": (16, 8)}
    of_teacher = {"observations": {"data": "digits"}, "distillation": {"loss": "dmd"}, "teacher": "runs/t"}
    assert settings_from_file(written(tmp_path, of_teacher), "distill") == {"loss": "dmd", "teacher": "runs/t"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1], "expected an object, got list"),
        ({"format": 2}, "written by a newer rsd-fast: format 2; this one reads format 1"),
        ({"kind": "distill"}, "kind: is of a run of rsd-fast distill, of which pretrain takes no settings"),
        ({"learning_rate": 1}, "learning_rate: unknown setting of pretrain"),
        ({"modelchannels": 1}, "modelchannels: unknown setting of pretrain; did you mean 'model_channels'?"),
        ({"training": {"moment": 1}}, "training.moment: unknown field"),
        ({"trainin": {"lr": 1}}, "trainin: is no section of pretrain; known: "),
        ({"trainin": {"lr": 1}}, "; did you mean 'training'?"),
        ({"lr": float("nan")}, "lr: expected more than 0, got nan"),
        ({"log-kimg": -1}, "log_kimg: expected more than 0, got -1"),
        ({"training": {"lr": "fast"}}, "training.lr: expected float, got 'fast'"),
        ({"training": {"lr": -1}}, "lr: expected more than 0, got -1"),
        ({"training": 3}, "training: unknown setting of pretrain"),
        ({"lr": 1, "training": {"lr": 2}}, "lr: is both 1 and 2.0, in different sections"),
        ({"objective": "ambiant"}, "objective: unknown objective 'ambiant'"),
        ({"network": {"architecture": "unet"}}, "architecture: unknown network 'unet'; known: ddpmpp, ncsnpp, adm"),
        ({"network": {"attn_levels": [1]}}, "attn_levels: says levels; say attn_resolutions, in pixels"),
        ({"network": {"preconditioning": "vp"}}, "preconditioning: there is no option for it, and 'vp' is not"),
        ({"observations": {"augment": ["vflip"]}}, "augment: expected one of"),
        ({"observations": {"sigma_obs_min": 0.1}}, "sigma_obs_min: is the least level"),
        ({"sigma_obs": "much"}, "sigma_obs: expected one of a number, data, estimate, got 'much'"),
    ],
)
def test_a_file_of_settings_says_in_one_line_what_is_wrong(values, message, tmp_path, capsys):
    file = written(tmp_path, values)
    code, _, error = run_in_process(capsys, "pretrain", "--config", file, "--out", tmp_path / "run", "--dry-run")
    assert (
        code == 2 and error.count("\n") == 1 and error.startswith(f"Error: --config: {file}: ") and message in error
    ), error


def test_a_file_that_is_no_json_is_named(tmp_path, capsys):
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    for name, option, message, expected in (
        ("a.json", "--config: ", "not JSON", 2),
        ("b.json", "--config: ", "not JSON", 2),
        ("c.json", "", "No such file or directory", 1),
    ):
        file = tmp_path / name
        code, _, error = run_in_process(capsys, "pretrain", "--config", file, "--out", tmp_path / "run")
        assert code == expected and error.startswith(f"Error: {option}{file}: {message}") and error.count("\n") == 1, (
            error
        )


def test_a_whole_config_with_what_no_option_can_say_is_refused(tmp_path):
    run = tiny.pretrain(preset="inpainting64")
    (tmp_path / "config.json").write_text(config.to_json(run))
    with pytest.raises(ValueError, match=r"clip: is null, and no option takes the preset's 1 away"):
        settings_from_file(tmp_path / "config.json", "pretrain")
    observations = dataclasses.replace(run.observations, seed=4)
    (tmp_path / "config.json").write_text(config.to_json(tiny.pretrain(observations=observations)))
    with pytest.raises(ValueError, match="seed: is both 4 and 0, in different sections"):
        settings_from_file(tmp_path / "config.json", "pretrain")


def test_help_has_the_words_of_the_choices_records():
    text = config.help_text(config.options("pretrain")["architecture"])
    assert text == "Network. ddpmpp: DDPM++; ncsnpp: NCSN++; adm: ADM."
    assert setting_of(next(iter(dataclasses.fields(Further)))).unit == "kelvin"
