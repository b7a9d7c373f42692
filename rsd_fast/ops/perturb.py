"""An observation, noised on to the diffusion level sigma (Daras et al. 2024, "Consistent diffusion meets Tweedie").

    x_t = y + sqrt(sigma^2 - sigma_obs^2) n,      n ~ N(0, I),      net_input = c_in(sigma) x_t

y already holds noise of sigma_obs, so that x_t holds noise of sigma in all.
"""

import torch
from torch import Tensor

from . import edm
from .philox import Stream, randn


def perturb(
    y: Tensor,
    sigma: Tensor,
    sigma_obs: Tensor | float,
    seed: int,
    sample: Tensor,
    step: int | Tensor,
    *,
    sigma_data: float = 0.5,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """(x_t, net_input), both [B, ...]: x_t in float32 (float64 for float64), net_input in `dtype`.

    y: [B, ...]. sigma: [B], sigma_obs: [B] or a number, with sigma >= sigma_obs. sample: [B] integers, the samples'
    identities: noise is a function of (seed, sample, element, step). Differentiable in y.
    """
    sigma, sigma_obs = edm.per_sample(sigma, y), edm.per_sample(sigma_obs, y, "sigma_obs")
    noise = randn(y.shape, seed, sample, step, Stream.DIFFUSION_NOISE)
    # clamp: sigma and sigma_obs may be equal up to rounding
    x_t = y + (sigma**2 - sigma_obs**2).clamp_min(0).sqrt() * noise
    return x_t, (edm.c_in(sigma, sigma_data) * x_t).to(dtype)
