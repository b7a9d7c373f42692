"""Images as kernels take and return them."""

import torch
from torch import Tensor

from .. import edm


def laid_out(channels_last: bool, *images: Tensor) -> tuple[Tensor, ...]:
    """Images in one memory order, each in its own dtype: kernels convert as they load."""
    return tuple(edm.laid_out(image, image.dtype, channels_last) for image in images)


def new(like: Tensor, channels_last: bool, *dtypes: torch.dtype | None) -> tuple[Tensor | None, ...]:
    """Images of these dtypes for a kernel to fill; None for None."""
    return tuple(None if dtype is None else edm.new_images(like, dtype, channels_last) for dtype in dtypes)


def returned(like: Tensor, *gradients: Tensor | None) -> tuple[Tensor, ...]:
    """What a backward op returns of them: an empty tensor for None."""
    return tuple(edm.no_output(like) if gradient is None else gradient for gradient in gradients)
