"""EDM's NCSN++ ("VE") on clean CIFAR-10, 56.4 M parameters; with --cond, by class."""

from .edm_cifar10 import DISTILL, DISTILLATION, OBSERVATIONS, PRETRAIN
from .edm_cifar10 import NETWORK as DDPMPP

__all__ = ["DISTILL", "DISTILLATION", "NETWORK", "OBSERVATIONS", "PRETRAIN"]

NETWORK = {**DDPMPP, "architecture": "ncsnpp"}
