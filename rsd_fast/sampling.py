"""Samplers for a trained denoiser (Karras et al. 2022, algorithm 1 without churn)."""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from . import schedules


def heun(
    den: Callable[..., Tensor],
    latents: Tensor,
    steps: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    stop_at: float | None = None,
) -> Tensor:
    """Solve dx/dsigma = (x - D(x, sigma)) / sigma from sigma_max to 0 by Heun's second-order steps, the last one Euler.

    den: D(x [B, C, H, W], sigma [B]) -> [B, C, H, W]. latents: [B, C, H, W] ~ N(0, I), scaled by sigma_max
    here. Returns [B, C, H, W] in the latents' dtype, float64 included. Costs 2 steps - 1 evaluations.
    stop_at: for a teacher trained only on sigma >= sigma_obs ("truncated" sampling): stop at the first grid point at
    or below stop_at and return D there.
    """
    for sigma, x, denoised in heun_trajectory(den, latents, steps, sigma_min, sigma_max, rho):
        if sigma == 0:
            return x
        if stop_at is not None and sigma <= stop_at:
            return denoised
    raise AssertionError("the trajectory ends at 0")


@torch.no_grad()
def heun_trajectory(
    den: Callable[..., Tensor],
    latents: Tensor,
    steps: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
) -> Iterator[tuple[float, Tensor, Tensor]]:
    """The states (sigma, x, D(x, sigma)) that `heun` goes through; the last is (0, x, x). Arguments as there."""
    grid = schedules.karras(steps, sigma_min, sigma_max, rho).tolist()

    def denoise(x: Tensor, sigma: float) -> Tensor:
        level = torch.full((len(x),), sigma, dtype=x.dtype, device=x.device)
        return den(x, level).to(x.dtype)

    x = latents * grid[0]
    for sigma, next_sigma in itertools.pairwise(grid):
        denoised = denoise(x, sigma)
        yield sigma, x, denoised
        slope = (x - denoised) / sigma
        euler = x + (next_sigma - sigma) * slope
        if next_sigma == 0:
            yield 0.0, euler, euler
        else:
            next_slope = (euler - denoise(euler, next_sigma)) / next_sigma
            x = x + (next_sigma - sigma) * (slope + next_slope) / 2
