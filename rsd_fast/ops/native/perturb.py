import torch
from torch import Tensor

from .. import edm
from .._library import implement
from ..observe import Operator
from ..perturb import Perturbation
from . import observe
from .launch import images, launch, raw_dtype, size, stride

_IDENTITY = Operator.identity()


@implement("perturb", "native")
def perturb(y: Tensor, sigma_obs: Tensor, perturbation: Perturbation) -> tuple[Tensor, Tensor]:
    _, dtype, channels_last = perturbation.options
    x_t = edm.new_images(y, edm.accumulation_dtype(y), channels_last)
    net_input = torch.empty_like(x_t, dtype=raw_dtype(x_t, dtype))
    outputs = {"x_t": x_t, "net_input": net_input}
    observe.run(y, x_t, outputs, _IDENTITY, sigma_obs, **observe.perturbation_fields(perturbation))
    return x_t, net_input.to(dtype)


@implement("perturb_backward", "native")
def perturb_backward(
    grad_x_t: Tensor, grad_net_input: Tensor, sigma: Tensor, sigma_data: float, dtype: torch.dtype, channels_last: bool
) -> Tensor:
    raw = edm.laid_out(grad_net_input, raw_dtype(grad_x_t, grad_net_input.dtype), channels_last)
    (grad_x_t,) = images(channels_last, grad_x_t)
    grad_y = torch.empty_like(grad_x_t)
    tensors = {"grad_x_t": grad_x_t, "grad_net_input": raw, "sigma": sigma, "grad_y": grad_y}
    level = {"sigma_stride": stride(sigma), "sigma_data": sigma_data}
    dtypes = {"raw_dtype": raw.dtype, "dtype": grad_y.dtype}
    launch("perturb_backward", grad_y.device, **tensors, **level, **dtypes, **size(grad_y))
    return grad_y.to(dtype)
