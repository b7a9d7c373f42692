"""Weights of a fresh network: the published distributions, and no two tensors alike."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from rsd_fast import networks

from .published import ARCHITECTURES, GATED, PLAIN, SMALL, published_shapes

ARCHITECTURE = pytest.mark.parametrize("architecture", ARCHITECTURES)
GATING = pytest.mark.parametrize("gated", [False, True], ids=["", "gated"])


def standardised(architecture, settings):
    """{kind of parameter: values over the bound of their initial distribution}; zeros and norms are checked here."""
    pooled = {}
    shapes = published_shapes(architecture, settings)
    state = networks.create(architecture, **settings).model.named_parameters()
    for name, parameter in state:
        *_, owner, kind = name.split(".")
        owner = owner.split("_", 1)[-1] if owner[0].isdigit() else owner
        shape = shapes[name.replace(".bias", ".weight")]
        fan_in, fan_out = math.prod(shape[1:]), shape[0] * math.prod(shape[2:])
        if "norm" in owner:
            assert torch.all(parameter == (1.0 if kind == "weight" else 0.0)), name
            continue
        if architecture == "adm":
            bound = math.sqrt(1 / fan_in)
            zero = owner in ("conv1", "proj", "out_conv", "map_augment")
        else:
            bound = math.sqrt(6 / (fan_in + fan_out))
            bound *= 1e-5 if owner in ("conv1", "proj", "aux_conv") else math.sqrt(0.2) if owner == "qkv" else 1
            zero = kind == "bias"
        if zero:
            assert torch.all(parameter == 0), name
        elif architecture == "adm" and owner == "map_label":
            pooled.setdefault(f"{owner}.{kind}", []).append(parameter)
        else:
            pooled.setdefault(f"{owner}.{kind}", []).append(parameter / bound)
    return {k: torch.cat([p.detach().double().flatten() for p in parts]).numpy() for k, parts in pooled.items()}


@ARCHITECTURE
@GATING
def test_initialisation_is_the_published_one(architecture, gated):
    torch.manual_seed(0)
    pooled = standardised(architecture, {**SMALL, "model_channels": 32, "attn_resolutions": (8,), "gated": gated})
    convs = {"conv", "conv0", "skip", "qkv"}
    linears = {"map_layer0", "map_layer1", "affine"}
    if architecture == "adm":
        expected = {f"{owner}.{kind}" for owner in convs | linears for kind in ("weight", "bias")} | {
            "map_label.weight"
        }
    else:
        convs |= {"conv1", "proj", "aux_conv"} | ({"aux_residual"} if architecture == "ncsnpp" else set())
        linears |= {"map_label", "map_augment"}
        expected = {f"{owner}.weight" for owner in convs | linears}
    assert set(pooled) == expected | ({f"{owner}.gate_weight" for owner in convs} if gated else set())
    for owner, values in pooled.items():
        if architecture == "adm" and owner == "map_label.weight":
            assert stats.kstest(values, stats.norm.cdf).pvalue > 1e-4
        else:
            assert np.abs(values).max() <= 1 + 1e-6, owner
            assert stats.kstest(values, stats.uniform(-1, 2).cdf).pvalue > 1e-4, owner


def test_fourier_frequencies_are_normal_of_deviation_16_and_no_parameters():
    torch.manual_seed(0)
    settings = {**PLAIN, "model_channels": 64, "channel_mult": (1,), "num_blocks": 1}
    models = [networks.create("ncsnpp", **settings).model for _ in range(30)]
    freqs = torch.cat([model.map_noise.freqs for model in models]).double().numpy()
    assert stats.kstest(freqs, stats.norm(0, 16).cdf).pvalue > 1e-3
    assert abs(freqs.std() / 16 - 1) < 0.06
    assert "map_noise.freqs" not in dict(models[0].named_parameters())


@ARCHITECTURE
def test_two_weights_of_one_network_are_not_equal(architecture):
    model = networks.create(architecture, **GATED).model
    first, second = model.enc["8x8_block0"].conv0, model.dec["4x4_in0"].qkv
    assert not torch.equal(first.weight, model.enc["4x4_down"].conv0.weight)
    assert not torch.equal(first.weight, first.gate_weight) and not torch.equal(second.weight, second.gate_weight)
