"""Generator loss of score identity distillation (Zhou et al. 2024, arXiv 2404.04057, equation 23), from raw outputs.

With f, g the denoisings of u_t by the teacher and by the fake score, and u the generator's (corrupted) image,

    d = f - g = c_out (F_teacher - F_fake),      r = f - u = c_skip u_t + c_out F_teacher - u
    w = 1 / max(mean|u - f|, 1e-5)  (no gradient),      loss = w sum( d (r - alpha d) )

and per element  dloss/df = w (r + d - 2 alpha d),  dloss/dg = w (2 alpha d - r),  dloss/du = -w d.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _library, edm


def score_difference_loss(
    F_teacher: Tensor,
    F_fake: Tensor,
    u_t: Tensor,
    u: Tensor,
    sigma: Tensor | float,
    alpha: float = 1.2,
    sigma_data: float = 0.5,
    mask: Tensor | None = None,
) -> Tensor:
    """Per-sample loss [B], summed over pixels, in float32 (float64 where u is float64).

    F_teacher, F_fake, u_t, u: [B, ...] of one shape and device; the first two may be bfloat16 or float16. sigma: [B] or
    a number. mask: broadcastable to u, of any real dtype, multiplies d and r (w's mean is over all pixels).
    Differentiable once, in the first four. Raises ValueError on a mismatch of shape or device, TypeError on dtypes.
    """
    edm.check_tensors(F_teacher=F_teacher, F_fake=F_fake, u_t=u_t, u=u)
    edm.check_no_gradient(mask=mask)
    arguments = F_teacher, F_fake, u_t, u, edm.levels(sigma, u), alpha, sigma_data, mask
    return torch.ops.rsd_fast.score_difference_loss.default(*arguments)[0]


def score_difference_loss_reference(
    F_teacher: Tensor,
    F_fake: Tensor,
    u_t: Tensor,
    u: Tensor,
    sigma: Tensor | float,
    alpha: float = 1.2,
    sigma_data: float = 0.5,
    mask: Tensor | None = None,
) -> Tensor:
    """The mathematics above in plain PyTorch."""
    return _loss_and_weight(F_teacher, F_fake, u_t, u, sigma, alpha, sigma_data, mask)[0]


def _differences(
    F_teacher: Tensor,
    F_fake: Tensor,
    u_t: Tensor,
    u: Tensor,
    sigma: Tensor | float,
    sigma_data: float,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """mask d and mask r."""
    dtype, sigma = edm.accumulation_dtype(u), edm.per_sample(sigma, u)
    c_skip, c_out = edm.c_skip(sigma, sigma_data), edm.c_out(sigma, sigma_data)
    F_teacher, F_fake = F_teacher.to(dtype), F_fake.to(dtype)
    d, r = c_out * (F_teacher - F_fake), c_skip * u_t.to(dtype) + c_out * F_teacher - u.to(dtype)
    if mask is not None:
        d, r = d * mask.to(dtype), r * mask.to(dtype)
    return d, r


def _loss_and_weight(
    F_teacher: Tensor,
    F_fake: Tensor,
    u_t: Tensor,
    u: Tensor,
    sigma: Tensor | float,
    alpha: float,
    sigma_data: float,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    d, r = _differences(F_teacher, F_fake, u_t, u, sigma, sigma_data, mask)
    shape = len(u), math.prod(u.shape[1:])  # -1 would be ambiguous without an image
    weight = 1 / r.detach().reshape(shape).abs().mean(1).clamp_min(1e-5)
    return weight * (d * (r - alpha * d)).reshape(shape).sum(1), weight


# Registration


def _check(
    F_teacher: Tensor,
    F_fake: Tensor,
    u_t: Tensor,
    u: Tensor,
    sigma: Tensor,
    alpha: float,
    sigma_data: float,
    mask: Tensor | None,
) -> None:
    edm.check_images(u=u, F_teacher=F_teacher, F_fake=F_fake, u_t=u_t)
    edm.check_levels(u, sigma=sigma)
    edm.check_finite(alpha=alpha)
    edm.check_positive(sigma_data=sigma_data)
    edm.check_mask(mask, u)


def _check_backward(grad: Tensor, weight: Tensor, *arguments: Any) -> None:
    *forward, _ = arguments
    _check(*forward)
    edm.check_gradient(grad, forward[3])
    edm.check_gradient(weight, forward[3], "weight")


def _score_difference_loss_backward(
    grad: Tensor,
    weight: Tensor,
    F_teacher: Tensor,
    F_fake: Tensor,
    u_t: Tensor,
    u: Tensor,
    sigma: Tensor,
    alpha: float,
    sigma_data: float,
    mask: Tensor | None,
    needed: Sequence[bool],
) -> tuple[Tensor, ...]:
    d, r = _differences(F_teacher, F_fake, u_t, u, sigma, sigma_data, mask)
    level = edm.per_sample(sigma, u)
    c_skip, c_out = edm.c_skip(level, sigma_data), edm.c_out(level, sigma_data)
    scale = (grad * weight).reshape(-1, *[1] * (u.ndim - 1))
    if mask is not None:
        scale = scale * mask.to(scale.dtype)
    by_teacher, by_fake = r + (1 - 2 * alpha) * d, 2 * alpha * d - r
    gradients = c_out * scale * by_teacher, c_out * scale * by_fake, c_skip * scale * d, -scale * d
    inputs = F_teacher, F_fake, u_t, u
    channels_last = edm.is_channels_last(F_teacher)
    return tuple(
        edm.laid_out(gradient, x.dtype if need else None, channels_last)
        for gradient, x, need in zip(gradients, inputs, needed, strict=True)
    )


_ARGUMENTS = (
    "Tensor F_teacher, Tensor F_fake, Tensor u_t, Tensor u, Tensor sigma, float alpha, float sigma_data, Tensor? mask"
)
_library.define("score_difference_loss", f"({_ARGUMENTS}) -> (Tensor, Tensor)", _loss_and_weight, _check)
_library.define(  # gradients that are not needed come back empty
    "score_difference_loss_backward",
    f"(Tensor grad, Tensor weight, {_ARGUMENTS}, bool[4] needed) -> (Tensor, Tensor, Tensor, Tensor)",
    _score_difference_loss_backward,
    _check_backward,
)


@_library.fake("score_difference_loss")
def _(F_teacher: Tensor, F_fake: Tensor, u_t: Tensor, u: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    loss = u.new_empty(len(u), dtype=edm.accumulation_dtype(u))
    return loss, torch.empty_like(loss)


@_library.fake("score_difference_loss_backward")
def _(grad: Tensor, weight: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *inputs, _, _, _, _, needed = arguments
    channels_last = edm.is_channels_last(inputs[0])
    return tuple(
        edm.new_images(x, x.dtype if need else None, channels_last) for x, need in zip(inputs, needed, strict=True)
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.alpha, ctx.sigma_data, mask = inputs
    ctx.save_for_backward(output[1], *tensors, mask)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, mask = ctx.saved_tensors
    needed = ctx.needs_input_grad[:4]
    arguments = *tensors, ctx.alpha, ctx.sigma_data, mask, needed
    gradients = torch.ops.rsd_fast.score_difference_loss_backward.default(grad, *arguments)
    return *(g if need else None for g, need in zip(gradients, needed, strict=True)), None, None, None, None


_library.differentiable("score_difference_loss", _backward, _setup_context, (0, 1, 2, 3))
_library.differentiable_once("score_difference_loss_backward")
