"""EDM's DDPM++ ("VP") on clean FFHQ 64x64, 61.8 M parameters, and SiD from it.

Sources: Karras et al. 2022, appendix F; Zhou et al. 2024, appendix.
"""

from . import edm_cifar10

OBSERVATIONS = edm_cifar10.OBSERVATIONS
NETWORK = {
    **edm_cifar10.NETWORK,
    "channel_mult": (1, 2, 2, 2),
    "attn_levels": (2,),  # 16x16 of 64x64
    "dropout": 0.05,
}
PRETRAIN = {**edm_cifar10.PRETRAIN, "augment_probability": 0.15, "batch": 256, "lr": 2e-4}
DISTILL = {**edm_cifar10.DISTILL, "batch": 512}
DISTILLATION = edm_cifar10.DISTILLATION
