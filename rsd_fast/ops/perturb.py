"""An observation, noised on to the diffusion level sigma (Daras et al. 2024, "Consistent diffusion meets Tweedie").

    x_t = y + sqrt(sigma^2 - sigma_obs^2) n,      n ~ N(0, I),      net_input = c_in(sigma) x_t

y already holds noise of sigma_obs, so that x_t holds noise of sigma in all. Both are linear in y:
dy = dx_t + c_in dnet_input.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _library, edm
from .philox import Counter, Stream, integers, randn_reference, signed_seed


class InputOptions(NamedTuple):
    """How a network takes its input, the net_input of `perturb` and `observe_perturb`.

    sigma_data: the standard deviation of the data, for c_in. dtype: that of net_input. channels_last: the memory format
    of net_input and of all that comes with it.
    """

    sigma_data: float = 0.5
    dtype: torch.dtype = torch.float32
    channels_last: bool = False

    @classmethod
    def like(cls, images: Tensor) -> "InputOptions":
        """Those of a call that has none: the memory format is that of the images."""
        return cls(channels_last=edm.is_channels_last(images))


def perturb(
    y: Tensor,
    sigma: Tensor | float,
    sigma_obs: Tensor | float,
    seed: int,
    sample: Tensor,
    step: int | Tensor,
    options: InputOptions | None = None,
) -> tuple[Tensor, Tensor]:
    """(x_t, net_input), both [B, ...]: x_t in float32 (float64 for float64), net_input as `options` say: where there
    are none in float32, with sigma_data 0.5, both in the memory format of y.

    y: [B, ...] floating-point. sigma, sigma_obs: [B] or a number, with sigma >= sigma_obs. sample: [B] integers, the
    samples' identities: noise is a function of (seed, sample, element, step), of no other sample and of no layout.
    step: an int, or a tensor of one integer or [B], so that a replayed CUDA graph can draw fresh noise.
    Differentiable once, in y. Raises ValueError or TypeError on arguments that do not fit.
    """
    edm.check_tensors(y=y)
    levels = edm.levels(sigma, y), edm.levels(sigma_obs, y, "sigma_obs")
    counter = signed_seed(seed), *integers(sample=sample, step=step)
    return torch.ops.rsd_fast.perturb.default(y, *levels, *counter, *(options or InputOptions.like(y)))


def perturb_reference(
    y: Tensor,
    sigma: Tensor | float,
    sigma_obs: Tensor | float,
    seed: int,
    sample: Tensor,
    step: int | Tensor,
    options: InputOptions | None = None,
) -> tuple[Tensor, Tensor]:
    """The mathematics above in plain PyTorch."""
    sigma_data, dtype, channels_last = options or InputOptions.like(y)
    sigma, sigma_obs = edm.per_sample(sigma, y), edm.per_sample(sigma_obs, y, "sigma_obs")
    noise = randn_reference(y.shape, seed, sample, step, Stream.DIFFUSION_NOISE)
    # clamp: sigma and sigma_obs may be equal up to rounding
    x_t = y.to(sigma.dtype) + (sigma**2 - sigma_obs**2).clamp_min(0).sqrt() * noise
    net_input = edm.c_in(sigma, sigma_data) * x_t
    return edm.laid_out(x_t, x_t.dtype, channels_last), edm.laid_out(net_input, dtype, channels_last)


# Registration


class Perturbation(NamedTuple):
    """How observations are perturbed: arguments of the ops `perturb` and `observe_perturb`."""

    sigma: Tensor  # [B] or [1]
    counter: Counter
    options: InputOptions

    @classmethod
    def of(cls, sigma: Tensor, seed: int, sample: Tensor, step: Tensor, *options: Any) -> "Perturbation":
        return cls(sigma, Counter.of(seed, sample, step), InputOptions(*options))

    def reference(self, y: Tensor, sigma_obs: Tensor) -> tuple[Tensor, Tensor]:
        """(x_t, net_input) in plain PyTorch."""
        sigma, counter, options = self
        return perturb_reference(y, sigma, sigma_obs, *counter, options)


def check_perturbation(y: Tensor, sigma_obs: Tensor, perturbation: Perturbation) -> None:
    """What `perturb` and `observe_perturb` ask for; y may be on the way to become floating-point."""
    sigma, counter, options = perturbation
    edm.check_levels(y, sigma=sigma, sigma_obs=sigma_obs)
    edm.check_positive(sigma_data=options.sigma_data)
    counter.check(y)
    edm.check_output(options.dtype, options.channels_last, y)


def _unpack(y: Tensor, sigma: Tensor, sigma_obs: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Perturbation]:
    return y, sigma_obs, Perturbation.of(sigma, *rest)


def _check(y: Tensor, sigma_obs: Tensor, perturbation: Perturbation) -> None:
    edm.check_images(y=y)
    check_perturbation(y, sigma_obs, perturbation)


def _check_backward(
    grad_x_t: Tensor, grad_net_input: Tensor, sigma: Tensor, sigma_data: float, dtype: torch.dtype, channels_last: bool
) -> None:
    edm.check_images(grad_x_t=grad_x_t, grad_net_input=grad_net_input)
    edm.check_levels(grad_x_t, sigma=sigma)
    edm.check_positive(sigma_data=sigma_data)
    edm.check_output(dtype, channels_last, grad_x_t)


def _perturb(y: Tensor, sigma_obs: Tensor, perturbation: Perturbation) -> tuple[Tensor, Tensor]:
    x_t, net_input = perturbation.reference(y, sigma_obs)
    return x_t, net_input.clone() if net_input is x_t else net_input


def _perturb_backward(
    grad_x_t: Tensor, grad_net_input: Tensor, sigma: Tensor, sigma_data: float, dtype: torch.dtype, channels_last: bool
) -> Tensor:
    c_in = edm.c_in(edm.per_sample(sigma, grad_x_t), sigma_data)
    return edm.laid_out(grad_x_t + c_in * grad_net_input.to(c_in.dtype), dtype, channels_last)


_library.define(
    "perturb",
    "(Tensor y, Tensor sigma, Tensor sigma_obs, int seed, Tensor sample, Tensor step, float sigma_data,"
    " ScalarType dtype, bool channels_last) -> (Tensor, Tensor)",
    _perturb,
    _check,
    _unpack,
)
_library.define(
    "perturb_backward",
    "(Tensor grad_x_t, Tensor grad_net_input, Tensor sigma, float sigma_data, ScalarType dtype, bool channels_last)"
    " -> Tensor",
    _perturb_backward,
    _check_backward,
)


@_library.fake("perturb")
def _(y: Tensor, sigma_obs: Tensor, perturbation: Perturbation) -> tuple[Tensor, Tensor]:
    _, dtype, channels_last = perturbation.options
    x_t = edm.new_images(y, edm.accumulation_dtype(y), channels_last)
    return x_t, edm.new_images(y, dtype, channels_last)


@_library.fake("perturb_backward")
def _(grad_x_t: Tensor, grad_net_input: Tensor, sigma: Tensor, sigma_data: float, *output: Any) -> Tensor:
    return edm.new_images(grad_x_t, *output)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    y, sigma, *_, ctx.sigma_data, _, _ = inputs
    ctx.save_for_backward(sigma)
    ctx.dtype, ctx.channels_last = y.dtype, edm.is_channels_last(y)


def _backward(ctx: Any, grad_x_t: Tensor, grad_net_input: Tensor) -> tuple[Tensor | None, ...]:
    (sigma,) = ctx.saved_tensors
    arguments = grad_x_t, grad_net_input, sigma, ctx.sigma_data, ctx.dtype, ctx.channels_last
    return torch.ops.rsd_fast.perturb_backward.default(*arguments), *(None,) * 8


_library.differentiable("perturb", _backward, _setup_context, (0,))
_library.differentiable_once("perturb_backward")
