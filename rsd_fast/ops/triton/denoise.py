import torch
from torch import Tensor

from .. import edm
from .._library import implement
from .images import laid_out, new, returned


@implement("denoise", "triton")
def denoise(F: Tensor, x_t: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    from rsd_fast.kernels import denoise as kernels

    channels_last = edm.is_channels_last(F)
    D = edm.new_images(x_t, sigma.dtype, channels_last)
    kernels.denoise(D, *laid_out(channels_last, F, x_t), sigma, sigma_data)
    return D


@implement("denoise_backward", "triton")
def denoise_backward(
    grad: Tensor,
    sigma: Tensor,
    sigma_data: float,
    F_dtype: torch.dtype | None,
    x_t_dtype: torch.dtype | None,
    channels_last: bool,
) -> tuple[Tensor, ...]:
    from rsd_fast.kernels import denoise as kernels

    (grad,) = laid_out(channels_last, grad)
    gradients = new(grad, channels_last, F_dtype, x_t_dtype)
    kernels.denoise_backward(grad, *gradients, sigma, sigma_data)
    return returned(grad, *gradients)
