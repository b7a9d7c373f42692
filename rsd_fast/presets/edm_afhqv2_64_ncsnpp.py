"""EDM's NCSN++ ("VE") on clean AFHQ-v2 64x64."""

from .edm_afhqv2_64 import DISTILL, DISTILLATION, OBSERVATIONS, PRETRAIN
from .edm_afhqv2_64 import NETWORK as DDPMPP

__all__ = ["DISTILL", "DISTILLATION", "NETWORK", "OBSERVATIONS", "PRETRAIN"]

NETWORK = {**DDPMPP, "architecture": "ncsnpp"}
