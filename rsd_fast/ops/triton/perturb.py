import torch
from torch import Tensor

from .. import edm
from .._library import implement
from ..perturb import Perturbation
from .images import laid_out


@implement("perturb", "triton")
def perturb(y: Tensor, sigma_obs: Tensor, perturbation: Perturbation) -> tuple[Tensor, Tensor]:
    from rsd_fast.kernels import observe as kernels

    _, dtype, channels_last = perturbation.options
    (y,) = laid_out(channels_last, y)
    x_t, net_input = edm.new_images(y, sigma_obs.dtype, channels_last), edm.new_images(y, dtype, channels_last)
    kernels.observe_perturb(y, (None, x_t, net_input), sigma_obs, None, None, perturbation, channels_last)
    return x_t, net_input


@implement("perturb_backward", "triton")
def perturb_backward(
    grad_x_t: Tensor, grad_net_input: Tensor, sigma: Tensor, sigma_data: float, dtype: torch.dtype, channels_last: bool
) -> Tensor:
    from rsd_fast.kernels import observe as kernels

    dy = edm.new_images(grad_x_t, dtype, channels_last)
    kernels.perturb_backward(dy, *laid_out(channels_last, grad_x_t, grad_net_input), sigma, sigma_data)
    return dy
