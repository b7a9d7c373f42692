"""Operations with several backends; ``rsd_fast.ops.reference`` has each in plain PyTorch."""

from . import reference
from ._library import backends, load_kernels, native_info
from .blur import blur, blur_adjoint
from .denoise import denoise
from .denoising_loss import denoising_loss
from .perturb import perturb
from .philox import Stream, philox, randn, uniform
from .score_difference_loss import score_difference_loss

load_kernels()

__all__ = [
    "Stream",
    "backends",
    "blur",
    "blur_adjoint",
    "denoise",
    "denoising_loss",
    "native_info",
    "perturb",
    "philox",
    "randn",
    "reference",
    "score_difference_loss",
    "uniform",
]
