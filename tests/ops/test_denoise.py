"""Preconditioning, denoise and perturb against their formulas in float64, in every dtype and layout."""

import numpy as np
import pytest
import torch

from rsd_fast import ops
from rsd_fast.ops import edm

from .exact import (
    F_DTYPES,
    FLOAT64,
    LAYOUTS,
    SD,
    SHAPES,
    arrays,
    assert_accurate,
    columns,
    denoise64,
    denoise_plain,
    laid_out,
    levels,
    rand,
)

# Preconditioning.

SIGMAS = torch.logspace(-3, 3, 61, dtype=torch.float64)


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_preconditioning_follows_the_table(sigma_data, dtype):
    sigma = SIGMAS.to(dtype)
    s, sd = sigma.double().numpy(), sigma_data
    expected = {
        edm.c_skip: sd**2 / (s**2 + sd**2),
        edm.c_out: s * sd / np.sqrt(s**2 + sd**2),
        edm.c_in: 1 / np.sqrt(s**2 + sd**2),
        edm.loss_weight: (s**2 + sd**2) / (s * sd) ** 2,
    }
    tolerance = 4 * torch.finfo(dtype).eps
    for function, values in expected.items():
        found = function(sigma, sigma_data)
        assert found.dtype == dtype
        np.testing.assert_allclose(found.double().numpy(), values, rtol=tolerance)
    np.testing.assert_allclose(edm.c_noise(sigma).double().numpy(), np.log(s) / 4, rtol=tolerance, atol=1e-9)
    assert edm.c_noise(sigma).dtype == dtype


def test_preconditioning_meets_what_it_was_derived_for():
    """Unit variance in, unit variance of F's target, unit weight on its error (Karras et al., B.6)."""
    s, sd = SIGMAS, 0.5
    variance_in = edm.c_in(s, sd) ** 2 * (s**2 + sd**2)
    skip = edm.c_skip(s, sd)
    target_variance = ((1 - skip) ** 2 * sd**2 + skip**2 * s**2) / edm.c_out(s, sd) ** 2
    weight = edm.loss_weight(s, sd) * edm.c_out(s, sd) ** 2
    for value in (variance_in, target_variance, weight):
        torch.testing.assert_close(value, torch.ones_like(s), rtol=1e-12, atol=0)


# denoise


@pytest.mark.parametrize("dtype", F_DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_denoise_matches_float64(dtype, shape, layout):
    x_t = laid_out(rand(shape, 0, torch.float64 if dtype == torch.float64 else torch.float32), layout)
    F, sigma = laid_out(rand(shape, 1, dtype), layout), levels(shape[0])
    exact = denoise64(*arrays(F, x_t), sigma.to(x_t.dtype), sigma_data=0.7)
    assert_accurate(ops.denoise(F, x_t, sigma, 0.7), exact, denoise_plain(F, x_t, sigma, 0.7))


def test_denoise_takes_a_number_and_sigma_data_is_one_half_by_default():
    F, x_t = rand((2, 3, 4, 4), 0), rand((2, 3, 4, 4), 1)
    found = ops.denoise(F, x_t, 0.3)
    np.testing.assert_allclose(found.numpy(), denoise64(*arrays(F, x_t), 0.3), rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_denoise_of_a_short_image_is_float32(dtype):
    F, x_t, sigma = rand((2, 3, 4, 4), 0, dtype), rand((2, 3, 4, 4), 1, dtype), levels(2)
    found = ops.denoise(F, x_t, sigma)
    assert found.dtype == torch.float32
    exact = denoise64(*arrays(F, x_t), sigma)
    np.testing.assert_allclose(found.numpy(), exact, rtol=1e-5, atol=1e-6)


def test_denoise_gradients():
    F, x_t = (rand((2, 1, 3, 2), seed).requires_grad_() for seed in (0, 1))
    sigma = levels(2)
    assert torch.autograd.gradcheck(lambda F, x_t: ops.denoise(F, x_t, sigma), (F, x_t))
    (ops.denoise(F, x_t, sigma)).sum().backward()
    s = columns(sigma, F) * np.ones(F.shape)
    np.testing.assert_allclose(F.grad.numpy(), s * SD / np.sqrt(s**2 + SD**2), rtol=1e-12)
    np.testing.assert_allclose(x_t.grad.numpy(), SD**2 / (s**2 + SD**2), rtol=1e-12)


# perturb


def sample_ids(batch):
    return torch.arange(batch) * 7 + 3


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("per_sample", [False, True])
def test_perturb_adds_what_noise_is_missing(shape, dtype, per_sample):
    y, sigma, sample = rand(shape, 0, dtype), levels(shape[0]), sample_ids(shape[0])
    sigma_obs = torch.linspace(0, 0.2, shape[0], dtype=torch.float64) if per_sample else 0.2
    x_t, net_input = ops.perturb(y, sigma, sigma_obs, 11, sample, 5, ops.InputOptions(sigma_data=0.6))
    n = ops.randn(shape, 11, sample, 5, ops.Stream.DIFFUSION_NOISE).double().numpy()
    s, o = columns(sigma, y), columns(sigma_obs, y)
    added = np.sqrt(s**2 - o**2) * n
    assert x_t.dtype == dtype
    tolerance = 8 * torch.finfo(dtype).eps
    expected = y.double().numpy() + added
    np.testing.assert_allclose(x_t.double().numpy(), expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())
    assert net_input.dtype == torch.float32
    expected = expected / np.sqrt(s**2 + 0.6**2)
    np.testing.assert_allclose(net_input.double().numpy(), expected, rtol=1e-6, atol=1e-6)


def test_perturb_at_sigma_obs_returns_the_observation():
    y, sigma = rand((3, 2, 4, 4), 0, torch.float32), torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)
    x_t, _ = ops.perturb(y, sigma.float(), sigma, 0, torch.arange(3), 0)
    assert torch.equal(x_t, y)
    assert torch.equal(ops.perturb(y, torch.full((3,), 0.2), 0.2, 0, torch.arange(3), 0)[0], y)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_perturb_gives_the_network_its_dtype(dtype):
    y, sample = rand((2, 3, 4, 4), 0, torch.float32), torch.arange(2)
    x_t, net_input = ops.perturb(y, levels(2), 0.1, 0, sample, 0, ops.InputOptions(dtype=dtype))
    assert x_t.dtype == torch.float32 and net_input.dtype == dtype
    expected = x_t.double().numpy() / np.sqrt(columns(levels(2), y) ** 2 + SD**2)
    np.testing.assert_allclose(net_input.double().numpy(), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_perturb_is_differentiable_in_y():
    y, sigma = rand((2, 1, 3, 2), 0).requires_grad_(), levels(2)
    assert torch.autograd.gradcheck(lambda y: ops.perturb(y, sigma, 0.1, 3, torch.arange(2), 0, FLOAT64), (y,))
    x_t, net_input = ops.perturb(y, sigma, 0.1, 3, torch.arange(2), 0, FLOAT64)
    (grad,) = torch.autograd.grad(x_t.sum(), y)
    assert torch.equal(grad, torch.ones_like(y))
    _, net_input = ops.perturb(y, sigma, 0.1, 3, torch.arange(2), 0, FLOAT64)
    (grad,) = torch.autograd.grad(net_input.sum(), y)
    np.testing.assert_allclose(grad.numpy(), 1 / np.sqrt(columns(sigma, y) ** 2 + SD**2) * np.ones(y.shape))


def test_noise_of_perturb_is_a_function_of_seed_sample_and_step():
    y, sigma, sample = rand((4, 1, 5, 5), 0, torch.float32), levels(4), sample_ids(4)

    def x_t(seed=0, sample=sample, step=0):
        return ops.perturb(y, sigma, 0.1, seed, sample, step)[0]

    assert torch.equal(x_t(), x_t())
    for other in (x_t(seed=1), x_t(sample=sample + 1), x_t(step=1)):
        assert (other - x_t()).abs().min() > 0
    alone, _ = ops.perturb(y[2:3], sigma[2:3], 0.1, 0, sample[2:3], 0)
    assert torch.equal(alone, x_t()[2:3])
    steps = x_t(step=torch.tensor([0, 9, 0, 9]))
    assert torch.equal(steps[::2], x_t()[::2]) and torch.equal(steps[1::2], x_t(step=9)[1::2])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_perturb_of_any_layout_is_the_same(layout):
    y, sigma, sample = rand((3, 2, 4, 6), 0, torch.float32), levels(3), sample_ids(3)
    for found, expected in zip(
        ops.perturb(laid_out(y, layout), sigma, 0.1, 0, sample, 0),
        ops.perturb(y, sigma, 0.1, 0, sample, 0),
        strict=True,
    ):
        assert torch.equal(found, expected)
