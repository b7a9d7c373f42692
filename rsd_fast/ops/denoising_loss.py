"""Denoising score matching on observations that hold noise of sigma_obs (Daras et al. 2024, Ambient Tweedie).

    D = c_skip x_t + c_out F,   r = sigma_obs^2 / sigma^2,   h = (1 - r) D + r x_t        # h estimates E[y | x_t]
    loss = weight(sigma) sum( (mask (h - y))^2 )

so  dloss/dF = 2 weight (1 - r) c_out mask^2 (h - y).  With sigma_obs = 0 this is the loss of Karras et al. 2022.
"""

import math
from typing import Any

import torch
from torch import Tensor

from . import _library, edm
from .denoise import denoise_reference


def denoising_loss(
    F: Tensor,
    x_t: Tensor,
    y: Tensor,
    sigma: Tensor | float,
    sigma_obs: Tensor | float = 0.0,
    sigma_data: float = 0.5,
    mask: Tensor | None = None,
) -> Tensor:
    """Per-sample loss [B], summed over pixels, in float32 (float64 where x_t is float64).

    F, x_t, y: [B, ...] of one shape and device; F may be bfloat16 or float16. sigma, sigma_obs: [B] or a number,
    sigma_obs at most sigma. mask: broadcastable to y, of any real dtype. Differentiable once, only in F.
    Raises ValueError on a mismatch of shape or device and where x_t, y or mask requires a gradient, TypeError on a
    dtype.
    """
    edm.check_tensors(F=F, x_t=x_t, y=y)
    edm.check_no_gradient(x_t=x_t, y=y, mask=mask)
    if not isinstance(sigma, Tensor):
        edm.check_positive(sigma=sigma)
    levels = edm.levels(sigma, x_t), edm.levels(sigma_obs, x_t, "sigma_obs")
    return torch.ops.rsd_fast.denoising_loss.default(F, x_t, y, *levels, sigma_data, mask)


def denoising_loss_reference(
    F: Tensor,
    x_t: Tensor,
    y: Tensor,
    sigma: Tensor | float,
    sigma_obs: Tensor | float = 0.0,
    sigma_data: float = 0.5,
    mask: Tensor | None = None,
) -> Tensor:
    """The mathematics above in plain PyTorch."""
    error, weight, _ = _error(F, x_t, y, sigma, sigma_obs, sigma_data, mask)
    return (weight * error**2).reshape(len(y), math.prod(y.shape[1:])).sum(1)


def _error(
    F: Tensor,
    x_t: Tensor,
    y: Tensor,
    sigma: Tensor | float,
    sigma_obs: Tensor | float,
    sigma_data: float,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(mask (h - y), weight, 1 - r), each broadcastable to y."""
    D = denoise_reference(F, x_t, sigma, sigma_data)
    x_t, y = x_t.to(D.dtype), y.to(D.dtype)
    sigma, sigma_obs = edm.per_sample(sigma, x_t), edm.per_sample(sigma_obs, x_t, "sigma_obs")
    keep = 1 - (sigma_obs / sigma) ** 2
    error = keep * (D - x_t) + (x_t - y)  # h - y, without the cancellation of r x_t near sigma_obs
    if mask is not None:
        error = error * mask.to(error.dtype)
    return error, edm.loss_weight(sigma, sigma_data), keep


# Registration


def _check(
    F: Tensor,
    x_t: Tensor,
    y: Tensor,
    sigma: Tensor,
    sigma_obs: Tensor,
    sigma_data: float,
    mask: Tensor | None,
) -> None:
    edm.check_images(x_t=x_t, F=F, y=y)
    edm.check_levels(x_t, sigma=sigma, sigma_obs=sigma_obs)
    edm.check_positive(sigma_data=sigma_data)
    edm.check_mask(mask, y)


def _check_backward(grad: Tensor, *arguments: Any) -> None:
    _check(*arguments)
    edm.check_gradient(grad, arguments[1])


def _denoising_loss_backward(
    grad: Tensor,
    F: Tensor,
    x_t: Tensor,
    y: Tensor,
    sigma: Tensor,
    sigma_obs: Tensor,
    sigma_data: float,
    mask: Tensor | None,
) -> Tensor:
    error, weight, keep = _error(F, x_t, y, sigma, sigma_obs, sigma_data, mask)
    slope = 2 * weight * keep * edm.c_out(edm.per_sample(sigma, x_t), sigma_data)
    dF = grad.reshape(-1, *[1] * (y.ndim - 1)) * slope * error
    return edm.laid_out(dF if mask is None else dF * mask.to(dF.dtype), F.dtype, edm.is_channels_last(F))


_ARGUMENTS = "Tensor F, Tensor x_t, Tensor y, Tensor sigma, Tensor sigma_obs, float sigma_data, Tensor? mask"
_library.define("denoising_loss", f"({_ARGUMENTS}) -> Tensor", denoising_loss_reference, _check)
_library.define(
    "denoising_loss_backward", f"(Tensor grad, {_ARGUMENTS}) -> Tensor", _denoising_loss_backward, _check_backward
)


@_library.fake("denoising_loss")
def _(F: Tensor, x_t: Tensor, *_: Any) -> Tensor:
    return x_t.new_empty(len(x_t), dtype=edm.accumulation_dtype(x_t))


@_library.fake("denoising_loss_backward")
def _(grad: Tensor, F: Tensor, *_: Any) -> Tensor:
    return edm.new_images(F, F.dtype, edm.is_channels_last(F))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.sigma_data, mask = inputs
    ctx.save_for_backward(*tensors, mask)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    if not ctx.needs_input_grad[0]:
        return (None,) * 7
    *tensors, mask = ctx.saved_tensors
    dF = torch.ops.rsd_fast.denoising_loss_backward.default(grad, *tensors, ctx.sigma_data, mask)
    return dF, *(None,) * 6


_library.differentiable("denoising_loss", _backward, _setup_context, (0,))
_library.differentiable_once("denoising_loss_backward")
