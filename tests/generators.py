"""Small generators of every kind, with weights that matter."""

from dataclasses import replace

import torch

from rsd_fast.build import build_denoiser
from rsd_fast.config import Objective
from rsd_fast.generator import Generator
from rsd_fast.runs import save_model
from tests import tiny

MASK = {"corruption": "random_mask:missing=0.5,shared=1", "sigma_obs": 0.0}
KINDS = {
    "plain": ({}, "tweedie", {}),
    "ncsnpp": ({"label_dim": 10}, "tweedie", {"architecture": "ncsnpp"}),
    "adm": ({"label_dim": 10}, "tweedie", {"architecture": "adm"}),
    "mask": (MASK, "ambient", {}),
    "gated": (MASK, "ambient", {"gated": True, "hidden_noise": "sigma"}),
    "fourier": (
        {
            "corruption": "fourier:acceleration=2,acs_lines=2",
            "sigma_obs": 0.0,
            "image_shape": (2, 8, 8),
            "observation_shape": (2, 8, 8),
        },
        "fourier",
        {},
    ),
}


def config(kind="plain"):
    observations, objective, network = KINDS[kind]
    teacher = tiny.pretrain(
        observations=tiny.observations(**observations),
        objective=Objective(name=objective),
        network=replace(tiny.NETWORK, **network),
    )
    return tiny.distill(teacher, "teacher.safetensors")


def generator(kind="plain"):
    torch.manual_seed(0)
    denoiser = build_denoiser(config(kind)).eval().requires_grad_(False)
    for parameter in denoiser.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    return Generator(denoiser, config(kind)).eval()


def write(folder, kind="plain", kimg=12.5):
    """A checkpoint folder of such a generator, which is returned."""
    folder.mkdir(parents=True)
    made = generator(kind)
    save_model(folder / "model.safetensors", made.denoiser.state_dict(), config(kind), kimg)
    return made
