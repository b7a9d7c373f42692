"""Inputs of the tests of Triton's kernels, in every layout and dtype, and what their results are compared by."""

import math

import torch

from rsd_fast.ops import edm

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SD, ALPHA, SEED, NOISE_SEED = 0.7, 1.2, 2**63 - 9, -5
HALF, SHORT, LONG = torch.float16, torch.bfloat16, torch.float64
CASES = [  # shape, dtype of a network's raw output, of the images beside it, layout of the first argument
    ((2, 3, 4, 4), torch.float32, torch.float32, "contiguous"),
    ((2, 3, 5, 7), SHORT, torch.float32, "channels-last"),
    ((3, 2, 7, 3), HALF, torch.float32, "sliced"),
    ((2, 2, 3, 5), LONG, LONG, "channels-last"),
    ((1, 1, 1, 1), LONG, LONG, "contiguous"),
    ((0, 3, 4, 4), torch.float32, torch.float32, "channels-last"),
    ((2, 7), SHORT, torch.float32, "expanded"),
    ((3, 2, 17), torch.float32, torch.float32, "sliced"),
    ((2, 3, 2, 31), LONG, torch.float32, "expanded"),
    ((1, 2, 33, 2), SHORT, LONG, "contiguous"),
]
MASKED = [  # mask, its dtype, shape and layout of the images
    ("pixels", torch.bool, (2, 3, 5, 7), "channels-last"),
    ("pixels", torch.uint8, (2, 3, 4, 4), "contiguous"),
    ("each", torch.float32, (2, 3, 5, 7), "channels-last"),
    ("each", LONG, (3, 2, 5), "contiguous"),
    ("channels", SHORT, (2, 3, 3, 2), "channels-last"),
    ("columns", torch.bool, (2, 3, 2, 5), "contiguous"),
    ("columns", torch.float32, (2, 7), "contiguous"),
    ("sliced", torch.uint8, (2, 3, 4, 3), "channels-last"),
    ("number", torch.float32, (1, 2, 1, 3), "contiguous"),
]


def rand(shape, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(DEVICE)


def laid_out(x, layout):
    """The same values in another layout; expanded: one value of each sample everywhere."""
    if layout == "channels-last" and x.ndim == 4:
        return x.to(memory_format=torch.channels_last)
    if layout == "sliced":
        wide = x.new_full((*x.shape[:-1], 2 * x.shape[-1] + 1), torch.nan)
        wide[..., 1::2] = x
        return wide[..., 1::2]
    if layout == "expanded":
        return x[..., :1].expand(x.shape)
    return x


def sigmas(batch, dtype, lowest=0.3):
    return torch.logspace(math.log10(lowest), 1, batch, dtype=torch.float64).to(dtype).to(DEVICE)


def columns(value, x):
    return value.reshape(-1, *[1] * (x.ndim - 1))


def root(value):
    """torch's float32 root is off by one place on some CPUs."""
    return value.double().sqrt().to(value.dtype)


def coefficients(sigma, x):
    """c_skip, c_out, c_in and the weight, each of their operations rounded in sigma's dtype."""
    sigma = columns(sigma, x)
    variance, product = sigma * sigma + SD**2, sigma * SD
    # of two tensors: torch divides a number by a tensor in two roundings
    return (
        torch.full_like(variance, SD**2) / variance,
        product / root(variance),
        1 / root(variance),
        variance / (product * product),
    )


def image_mask(kind, shape, dtype=torch.uint8):
    """Values 0 and 1 or, for floating-point masks, 0 to 1."""
    sizes = {
        "pixels": (shape[0], 1, *shape[2:]),
        "each": shape,
        "channels": (1, shape[1], *[1] * (len(shape) - 2)),
        "columns": (shape[-1],),
        "sliced": (*shape[:-1], 2 * shape[-1]),
        "number": (),
    }
    if kind == "none":
        return None
    generator = torch.Generator().manual_seed(3)
    values = torch.rand(sizes[kind], generator=generator)
    mask = (values if dtype.is_floating_point else values < 0.6).to(dtype).to(DEVICE)
    return mask[..., ::2] if kind == "sliced" else mask


def assert_same(found, expected, **options):
    """The same bits, and the same dtype, shape and strides of a dense tensor."""
    torch.testing.assert_close(found, expected, rtol=0, atol=0, check_stride=found.numel() > 0, **options)


def assert_accurate(found, exact, plain):
    """Sample by sample: error against float64 at most twice that of the same precision in PyTorch, plus 8 places."""
    assert found.shape == exact.shape and found.dtype == plain.dtype
    for one, wanted, same in zip(found.double(), exact, plain.double(), strict=True):
        if wanted.numel():
            floor = 8 * torch.finfo(found.dtype).eps * wanted.abs().max()
            assert (one - wanted).abs().max() <= 2 * (same - wanted).abs().max() + floor


def assert_layout(found, channels_last):
    assert found.is_contiguous(memory_format=edm.memory_format(channels_last))
