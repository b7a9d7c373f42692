"""Losses of the generator, from what teacher f and fake score g make of its noised observation u_t.

    d = f - g,    r = f - u,    w = 1 / max(mean|r|, 1e-5)    (no gradient)

    sid   w sum( d (r - alpha d) ), through both networks      (Zhou et al. 2024, equation 23; `ops` has it fused)
    dmd   gradient -w d on u                                   (Yin et al. 2024, equations 7 and 8)
    sds   gradient -weight(sigma) r on u                       (Poole et al. 2023, equation 3)

each summed over pixels, d and r in the space of the observations, 0 where nothing was observed.
"""

from torch import Tensor


def sid(d: Tensor, r: Tensor, alpha: float) -> Tensor:
    """[B], of d and r [B, ...]."""
    return _weight(r) * (d * (r - alpha * d)).flatten(1).sum(1)


def dmd(d: Tensor, r: Tensor, u: Tensor) -> Tensor:
    """[B]: its value is no distance; its gradient, on u [B, ...] alone, is what matters."""
    return -_weight(r) * (d.detach() * u).flatten(1).sum(1)


def sds(r: Tensor, u: Tensor, weight: Tensor) -> Tensor:
    """[B], likewise; weight [B] of the noise levels."""
    return -weight * (r.detach() * u).flatten(1).sum(1)


def _weight(r: Tensor) -> Tensor:
    return 1 / r.detach().flatten(1).abs().mean(1).clamp_min(1e-5)
