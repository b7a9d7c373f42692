"""Operations with several backends; ``rsd_fast.ops.reference`` has each in plain PyTorch."""

from . import reference
from ._library import backends, decompositions, load_kernels, native_info
from .blur import blur, blur_adjoint
from .denoise import denoise
from .denoising_loss import denoising_loss
from .downsample import downsample, downsample_adjoint
from .group_norm_silu import group_norm_silu
from .key import Key
from .observe import Operator, observe, observe_perturb
from .perturb import perturb
from .philox import Stream, philox, randn, uniform
from .score_difference_loss import score_difference_loss

load_kernels()

__all__ = [
    "Key",
    "Operator",
    "Stream",
    "backends",
    "blur",
    "blur_adjoint",
    "decompositions",
    "denoise",
    "denoising_loss",
    "downsample",
    "downsample_adjoint",
    "group_norm_silu",
    "native_info",
    "observe",
    "observe_perturb",
    "perturb",
    "philox",
    "randn",
    "reference",
    "score_difference_loss",
    "uniform",
]
