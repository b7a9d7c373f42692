"""D = c_skip x_t + c_out F and its gradients; ``rsd_fast/ops/denoise.py`` has the mathematics."""

import triton
import triton.language as tl
from torch import Tensor

from .edm import edm
from .elements import cut, launch, load_level, store_rounded, strided, tile_of


@triton.jit
def denoise_kernel(D, F, x_t, sigma, inner, tiles, SIGMA_DATA: tl.constexpr, BLOCK: tl.constexpr):
    # D, F, x_t: [batch, inner]
    b, at, here = tile_of(inner, tiles, BLOCK)
    level = load_level(sigma, b)
    c_skip, c_out, _, _ = edm(level, SIGMA_DATA)
    x = tl.load(x_t + b * inner + at, here).to(level.dtype)
    f = tl.load(F + b * inner + at, here).to(level.dtype)
    tl.store(D + b * inner + at, c_skip * x + c_out * f, here)


@triton.jit
def denoise_backward_kernel(grad, dF, dx_t, sigma, inner, tiles, SIGMA_DATA: tl.constexpr, BLOCK: tl.constexpr):
    # grad, dF, dx_t: [batch, inner]; dF and dx_t None where not needed
    b, at, here = tile_of(inner, tiles, BLOCK)
    level = load_level(sigma, b)
    c_skip, c_out, _, _ = edm(level, SIGMA_DATA)
    g = tl.load(grad + b * inner + at, here).to(level.dtype)
    if dF is not None:
        store_rounded(dF + b * inner + at, c_out * g, here)
    if dx_t is not None:
        store_rounded(dx_t + b * inner + at, c_skip * g, here)


def denoise(D: Tensor, F: Tensor, x_t: Tensor, sigma: Tensor, sigma_data: float) -> None:
    """Fill D [B, ...]; F, x_t of its shape and memory order; sigma: [B] or [1] in D's dtype."""
    inner, tiles, block = cut(D, 1024)
    launch(denoise_kernel, len(D) * tiles, D, F, x_t, strided(sigma), inner, tiles, SIGMA_DATA=sigma_data, BLOCK=block)


def denoise_backward(grad: Tensor, dF: Tensor | None, dx_t: Tensor | None, sigma: Tensor, sigma_data: float) -> None:
    """Fill dF and dx_t, those that are not None; otherwise as for `denoise`."""
    inner, tiles, block = cut(grad, 1024)
    constants = {"SIGMA_DATA": sigma_data, "BLOCK": block}
    launch(denoise_backward_kernel, len(grad) * tiles, grad, dF, dx_t, strided(sigma), inner, tiles, **constants)
