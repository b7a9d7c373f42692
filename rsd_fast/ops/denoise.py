"""The denoiser of the raw network output (Karras et al. 2022, equation 7).

D = c_skip(sigma) x_t + c_out(sigma) F,      F = network(c_in(sigma) x_t, c_noise(sigma))
"""

from torch import Tensor

from . import edm


def denoise(F: Tensor, x_t: Tensor, sigma: Tensor, sigma_data: float = 0.5) -> Tensor:
    """D [B, ...] in float32 (float64 where x_t is float64).

    F, x_t: [B, ...] of one shape; F may be bfloat16 or float16. sigma: [B] or a number.
    Differentiable in F and x_t. Raises ValueError on a shape mismatch.
    """
    edm.check_same_shape("F", F, "x_t", x_t)
    dtype = edm.accumulation_dtype(x_t)
    sigma = edm.per_sample(sigma, x_t)
    return edm.c_skip(sigma, sigma_data) * x_t.to(dtype) + edm.c_out(sigma, sigma_data) * F.to(dtype)
