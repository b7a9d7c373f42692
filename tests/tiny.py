"""Small configs for tests: 8x8 images and a network of some 30,000 weights, so that a step takes milliseconds."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rsd_fast import objectives
from rsd_fast.config import Distill, Distillation, Objective, Observations, Pretrain, Training, UNet
from rsd_fast.corruptions import Identity, Observation
from rsd_fast.ops import Key

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


def observed(y: Tensor, sigma_obs: Tensor | float = 0.0) -> Observation:
    """Observations [B, C, H, W] of which every pixel is there."""
    return Observation(y, Identity().batch((y.shape[1], y.shape[2], y.shape[3]), torch.arange(len(y)), 0), sigma_obs)


def loss(settings: Objective, denoiser: Any, observation: Observation, labels: Any = (), **key: Any) -> Any:
    """(loss, sigma) of a run's settings."""
    return objectives.create(settings).loss(denoiser, observation, Key(**key), objectives.Labels(*labels))
