"""Training methods: what is minimised, in which phases. `engine` steps them."""

from .base import Batch, Method, Phase, Teacher
from .distill import DistillMethod, generate
from .pretrain import PretrainMethod

__all__ = ["Batch", "DistillMethod", "Method", "Phase", "PretrainMethod", "Teacher", "generate"]
