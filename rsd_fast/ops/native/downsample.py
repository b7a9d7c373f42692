from torch import Tensor

from .. import edm
from .._library import implement
from ..downsample import new_images, small_size
from .launch import image_size, launch


@implement("downsample", "native")
def downsample(x: Tensor, factor: int) -> Tensor:
    x = edm.laid_out(x, x.dtype, edm.is_channels_last(x))
    out = new_images(x, *small_size(x, factor))
    launch("downsample", x.device, x=x, out=out, **image_size(x), factor=factor)
    return out


@implement("downsample_adjoint", "native")
def downsample_adjoint(y: Tensor, factor: int, height: int, width: int) -> Tensor:
    y = edm.laid_out(y, y.dtype, edm.is_channels_last(y))
    out = new_images(y, height, width)
    size = {"height": height, "width": width, "factor": factor}
    launch("downsample_adjoint", y.device, x=y, out=out, **(image_size(y) | size))
    return out
