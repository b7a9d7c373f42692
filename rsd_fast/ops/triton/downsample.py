from torch import Tensor

from .. import edm
from .._library import implement
from ..downsample import new_images, small_size


@implement("downsample", "triton")
def downsample(x: Tensor, factor: int) -> Tensor:
    from rsd_fast.kernels import downsample as kernels

    x = edm.laid_out(x, x.dtype, edm.is_channels_last(x))
    out = new_images(x, *small_size(x, factor))
    kernels.downsample(out, x, factor)
    return out


@implement("downsample_adjoint", "triton")
def downsample_adjoint(y: Tensor, factor: int, height: int, width: int) -> Tensor:
    from rsd_fast.kernels import downsample as kernels

    y = edm.laid_out(y, y.dtype, edm.is_channels_last(y))
    out = new_images(y, height, width)
    kernels.downsample_adjoint(out, y, factor)
    return out
