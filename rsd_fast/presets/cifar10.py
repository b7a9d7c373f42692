"""RSD on CIFAR-10, and a start for other 32x32 images: DDPM++, 55.7 M parameters.

Published with noise of .1, .2 and .4 (--sigma-obs).
"""

from .edm_cifar10 import DISTILL, DISTILLATION, NETWORK, PRETRAIN

__all__ = ["DISTILL", "DISTILLATION", "NETWORK", "PRETRAIN"]
