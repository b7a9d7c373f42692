"""EDM's DDPM++ ("VP") on clean AFHQ-v2 64x64, 61.8 M parameters, and SiD from it (lr 5e-6, alpha 1)."""

from . import edm_ffhq64

OBSERVATIONS = edm_ffhq64.OBSERVATIONS
NETWORK = {**edm_ffhq64.NETWORK, "dropout": 0.25}
PRETRAIN = edm_ffhq64.PRETRAIN
DISTILL = {**edm_ffhq64.DISTILL, "lr": 5e-6}
DISTILLATION = {"alpha": 1.0, "fake_lr": 5e-6}
