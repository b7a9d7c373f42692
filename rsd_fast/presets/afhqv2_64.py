"""RSD on AFHQ-v2 64x64: as ffhq64, with more dropout, half the learning rates and alpha 1.

Published with noise of .2 (--sigma-obs).
"""

from .edm_afhqv2_64 import DISTILL, DISTILLATION, NETWORK, PRETRAIN

__all__ = ["DISTILL", "DISTILLATION", "NETWORK", "PRETRAIN"]
