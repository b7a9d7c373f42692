"""Inputs of the losses' tests, in every layout, and the rule by which numbers are close enough."""

import numpy as np
import torch

from rsd_fast import ops

SD = 0.5
FLOAT64 = ops.InputOptions(dtype=torch.float64)
SHAPES = [(3, 3, 8, 8), (4, 1, 5, 7), (1, 1, 1, 1), (2, 3)]
F_DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
LAYOUTS = ["contiguous", "channels-last", "sliced", "transposed"]


def rand(shape, seed, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def levels(batch, lowest=0.3):
    return torch.logspace(np.log10(lowest), 1, batch, dtype=torch.float64)


def columns(value, x):
    """[B] or a number, to broadcast against x, as NumPy float64."""
    value = value.double().numpy() if isinstance(value, torch.Tensor) else np.asarray(value, dtype=np.float64)
    return value.reshape(-1, *[1] * (x.ndim - 1)) if value.ndim else value


def arrays(*tensors):
    return [tensor.detach().double().numpy() for tensor in tensors]


def laid_out(x, layout):
    """The same values in another layout."""
    if layout == "channels-last" and x.ndim == 4:
        return x.to(memory_format=torch.channels_last)
    if layout == "sliced":
        wide = torch.full((*x.shape[:-1], 2 * x.shape[-1] + 1), torch.nan, dtype=x.dtype)
        wide[..., 1::2] = x
        return wide[..., 1::2]
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    return x


def assert_accurate(actual, exact, plain, summands=None):
    """Sample by sample: error at most twice that of `plain` (same precision), plus 8 of its last places.

    summands: of a sum that cancels, the sum of the absolute values, whose last places count instead.
    """
    assert actual.shape == tuple(exact.shape) and actual.dtype == plain.dtype
    eps = torch.finfo(actual.dtype).eps
    summands = exact if summands is None else summands
    for found, wanted, same, size in zip(*arrays(actual), *[exact], *arrays(plain), summands, strict=True):
        assert np.abs(found - wanted).max() <= 2 * np.abs(same - wanted).max() + 8 * eps * np.abs(size).max()


def denoise64(F, x_t, sigma, sigma_data=SD):
    s = columns(sigma, x_t)
    total = s**2 + sigma_data**2
    return sigma_data**2 / total * x_t + s * sigma_data / np.sqrt(total) * F


def denoise_plain(F, x_t, sigma, sigma_data=SD):
    """The same in the precision of x_t, float32 at least."""
    s = sigma.to(x_t.dtype).reshape(-1, *[1] * (x_t.ndim - 1))
    total = s**2 + sigma_data**2
    return sigma_data**2 / total * x_t + s * sigma_data / total.sqrt() * F.to(x_t.dtype)
