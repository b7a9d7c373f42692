"""An observation, noised on to the diffusion level sigma (Daras et al. 2024, "Consistent diffusion meets Tweedie").

    x_t = y + sqrt(sigma^2 - sigma_obs^2) n,      n ~ N(0, I),      net_input = c_in(sigma) x_t

y already holds noise of sigma_obs, so that x_t holds noise of sigma in all. Both are linear in y:
dy = dx_t + c_in dnet_input.
"""

import torch
from torch import Tensor

from . import _library, edm
from .philox import Stream, check_counter, integers, randn_reference, signed_seed


def perturb(
    y: Tensor,
    sigma: Tensor | float,
    sigma_obs: Tensor | float,
    seed: int,
    sample: Tensor,
    step: int | Tensor,
    *,
    sigma_data: float = 0.5,
    dtype: torch.dtype = torch.float32,
    channels_last: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """(x_t, net_input), both [B, ...]: x_t in float32 (float64 for float64), net_input in `dtype`.

    y: [B, ...] floating-point. sigma, sigma_obs: [B] or a number, with sigma >= sigma_obs. sample: [B] integers, the
    samples' identities: noise is a function of (seed, sample, element, step), of no other sample and of no layout.
    step: an int, or a tensor of one integer or [B], so that a replayed CUDA graph can draw fresh noise.
    channels_last: the memory format of both; None keeps that of y. Differentiable once, in y.
    Raises ValueError or TypeError on arguments that do not fit.
    """
    edm.check_tensors(y=y)
    if channels_last is None:
        channels_last = edm.is_channels_last(y)
    levels = edm.levels(sigma, y), edm.levels(sigma_obs, y, "sigma_obs")
    counter = signed_seed(seed), *integers(sample=sample, step=step)
    return torch.ops.rsd_fast.perturb.default(y, *levels, *counter, sigma_data, dtype, channels_last)


def perturb_reference(
    y: Tensor,
    sigma: Tensor | float,
    sigma_obs: Tensor | float,
    seed: int,
    sample: Tensor,
    step: int | Tensor,
    *,
    sigma_data: float = 0.5,
    dtype: torch.dtype = torch.float32,
    channels_last: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """The mathematics above in plain PyTorch."""
    if channels_last is None:
        channels_last = edm.is_channels_last(y)
    sigma, sigma_obs = edm.per_sample(sigma, y), edm.per_sample(sigma_obs, y, "sigma_obs")
    noise = randn_reference(y.shape, seed, sample, step, Stream.DIFFUSION_NOISE)
    # clamp: sigma and sigma_obs may be equal up to rounding
    x_t = y.to(sigma.dtype) + (sigma**2 - sigma_obs**2).clamp_min(0).sqrt() * noise
    net_input = edm.c_in(sigma, sigma_data) * x_t
    return edm.laid_out(x_t, x_t.dtype, channels_last), edm.laid_out(net_input, dtype, channels_last)


# Registration


def check_perturbation(y, sigma, sigma_obs, seed, sample, step, sigma_data, dtype, channels_last):
    """What `perturb` and `observe_perturb` ask for; y may be on the way to become floating-point."""
    edm.check_levels(y, sigma=sigma, sigma_obs=sigma_obs)
    edm.check_positive(sigma_data=sigma_data)
    check_counter(sample, step)
    if len(sample) != len(y):
        raise ValueError(f"sample: expected one id an image, [{len(y)}], got {list(sample.shape)}")
    if sample.device != y.device:
        raise ValueError(f"sample: expected the device of the images, {y.device}, got {sample.device}")
    edm.check_output(dtype, channels_last, y)


def _check(y, *arguments):
    edm.check_images(y=y)
    check_perturbation(y, *arguments)


def _check_backward(grad_x_t, grad_net_input, sigma, sigma_data, dtype, channels_last):
    edm.check_images(grad_x_t=grad_x_t, grad_net_input=grad_net_input)
    edm.check_levels(grad_x_t, sigma=sigma)
    edm.check_positive(sigma_data=sigma_data)
    edm.check_output(dtype, channels_last, grad_x_t)


def _perturb(y, sigma, sigma_obs, seed, sample, step, sigma_data, dtype, channels_last):
    arguments = y, sigma, sigma_obs, seed, sample, step
    x_t, net_input = perturb_reference(*arguments, sigma_data=sigma_data, dtype=dtype, channels_last=channels_last)
    return x_t, net_input.clone() if net_input is x_t else net_input


def _perturb_backward(grad_x_t, grad_net_input, sigma, sigma_data, dtype, channels_last):
    c_in = edm.c_in(edm.per_sample(sigma, grad_x_t), sigma_data)
    return edm.laid_out(grad_x_t + c_in * grad_net_input.to(c_in.dtype), dtype, channels_last)


_library.define(
    "perturb",
    "(Tensor y, Tensor sigma, Tensor sigma_obs, int seed, Tensor sample, Tensor step, float sigma_data,"
    " ScalarType dtype, bool channels_last) -> (Tensor, Tensor)",
    _perturb,
    _check,
)
_library.define(
    "perturb_backward",
    "(Tensor grad_x_t, Tensor grad_net_input, Tensor sigma, float sigma_data, ScalarType dtype, bool channels_last)"
    " -> Tensor",
    _perturb_backward,
    _check_backward,
)


@_library.fake("perturb")
def _(y, sigma, sigma_obs, seed, sample, step, sigma_data, dtype, channels_last):
    return tuple(edm.new_images(y, kind, channels_last) for kind in (edm.accumulation_dtype(y), dtype))


@_library.fake("perturb_backward")
def _(grad_x_t, grad_net_input, sigma, sigma_data, dtype, channels_last):
    return edm.new_images(grad_x_t, dtype, channels_last)


def _setup_context(ctx, inputs, output):
    y, sigma, *_, ctx.sigma_data, _, _ = inputs
    ctx.save_for_backward(sigma)
    ctx.dtype, ctx.channels_last = y.dtype, edm.is_channels_last(y)


def _backward(ctx, grad_x_t, grad_net_input):
    (sigma,) = ctx.saved_tensors
    arguments = grad_x_t, grad_net_input, sigma, ctx.sigma_data, ctx.dtype, ctx.channels_last
    return torch.ops.rsd_fast.perturb_backward.default(*arguments), *(None,) * 8


_library.differentiable("perturb", _backward, _setup_context, (0,))
_library.differentiable_once("perturb_backward")
