"""EDM preconditioning of one sample, as IEEE rounds it; ``rsd_fast/ops/edm.py`` has the mathematics."""

import triton
import triton.language as tl


@triton.jit
def divide(x, y):
    if y.dtype == tl.float64:
        return x / y
    else:
        return tl.div_rn(x, y)


@triton.jit
def root(x):
    if x.dtype == tl.float64:
        return tl.sqrt(x)
    else:
        return tl.sqrt_rn(x)


@triton.jit
def edm(sigma, SIGMA_DATA: tl.constexpr):
    """(c_skip, c_out, c_in, weight). sigma_data is a constant: as an argument it would be cut to float32."""
    variance = sigma * sigma + SIGMA_DATA * SIGMA_DATA
    product = sigma * SIGMA_DATA
    deviation = root(variance)
    return (
        divide(SIGMA_DATA * SIGMA_DATA, variance),
        divide(product, deviation),
        divide(1.0, deviation),
        divide(variance, product * product),
    )
