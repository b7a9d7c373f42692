"""The denoiser of the raw network output (Karras et al. 2022, equation 7).

    D = c_skip(sigma) x_t + c_out(sigma) F,      F = network(c_in(sigma) x_t, c_noise(sigma))

so  dF = c_out dD,  dx_t = c_skip dD.
"""

from typing import Any

import torch
from torch import Tensor

from . import _library, edm


def denoise(F: Tensor, x_t: Tensor, sigma: Tensor | float, sigma_data: float = 0.5) -> Tensor:
    """D [B, ...] in float32 (float64 where x_t is float64), in the memory format of F.

    F, x_t: [B, ...] of one shape and device; F may be bfloat16 or float16. sigma: [B] or a number.
    Differentiable once, in F and x_t. Raises ValueError on a mismatch of shape or device, TypeError on dtypes that are
    not floating-point.
    """
    edm.check_tensors(F=F, x_t=x_t)
    return torch.ops.rsd_fast.denoise.default(F, x_t, edm.levels(sigma, x_t), sigma_data)


def denoise_reference(F: Tensor, x_t: Tensor, sigma: Tensor | float, sigma_data: float = 0.5) -> Tensor:
    """The mathematics above in plain PyTorch."""
    dtype = edm.accumulation_dtype(x_t)
    sigma = edm.per_sample(sigma, x_t)
    return edm.c_skip(sigma, sigma_data) * x_t.to(dtype) + edm.c_out(sigma, sigma_data) * F.to(dtype)


# Registration


def _check(F: Tensor, x_t: Tensor, sigma: Tensor, sigma_data: float) -> None:
    edm.check_images(x_t=x_t, F=F)
    edm.check_levels(x_t, sigma=sigma)
    edm.check_positive(sigma_data=sigma_data)


def _check_backward(
    grad: Tensor,
    sigma: Tensor,
    sigma_data: float,
    F_dtype: torch.dtype | None,
    x_t_dtype: torch.dtype | None,
    channels_last: bool,
) -> None:
    edm.check_images(grad=grad)
    edm.check_levels(grad, sigma=sigma)
    edm.check_positive(sigma_data=sigma_data)
    for dtype in (F_dtype, x_t_dtype):
        edm.check_output(dtype, channels_last, grad)


def _denoise(F: Tensor, x_t: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    D = denoise_reference(F, x_t, sigma, sigma_data)
    return edm.laid_out(D, D.dtype, edm.is_channels_last(F))


def _denoise_backward(
    grad: Tensor,
    sigma: Tensor,
    sigma_data: float,
    F_dtype: torch.dtype | None,
    x_t_dtype: torch.dtype | None,
    channels_last: bool,
) -> tuple[Tensor, Tensor]:
    level = edm.per_sample(sigma, grad)
    dF, dx_t = edm.c_out(level, sigma_data) * grad, edm.c_skip(level, sigma_data) * grad
    return edm.laid_out(dF, F_dtype, channels_last), edm.laid_out(dx_t, x_t_dtype, channels_last)


_library.define("denoise", "(Tensor F, Tensor x_t, Tensor sigma, float sigma_data) -> Tensor", _denoise, _check)
_library.define(  # a dtype of None: that gradient is not asked for, and comes back empty
    "denoise_backward",
    "(Tensor grad, Tensor sigma, float sigma_data, ScalarType? F_dtype, ScalarType? x_t_dtype, bool channels_last)"
    " -> (Tensor, Tensor)",
    _denoise_backward,
    _check_backward,
)


@_library.fake("denoise")
def _(F: Tensor, x_t: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    return edm.new_images(x_t, edm.accumulation_dtype(x_t), edm.is_channels_last(F))


@_library.fake("denoise_backward")
def _(
    grad: Tensor,
    sigma: Tensor,
    sigma_data: float,
    F_dtype: torch.dtype | None,
    x_t_dtype: torch.dtype | None,
    channels_last: bool,
) -> tuple[Tensor, Tensor]:
    return edm.new_images(grad, F_dtype, channels_last), edm.new_images(grad, x_t_dtype, channels_last)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    F, x_t, sigma, ctx.sigma_data = inputs
    ctx.save_for_backward(sigma)
    ctx.dtypes, ctx.channels_last = (F.dtype, x_t.dtype), edm.is_channels_last(F)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad[:2]
    dtypes = (dtype if need else None for dtype, need in zip(ctx.dtypes, needed, strict=True))
    (sigma,) = ctx.saved_tensors
    grads = torch.ops.rsd_fast.denoise_backward.default(grad, sigma, ctx.sigma_data, *dtypes, ctx.channels_last)
    return *(g if need else None for g, need in zip(grads, needed, strict=True)), None, None


_library.differentiable("denoise", _backward, _setup_context, (0, 1))
_library.differentiable_once("denoise_backward")
