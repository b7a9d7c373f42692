"""EDM's NCSN++ ("VE") on clean FFHQ 64x64."""

from .edm_ffhq64 import DISTILL, DISTILLATION, OBSERVATIONS, PRETRAIN
from .edm_ffhq64 import NETWORK as DDPMPP

__all__ = ["DISTILL", "DISTILLATION", "NETWORK", "OBSERVATIONS", "PRETRAIN"]

NETWORK = {**DDPMPP, "architecture": "ncsnpp"}
