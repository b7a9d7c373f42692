"""Shapes and inputs of the tests of group_norm_silu, and the operation in NumPy and in plain PyTorch."""

import numpy as np
import torch
import torch.nn.functional as nnf

EPS = 1e-3
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
LAYOUTS = ["contiguous", "channels-last", "sliced", "expanded"]
CASES = [  # shape, groups: sizes that no tile, vector or power of two divides
    ((2, 6, 7, 5), 3),
    ((1, 1, 1, 1), 1),
    ((3, 2, 1, 3), 2),
    ((0, 4, 3, 3), 2),
    ((1, 33, 7, 2), 11),
    ((2, 12, 1, 1), 4),
    ((2, 14, 3, 17), 1),
    ((2, 10, 9), 5),
    ((2, 6), 2),
    ((1, 4, 2, 3, 3), 2),
]
LARGE = [  # more channels than a tile has lanes, more pixels than it has rows
    ((2, 260, 7, 3), 20),
    ((1, 513, 2, 2), 27),
    ((2, 24, 31, 33), 4),
    ((3, 1, 65, 17), 1),
    ((1, 17, 33, 31), 17),
]
TINY = [  # for Triton's interpreter, few programs; the third has several blocks of pixels
    ((2, 6, 7, 5), 3),
    ((0, 4, 3, 3), 2),
    ((1, 66, 7, 5), 1),
]
GIVEN = {  # which of weight, bias, scale, shift
    "weight, bias": (True, True, False, False),
    "none": (False, False, False, False),
    "all": (True, True, True, True),
    "weight, scale": (True, False, True, False),
    "bias, shift": (False, True, False, True),
}


def rand(shape, seed, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def laid_out(x, layout):
    """The same values in another layout; "expanded" repeats the first sample's with stride 0."""
    if layout == "channels-last" and x.ndim == 4:
        return x.to(memory_format=torch.channels_last)
    if layout == "sliced":
        wide = torch.full((*x.shape[:-1], 2 * x.shape[-1] + 1), torch.nan, dtype=x.dtype)
        wide[..., 1::2] = x
        return wide[..., 1::2]
    if layout == "expanded":
        return x[:1].expand(x.shape)
    return x


def arguments(shape, dtype, given="all", parameter_dtype=None, mean=0.0):
    """x, weight, bias, scale, shift; the parameters in float32 beside all that is shorter."""
    parameter_dtype = parameter_dtype or (torch.float64 if dtype == torch.float64 else torch.float32)
    x = (1.5 * rand(shape, 0) + mean).to(dtype)
    parameters = [rand(shape[1:2], 1) + 1, rand(shape[1:2], 2), rand(shape[:2], 3) / 2, rand(shape[:2], 4)]
    return x, *(p.to(parameter_dtype) if here else None for p, here in zip(parameters, GIVEN[given], strict=True))


def to(device, tensors):
    return [None if t is None else t.to(device) for t in tensors]


def float64(x, weight, bias, groups, eps, scale=None, shift=None, silu=True):
    """The definition, in NumPy."""
    x, weight, bias, scale, shift = (
        None if t is None else t.detach().cpu().double().numpy() for t in (x, weight, bias, scale, shift)
    )
    batch, channels = x.shape[:2]

    def pixelwise(value):
        return value.reshape(*value.shape, *[1] * (x.ndim - 2))

    z = np.empty_like(x)
    size = channels // groups
    for b in range(batch):
        for g in range(groups):
            part = x[b, g * size : (g + 1) * size]
            z[b, g * size : (g + 1) * size] = (part - part.mean()) / np.sqrt(part.var() + eps)
    z = z * (1 if weight is None else pixelwise(weight[None])) + (0 if bias is None else pixelwise(bias[None]))
    z = z * (1 if scale is None else 1 + pixelwise(scale)) + (0 if shift is None else pixelwise(shift))
    return z / (1 + np.exp(-z)) if silu else z


def plain(x, weight, bias, groups, eps, scale=None, shift=None, silu=True):
    """PyTorch's own operations, in float32 (float64) throughout, rounded to x's dtype at the end."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    weight, bias, scale, shift = (None if t is None else t.to(dtype) for t in (weight, bias, scale, shift))
    ones = [1] * (x.ndim - 2)
    if x[:1].numel() > groups:
        z = nnf.group_norm(x.to(dtype), groups, weight, bias, eps)
    else:  # PyTorch refuses one value a group
        z = x.to(dtype) * 0 + (0 if bias is None else bias.reshape(-1, *ones))
    z = z * (1 if scale is None else 1 + scale.reshape(*scale.shape, *ones))
    z = z + (0 if shift is None else shift.reshape(*shift.shape, *ones))
    return (nnf.silu(z) if silu else z).to(x.dtype)


def assert_accurate(found, exact, same, name="y"):
    """Sample by sample, in the maximum norm; the terms that are added up are of order 1."""
    assert tuple(found.shape) == tuple(exact.shape) and found.dtype == same.dtype, name
    places = 8 if found.dtype != torch.float64 else 64  # the exact values, too, are sums in float64
    floor = places * torch.finfo(found.dtype).eps
    rows = (found.detach().cpu().double().numpy(), np.asarray(exact), same.detach().cpu().double().numpy())
    for f, e, s in zip(*rows, strict=True):
        scale = max(np.abs(e).max(), 1)
        assert np.abs(f - e).max() <= 2 * np.abs(s - e).max() + floor * scale, name


def statistics(x, groups):
    """mean and 1 / sqrt(var + eps) [B, groups], float64."""
    grouped = x.double().reshape(len(x), groups, int(np.prod(x.shape[1:])) // groups)
    mean = grouped.mean(2)
    return mean, ((grouped - mean[:, :, None]).square().mean(2) + EPS).rsqrt()
