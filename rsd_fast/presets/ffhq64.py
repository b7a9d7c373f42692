"""RSD on FFHQ 64x64, and a start for other images of that size: DDPM++, 61.8 M parameters.

Published with noise of .2 (--sigma-obs).
"""

from .edm_ffhq64 import DISTILL as SID
from .edm_ffhq64 import DISTILLATION, NETWORK, PRETRAIN

__all__ = ["DISTILL", "DISTILLATION", "NETWORK", "PRETRAIN"]

DISTILL = {**SID, "beta1": 0.9}
