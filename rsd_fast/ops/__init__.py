"""Operations with several backends; ``rsd_fast.ops.reference`` has each in plain PyTorch."""

from . import reference as reference
from ._library import backends as backends
from ._library import decompositions as decompositions
from ._library import load_kernels
from ._library import native_info as native_info
from .blur import blur as blur
from .blur import blur_adjoint as blur_adjoint
from .denoise import denoise as denoise
from .denoising_loss import denoising_loss as denoising_loss
from .downsample import downsample as downsample
from .downsample import downsample_adjoint as downsample_adjoint
from .group_norm_silu import group_norm_silu as group_norm_silu
from .key import Key as Key
from .observe import Operator as Operator
from .observe import observe as observe
from .observe import observe_perturb as observe_perturb
from .perturb import InputOptions as InputOptions
from .perturb import perturb as perturb
from .philox import Stream as Stream
from .philox import philox as philox
from .philox import randn as randn
from .philox import uniform as uniform
from .score_difference_loss import score_difference_loss as score_difference_loss

load_kernels()
