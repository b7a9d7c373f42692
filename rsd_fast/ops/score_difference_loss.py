"""Generator loss of score identity distillation (Zhou et al. 2024, arXiv 2404.04057, equation 23), from raw outputs.

With f, g the denoisings of u_t by the teacher and by the fake score, and u the generator's (corrupted) image,

    d = f - g = c_out (F_teacher - F_fake),      r = f - u = c_skip u_t + c_out F_teacher - u
    w = 1 / max(mean|u - f|, 1e-5)  (no gradient),      loss = w sum( d (r - alpha d) )

and per element  dloss/df = w (r + d - 2 alpha d),  dloss/dg = w (2 alpha d - r),  dloss/du = -w d.
"""

from torch import Tensor

from . import edm
from .denoise import denoise


def score_difference_loss(
    F_teacher: Tensor,
    F_fake: Tensor,
    u_t: Tensor,
    u: Tensor,
    sigma: Tensor,
    alpha: float = 1.2,
    sigma_data: float = 0.5,
    mask: Tensor | None = None,
) -> Tensor:
    """Per-sample loss [B], summed over pixels, in float32 (float64 where u is float64).

    F_teacher, F_fake, u_t, u: [B, ...] of one shape; sigma: [B]; mask: broadcastable to u, multiplies every term.
    Differentiable in the first four. Raises ValueError on a shape mismatch.
    """
    for name, tensor in (("F_fake", F_fake), ("u_t", u_t), ("u", u)):
        edm.check_same_shape(name, tensor, "F_teacher", F_teacher)
    edm.check_mask(mask, u)
    f, g = denoise(F_teacher, u_t, sigma, sigma_data), denoise(F_fake, u_t, sigma, sigma_data)
    d, r = f - g, f - u
    if mask is not None:
        d, r = d * mask, r * mask
    weight = 1 / r.detach().flatten(1).abs().mean(1).clamp_min(1e-5)
    return weight * (d * (r - alpha * d)).flatten(1).sum(1)
