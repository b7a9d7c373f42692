"""Every op in plain PyTorch, under its public name: what the other backends are tested against."""

from .blur import blur_adjoint_reference as blur_adjoint
from .blur import blur_reference as blur
from .denoise import denoise_reference as denoise
from .denoising_loss import denoising_loss_reference as denoising_loss
from .downsample import downsample_adjoint_reference as downsample_adjoint
from .downsample import downsample_reference as downsample
from .group_norm_silu import group_norm_silu_reference as group_norm_silu
from .observe import observe_perturb_reference as observe_perturb
from .observe import observe_reference as observe
from .perturb import perturb_reference as perturb
from .philox import philox_reference as philox
from .philox import randn_reference as randn
from .philox import uniform_reference as uniform
from .score_difference_loss import score_difference_loss_reference as score_difference_loss

__all__ = [
    "blur",
    "blur_adjoint",
    "denoise",
    "denoising_loss",
    "downsample",
    "downsample_adjoint",
    "group_norm_silu",
    "observe",
    "observe_perturb",
    "perturb",
    "philox",
    "randn",
    "score_difference_loss",
    "uniform",
]
