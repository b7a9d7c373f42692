"""An architecture that is no U-Net: its settings, its module and its record stand here, and nowhere else."""

import dataclasses
import json
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import rsd_fast
from rsd_fast import config, corruptions, networks, objectives, schedules, train
from rsd_fast.config import ARCHITECTURES, Architecture, Network, choose_network, setting
from rsd_fast.errors import FieldError
from tests import tiny


@dataclass(frozen=True, kw_only=True)
class TwoLayers(Network):
    """Settings of `TwoLayerNetwork`."""

    width: int = setting(8, at_least=1, below=100, help="Channels between its layers.")

    def why_not(self, image_shape):
        return "an image of one pixel has no structure" if image_shape[1:] == (1, 1) else None


class TwoLayerNetwork(nn.Module):
    def __init__(self, settings, shape):
        super().__init__()
        self.embed = nn.Linear(1, settings.width)
        self.first = nn.Conv2d(shape.in_channels, settings.width, 3, padding=1)
        self.last = nn.Conv2d(settings.width, shape.out_channels, 3, padding=1)

    def forward(self, x, c_noise, labels=None, augment_labels=None):
        return self.last(torch.relu(self.first(x) + self.embed(c_noise[:, None])[:, :, None, None]))


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    record = Architecture(about="two convolutions", settings=TwoLayers, network=f"{__name__}:TwoLayerNetwork")
    monkeypatch.setitem(ARCHITECTURES._records, "two-layers", record)


def run_config(**changes):
    return tiny.pretrain(network=TwoLayers(architecture="two-layers", width=6), **changes)


def test_its_settings_survive_json_and_are_checked():
    text = config.to_json(run_config())
    assert config.from_json(text) == run_config()
    assert json.loads(text)["network"] == {
        "architecture": "two-layers",
        "hidden_noise": "infinite",
        "preconditioning": "edm",
        "sigma_data": 0.5,
        "width": 6,
    }
    with pytest.raises(FieldError, match=r"network\.model_channels: unknown field"):
        config.from_json(text.replace('"width"', '"model_channels"'))
    with pytest.raises(FieldError, match="width: expected 1 <= width < 100, got 0"):
        TwoLayers(architecture="two-layers", width=0)
    with pytest.raises(FieldError, match="architecture: 'two-layers' has the settings TwoLayers, not UNet"):
        config.UNet(architecture="two-layers")


def test_its_settings_are_options_beside_those_of_others():
    options = {option.name: option for option in config.options_of(Network)}
    assert {"width", "model_channels", "sigma_data"} <= options.keys()
    assert "two-layers: two convolutions" in config.help_text(options["architecture"])
    preset = rsd_fast.presets.load("digits").network
    chosen = choose_network(preset, {"architecture": "two-layers", "width": 5, "dropout": None}, 8)
    assert chosen == TwoLayers(architecture="two-layers", width=5)
    with pytest.raises(FieldError, match="model_channels: network 'two-layers' has no such setting"):
        choose_network(preset, {"architecture": "two-layers", "model_channels": 8}, 8)
    with pytest.raises(FieldError, match="width: network 'ddpmpp' has no such setting"):
        choose_network(preset, {"width": 8}, 8)
    assert chosen.without_dropout() is chosen and chosen.augmented(0) is chosen
    with pytest.raises(FieldError, match="augment_probability: network 'two-layers' cannot be told"):
        chosen.augmented(9)


def test_it_is_created_by_its_name_and_its_settings():
    denoiser = networks.create("two-layers", image_size=8, in_channels=2, out_channels=2, width=3, sigma_data=0.4)
    assert denoiser.model.first.weight.shape == (3, 2, 3, 3) and denoiser.sigma_data == 0.4
    assert denoiser(torch.zeros(2, 2, 8, 8), 1.0).shape == (2, 2, 8, 8)
    with pytest.raises(FieldError, match=r"widht: network 'two-layers' has no such setting; did you mean 'width'\?"):
        networks.create("two-layers", widht=3)
    with pytest.raises(FieldError, match="image_size: an image of one pixel has no structure"):
        networks.create("two-layers", image_size=1)


def test_both_stages_train_save_load_and_sample_it(tmp_path):
    teacher = train.pretrain(run_config(), tmp_path / "teacher")
    checkpoints = sorted((teacher / "checkpoints").iterdir())
    first, last = (rsd_fast.load_denoiser(checkpoint).state_dict() for checkpoint in (checkpoints[0], checkpoints[-1]))
    assert first["model.first.weight"].shape == (6, 1, 3, 3)
    assert all(not torch.equal(first[name], last[name]) for name in first)
    file = next((teacher / "checkpoints").glob("*.064/model.safetensors"))
    saved = rsd_fast.loading.load(file).config
    assert saved == run_config()
    student = train.distill(tiny.distill(saved, file), tmp_path / "student")
    assert torch.isfinite(rsd_fast.load_generator(student).sample(3)).all()


def test_every_architecture_has_a_module_and_words():
    for name, architecture in ARCHITECTURES.items():
        assert issubclass(architecture.load(), nn.Module), name
        assert architecture.about and {field.name for field in dataclasses.fields(architecture.settings)} > {
            "architecture"
        }


def test_the_settings_name_what_there_is():
    """They list it without importing torch."""
    assert tuple(networks.PRECONDITIONINGS) == config.PRECONDITIONINGS
    for function in config.SIGMA_DISTRIBUTIONS.values():
        assert callable(getattr(schedules, function))
    for rule in config.OBJECTIVES.values():
        assert issubclass(rule.load(), objectives.Objective)
    assert set(config.AUGMENTATIONS["all"]) == corruptions.base.ALL_SYMMETRIES
