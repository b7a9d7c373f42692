"""RSD on CelebA-HQ seen at half its size: a teacher of 32x32 images, a generator of 64x64 ones, weights alike."""

from . import celeba64

OBSERVATIONS = {"corruption": "downsample:factor=2", "sigma_obs": 0.0}
NETWORK = {**celeba64.NETWORK, "attn_levels": (2,)}  # 8x8 of 32x32; 16x16 of 64x64
PRETRAIN = {**celeba64.PRETRAIN, "augment_probability": 0.0}
DISTILL = celeba64.DISTILL
DISTILLATION = celeba64.DISTILLATION
