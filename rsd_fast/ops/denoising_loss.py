"""Denoising score matching on observations that hold noise of sigma_obs (Daras et al. 2024, Ambient Tweedie).

    D = c_skip x_t + c_out F,   r = sigma_obs^2 / sigma^2,   h = (1 - r) D + r x_t        # h estimates E[y | x_t]
    loss = weight(sigma) sum( (mask (h - y))^2 )

so  dloss/dF = 2 weight (1 - r) c_out mask^2 (h - y).  With sigma_obs = 0 this is the loss of Karras et al. 2022.
"""

from torch import Tensor

from . import edm
from .denoise import denoise


def denoising_loss(
    F: Tensor,
    x_t: Tensor,
    y: Tensor,
    sigma: Tensor,
    sigma_obs: Tensor | float = 0.0,
    sigma_data: float = 0.5,
    mask: Tensor | None = None,
) -> Tensor:
    """Per-sample loss [B], summed over pixels, in float32 (float64 where x_t is float64).

    F, x_t, y: [B, ...] of one shape. sigma: [B]; sigma_obs: [B] or a number, at most sigma.
    mask: broadcastable to y. Differentiable in F. Raises ValueError on a shape mismatch.
    """
    edm.check_same_shape("y", y, "x_t", x_t)
    edm.check_mask(mask, y)
    D = denoise(F, x_t, sigma, sigma_data)
    sigma, sigma_obs = edm.per_sample(sigma, x_t), edm.per_sample(sigma_obs, x_t, "sigma_obs")
    r = (sigma_obs / sigma) ** 2
    error = (1 - r) * (D - x_t) + (x_t - y)  # h - y, without the cancellation of r x_t near sigma_obs
    if mask is not None:
        error = error * mask
    return (edm.loss_weight(sigma, sigma_data) * error**2).flatten(1).sum(1)
