import torch
from torch import Tensor

from .. import edm
from .._library import implement


@implement("blur", "triton")
def blur(x: Tensor, kernel: Tensor) -> Tensor:
    return _blur(x, kernel, adjoint=False)


@implement("blur_adjoint", "triton")
def blur_adjoint(y: Tensor, kernel: Tensor) -> Tensor:
    return _blur(y, kernel, adjoint=True)


def _blur(x: Tensor, kernel: Tensor, adjoint: bool) -> Tensor:
    from rsd_fast.kernels import blur as kernels

    x = edm.laid_out(x, x.dtype, edm.is_channels_last(x))
    out = torch.empty_like(x)
    kernels.blur(out, x, kernel, adjoint)
    return out
