"""RSD on CelebA-HQ 64x64: as ffhq64, with more dropout.

Published with noise of .2, and behind gaussian_blur:size=9,std=2 with noise of .2 (--corruption, --sigma-obs).
"""

from . import ffhq64

NETWORK = {**ffhq64.NETWORK, "dropout": 0.15}
PRETRAIN = ffhq64.PRETRAIN
DISTILL = ffhq64.DISTILL
DISTILLATION = ffhq64.DISTILLATION
