"""Noise levels: the samplers' grid, and the distributions a training step draws from.

Karras et al. 2022 (arXiv 2206.00364), equation 5 and section 5, and the truncation described at
`truncated_log_normal`.
"""

import math

import torch
from torch import Tensor


def karras(n: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """Sampler grid [n + 1] in float64: n levels from sigma_max down to sigma_min, then 0.

    sigma_i = (sigma_max^(1/rho) + i/(n-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho.
    Raises ValueError unless n >= 1, 0 < sigma_min <= sigma_max and rho > 0.
    """
    if n < 1:
        raise ValueError(f"n: expected at least 1 step, got {n}")
    position = torch.linspace(0, 1, n, dtype=torch.float64)
    return torch.cat([power_interpolation(position, sigma_min, sigma_max, rho), position.new_zeros(1)])


def power_interpolation(position: Tensor, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """The noise level at `position` in [0, 1] of the grid above: 0 is sigma_max, 1 is sigma_min."""
    if not (0 < sigma_min <= sigma_max < math.inf and rho > 0):
        raise ValueError(
            f"expected 0 < sigma_min <= sigma_max and rho > 0, got sigma_min={sigma_min}, sigma_max={sigma_max}, "
            f"rho={rho}"
        )
    top, bottom = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return (top + position * (bottom - top)) ** rho


def truncated_log_normal(u: Tensor, sigma_obs: Tensor | float, p_mean: float, p_std: float) -> tuple[Tensor, Tensor]:
    """(sigma, mass): ln sigma ~ N(p_mean, p_std^2) given sigma >= sigma_obs, by inverse CDF, and P(sigma >= sigma_obs).

    u: float64 uniforms in (0, 1), any shape; sigma_obs: a number or broadcastable to u, 0 for no truncation.
    E[mass f(sigma)] equals the expectation of f over the untruncated law wherever f is 0 below sigma_obs, as the
    Tweedie loss is when sigma is clamped: the same expected gradient, without the evaluations that contribute nothing.
    """
    sigma_obs = _as_level(sigma_obs, u)
    lowest = (sigma_obs.log() - p_mean) / p_std  # -inf for sigma_obs = 0
    # By the upper tail, and erfc rather than ndtr, so that both stay accurate where little mass is left.
    mass = torch.special.erfc(lowest * math.sqrt(0.5)) / 2
    sigma = torch.exp(p_mean - p_std * torch.special.ndtri(u * mass))
    return torch.maximum(sigma, sigma_obs), mass.expand_as(sigma)


def clamped_log_normal(u: Tensor, sigma_obs: Tensor | float, p_mean: float, p_std: float) -> tuple[Tensor, Tensor]:
    """As above, but sigma below sigma_obs is raised to it, as published code does; mass is 1."""
    sigma_obs = _as_level(sigma_obs, u)
    sigma = torch.exp(p_mean - p_std * torch.special.ndtri(u))
    return torch.maximum(sigma, sigma_obs), torch.ones_like(sigma)


def log_normal_below(u: Tensor, highest: Tensor, p_mean: float, p_std: float) -> Tensor:
    """sigma with ln sigma ~ N(p_mean, p_std^2) given sigma < highest, by inverse CDF; u float64 in (0, 1), as above."""
    highest = _as_level(highest, u)
    mass = torch.special.ndtr((highest.log() - p_mean) / p_std)
    sigma = torch.exp(p_mean + p_std * torch.special.ndtri(u * mass))
    return torch.minimum(sigma, highest)


def _as_level(sigma: Tensor | float, like: Tensor) -> Tensor:
    if isinstance(sigma, Tensor):
        return sigma.to(like.device, like.dtype)
    return torch.full((), sigma, dtype=like.dtype, device=like.device)
