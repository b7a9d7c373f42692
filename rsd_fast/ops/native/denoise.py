import torch
from torch import Tensor

from .. import edm
from .._library import implement
from .launch import images, launch, raw_dtype, returned, size, stride


@implement("denoise", "native")
def denoise(F: Tensor, x_t: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    channels_last = edm.is_channels_last(F)
    F = edm.laid_out(F, raw_dtype(x_t, F.dtype), channels_last)
    (x_t,) = images(channels_last, x_t)
    D = torch.empty_like(x_t)
    level = {"sigma": sigma, "sigma_stride": stride(sigma), "sigma_data": sigma_data}
    launch("denoise", D.device, F=F, x_t=x_t, D=D, **level, **size(D), raw_dtype=F.dtype, dtype=D.dtype)
    return D


@implement("denoise_backward", "native")
def denoise_backward(
    grad: Tensor,
    sigma: Tensor,
    sigma_data: float,
    F_dtype: torch.dtype | None,
    x_t_dtype: torch.dtype | None,
    channels_last: bool,
) -> tuple[Tensor, Tensor]:
    (grad,) = images(channels_last, grad)
    raw = grad.dtype if F_dtype is None else raw_dtype(grad, F_dtype)
    dF = None if F_dtype is None else torch.empty_like(grad, dtype=raw)
    dx_t = None if x_t_dtype is None else torch.empty_like(grad)
    level = {"sigma": sigma, "sigma_stride": stride(sigma), "sigma_data": sigma_data}
    tensors = {"grad": grad, "grad_F": dF, "grad_x_t": dx_t}
    launch("denoise_backward", grad.device, **tensors, **level, **size(grad), raw_dtype=raw, dtype=grad.dtype)
    return returned(dF, F_dtype, grad), returned(dx_t, x_t_dtype, grad)
