"""Every op in plain PyTorch, under its public name: what the other backends are tested against."""

from .blur import blur, blur_adjoint
from .denoise import denoise
from .denoising_loss import denoising_loss
from .perturb import perturb
from .philox import philox_reference as philox
from .philox import randn_reference as randn
from .philox import uniform_reference as uniform
from .score_difference_loss import score_difference_loss

__all__ = [
    "blur",
    "blur_adjoint",
    "denoise",
    "denoising_loss",
    "perturb",
    "philox",
    "randn",
    "score_difference_loss",
    "uniform",
]
