from torch import Tensor

from .. import edm
from .._library import implement
from .images import laid_out


@implement("denoising_loss", "triton")
def denoising_loss(
    F: Tensor, x_t: Tensor, y: Tensor, sigma: Tensor, sigma_obs: Tensor, sigma_data: float, mask: Tensor | None
) -> Tensor:
    from rsd_fast.kernels import denoising_loss as kernels

    channels_last = edm.is_channels_last(F)
    loss = sigma.new_empty(len(F))
    images = laid_out(channels_last, F, x_t, y)
    kernels.denoising_loss(loss, *images, sigma, sigma_obs, sigma_data, mask, channels_last)
    return loss


@implement("denoising_loss_backward", "triton")
def denoising_loss_backward(
    grad: Tensor,
    F: Tensor,
    x_t: Tensor,
    y: Tensor,
    sigma: Tensor,
    sigma_obs: Tensor,
    sigma_data: float,
    mask: Tensor | None,
) -> Tensor:
    from rsd_fast.kernels import denoising_loss as kernels

    channels_last = edm.is_channels_last(F)
    dF = edm.new_images(F, F.dtype, channels_last)
    images = laid_out(channels_last, F, x_t, y)
    kernels.denoising_loss_backward(grad, dF, *images, sigma, sigma_obs, sigma_data, mask, channels_last)
    return dF
