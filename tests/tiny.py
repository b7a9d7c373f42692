"""Small configs for tests: 8x8 images and a network of some 30,000 weights, so that a step takes milliseconds."""

from dataclasses import replace
from typing import Any

from rsd_fast.config import Distill, Distillation, Objective, Observations, Pretrain, Training, UNet

NETWORK = UNet(model_channels=8, channel_mult=(1, 2), num_blocks=1, attn_levels=(1,))


def observations(**changes: Any) -> Observations:
    values = {
        "data": "digits",
        "simulate": True,
        "corruption": "identity",
        "sigma_obs": 0.5,
        "seed": 0,
        "num_images": 1797,
        "image_shape": (1, 8, 8),
        "observation_shape": (1, 8, 8),
    }
    return Observations(**{**values, **changes})


def training(**changes: Any) -> Training:
    values = {
        "kimg": 0.064,
        "batch": 16,
        "lr": 1e-3,
        "lr_rampup_kimg": 0.032,
        "ema_halflife_kimg": 0.05,
        "log_kimg": 0.016,
        "snapshot_kimg": 0.032,
    }
    return Training(**{**values, **changes})


def pretrain(**changes: Any) -> Pretrain:
    config = Pretrain(
        preset="digits",
        observations=observations(),
        network=NETWORK,
        objective=Objective(name="tweedie"),
        training=training(),
    )
    return replace(config, **changes)


def distill(teacher: Pretrain, file: Any, **changes: Any) -> Distill:
    config = Distill(
        preset="digits",
        teacher=str(file),
        observations=teacher.observations,
        network=teacher.network,
        objective=teacher.objective,
        distillation=Distillation(),
        training=training(beta1=0.0),
    )
    return replace(config, **changes)
