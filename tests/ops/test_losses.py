"""The ops around the network (preconditioning, noise, losses) against float64 NumPy and gradients by hand.

Tolerance: the error against float64 is at most twice that of the same formula in plain float32, plus a few
units in the last place of the result.
"""

import numpy as np
import pytest
import torch

from rsd_fast import ops
from rsd_fast.ops import edm

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


def denoise64(F, x_t, sigma, sigma_data=SD):
    s = columns(sigma, x_t)
    total = s**2 + sigma_data**2
    return sigma_data**2 / total * x_t + s * sigma_data / np.sqrt(total) * F


def denoise_plain(F, x_t, sigma, sigma_data=SD):
    """The same in the precision of x_t, float32 at least."""
    s = sigma.to(x_t.dtype).reshape(-1, *[1] * (x_t.ndim - 1))
    total = s**2 + sigma_data**2
    return sigma_data**2 / total * x_t + s * sigma_data / total.sqrt() * F.to(x_t.dtype)


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


# denoising_loss


def denoising64(F, x_t, y, sigma, sigma_obs=0.0, mask=None):
    """(loss [B], dloss/dF) of  weight ||mask (h - y)||^2,  h = (1 - r) D + r x_t,  by hand."""
    s, o = columns(sigma, y), columns(sigma_obs, y)
    m = np.ones(1) if mask is None else mask.double().numpy()
    r = o**2 / s**2
    weight = (s**2 + SD**2) / (s * SD) ** 2
    error = (1 - r) * denoise64(F, x_t, sigma) + r * x_t - y
    loss = (weight * (m * error) ** 2).reshape(len(y), -1).sum(1)
    c_out = s * SD / np.sqrt(s**2 + SD**2)
    return loss, 2 * weight * (1 - r) * c_out * m**2 * error


def denoising_plain(F, x_t, y, sigma, sigma_obs=0.0, mask=None):
    """The published form, in the precision of x_t."""
    s, o = (torch.as_tensor(v).to(x_t.dtype).reshape(-1, *[1] * (x_t.ndim - 1)) for v in (sigma, sigma_obs))
    r = o**2 / s**2
    error = (1 - r) * denoise_plain(F, x_t, sigma) + r * x_t - y
    if mask is not None:
        error = mask * error
    return ((s**2 + SD**2) / (s * SD) ** 2 * error**2).flatten(1).sum(1)


def image_mask(shape, seed=5):
    """Shared by the channels, as in inpainting."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape[0], 1, *shape[2:], generator=generator) < 0.6).to(torch.float32)


def observations(kind, batch):
    return {"none": 0.0, "number": 0.2, "per-sample": torch.linspace(0.0, 0.29, batch, dtype=torch.float64)}[kind]


@pytest.mark.parametrize("dtype", F_DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sigma_obs", ["none", "number", "per-sample"])
@pytest.mark.parametrize("masked", [False, True])
def test_denoising_loss_matches_float64(dtype, shape, sigma_obs, masked):
    long = torch.float64 if dtype == torch.float64 else torch.float32
    F, x_t, y = rand(shape, 0, dtype).requires_grad_(), rand(shape, 1, long), rand(shape, 2, long)
    sigma, sigma_obs = levels(shape[0]).to(long), observations(sigma_obs, shape[0])
    mask = image_mask(shape).to(long) if masked else None
    if isinstance(sigma_obs, torch.Tensor):
        sigma_obs = sigma_obs.to(long)
    exact, exact_grad = denoising64(*arrays(F, x_t, y), sigma, sigma_obs, mask)
    found, plain = (f(F, x_t, y, sigma, sigma_obs, mask=mask) for f in (ops.denoising_loss, denoising_plain))
    assert_accurate(found, exact, plain)

    upstream = torch.linspace(0.5, 2, shape[0]).to(long)  # differs by sample
    grad, plain_grad = (torch.autograd.grad((upstream * loss).sum(), F)[0] for loss in (found, plain))
    assert_accurate(grad, columns(upstream, y) * exact_grad, plain_grad)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_denoising_loss_of_any_layout(layout):
    shape = (3, 2, 4, 6)
    F, x_t, y, sigma = *(rand(shape, n, torch.float32) for n in range(3)), levels(3)
    expected, gradient = denoising64(*arrays(F, x_t, y), sigma.float(), 0.2)
    F, x_t, y = (laid_out(t, layout) for t in (F, x_t, y))
    F.requires_grad_()
    found = ops.denoising_loss(F, x_t, y, sigma, 0.2)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-5)
    found.sum().backward()  # the upstream gradient has stride 0
    np.testing.assert_allclose(F.grad.numpy(), gradient, rtol=1e-4, atol=1e-4)


def test_denoising_loss_is_mean_free_and_per_sample():
    """Scaling one sample's error scales its own loss alone: summed, not averaged, and not over the batch."""
    shape = (3, 2, 4, 4)
    y, sigma = rand(shape, 0), torch.full((3,), 0.5, dtype=torch.float64)
    x_t, wanted = y + 1, torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    # D = y + wanted, by the F that gives it
    c_skip, c_out = 0.5, 0.5 * 0.5 / np.sqrt(0.5)
    F = (y + wanted[:, None, None, None] - c_skip * x_t) / c_out
    loss = ops.denoising_loss(F, x_t, y, sigma)
    weight = 0.5 / 0.0625
    torch.testing.assert_close(loss, weight * 32 * wanted**2, rtol=1e-12, atol=1e-12)


def test_denoising_loss_gradcheck():
    F, x_t, y = (rand((2, 2, 3, 2), n) for n in range(3))
    mask = image_mask(F.shape).double()
    F.requires_grad_()
    for sigma_obs, m in ((0.0, None), (0.25, None), (0.25, mask)):
        assert torch.autograd.gradcheck(lambda F, o=sigma_obs, m=m: ops.denoising_loss(F, x_t, y, levels(2), o, mask=m), (F,))  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("dtype", F_DTYPES)
@pytest.mark.parametrize("sigma_obs", [0.1, 0.2, 0.4])
def test_at_sigma_obs_loss_and_gradient_are_exactly_zero(dtype, sigma_obs):
    long = torch.float64 if dtype == torch.float64 else torch.float32
    y, F = rand((4, 3, 5, 5), 0, long), rand((4, 3, 5, 5), 1, dtype).requires_grad_()
    sigma = torch.full((4,), sigma_obs, dtype=long)
    x_t, _ = ops.perturb(y, sigma, sigma_obs, 0, torch.arange(4), 0)
    loss = ops.denoising_loss(F, x_t, y, sigma, sigma_obs)
    loss.sum().backward()
    assert torch.all(loss == 0) and torch.all(F.grad == 0)


def test_denoising_loss_just_above_sigma_obs_keeps_its_digits():
    """h - y is there a small difference of large numbers: float32 must still give the float64 answer."""
    shape = (4, 1, 8, 8)
    y, F, sample = rand(shape, 0, torch.float32), rand(shape, 1, torch.float32), torch.arange(4)
    sigma = torch.full((4,), 0.2) * (1 + 1e-3)
    x_t, _ = ops.perturb(y, sigma, 0.2, 0, sample, 0)
    exact, _ = denoising64(*arrays(F, x_t, y), sigma, 0.2)
    found, plain = (f(F, x_t, y, sigma, 0.2) for f in (ops.denoising_loss, denoising_plain))
    assert_accurate(found, exact, plain)
    np.testing.assert_allclose(found.numpy(), exact, rtol=1e-3)


# score_difference_loss


def score64(F_teacher, F_fake, u_t, u, sigma, alpha, mask=None):
    """(loss without w [B], its gradients without w, mean |u - f| [B]), by hand; w is constant.

    In extended precision: the gradients are differences, of which float64 would lose digits that the op keeps.
    """
    F_teacher, F_fake, u_t, u = (x.astype(np.longdouble) for x in (F_teacher, F_fake, u_t, u))
    s = columns(sigma, u)
    m = np.ones(1) if mask is None else mask.double().numpy()
    f, g = denoise64(F_teacher, u_t, sigma), denoise64(F_fake, u_t, sigma)
    d, r = f - g, f - u
    loss = (m * d * (m * r - alpha * m * d)).reshape(len(u), -1).sum(1)
    df, dg, du = m**2 * (r + d - 2 * alpha * d), m**2 * (2 * alpha * d - r), -(m**2) * d
    c_out, c_skip = s * SD / np.sqrt(s**2 + SD**2), SD**2 / (s**2 + SD**2)
    gradients = c_out * df, c_out * dg, c_skip * (df + dg), du
    results = loss, *gradients, np.abs(u - f).reshape(len(u), -1).mean(1)
    loss, *gradients, mean_error = (x.astype(np.float64) for x in results)
    return loss, gradients, mean_error


def score_plain(F_teacher, F_fake, u_t, u, sigma, alpha):
    f, g = denoise_plain(F_teacher, u_t, sigma), denoise_plain(F_fake, u_t, sigma)
    w = 1 / (u - f).detach().flatten(1).abs().mean(1).clamp_min(1e-5)
    return w * ((f - g) * ((f - u) - alpha * (f - g))).flatten(1).sum(1)


def score_inputs(shape, dtype, long):
    return [
        rand(shape, 0, dtype).requires_grad_(),
        rand(shape, 1, dtype).requires_grad_(),
        rand(shape, 2, long).requires_grad_(),
        rand(shape, 3, long).requires_grad_(),
    ]


@pytest.mark.parametrize("dtype", F_DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.2])
def test_score_difference_loss_matches_float64(dtype, shape, alpha):
    long = torch.float64 if dtype == torch.float64 else torch.float32
    leaves, sigma = score_inputs(shape, dtype, long), levels(shape[0], 0.01).to(long)
    loss, gradients, mean_error = score64(*arrays(*leaves), sigma, alpha)
    w = 1 / np.maximum(mean_error, 1e-5)
    found, plain = (f(*leaves, sigma, alpha) for f in (ops.score_difference_loss, score_plain))
    f, g = (denoise64(*arrays(F, leaves[2]), sigma) for F in leaves[:2])
    summands = np.abs((f - g) * ((f - arrays(leaves[3])[0]) - alpha * (f - g))).reshape(shape[0], -1).sum(1)
    assert_accurate(found, w * loss, plain, w * summands)

    upstream = torch.linspace(0.5, 2, shape[0]).to(long)
    grads, plain_grads = (torch.autograd.grad((upstream * value).sum(), leaves) for value in (found, plain))
    for grad, expected, same in zip(grads, gradients, plain_grads, strict=True):
        assert_accurate(grad, columns(upstream, same) * columns(torch.from_numpy(w), same) * expected, same)


def test_score_difference_loss_defaults_to_the_published_alpha():
    leaves, sigma = score_inputs((2, 3, 4, 4), torch.float64, torch.float64), levels(2)
    assert torch.equal(ops.score_difference_loss(*leaves, sigma), ops.score_difference_loss(*leaves, sigma, 1.2))
    loss, _, mean_error = score64(*arrays(*leaves), sigma, 1.2)
    np.testing.assert_allclose(
        ops.score_difference_loss(*leaves, sigma).detach().numpy(), loss / mean_error, rtol=1e-12
    )


def small_difference(shape, size):
    """Inputs where mean |u - f| is about `size`."""
    F_teacher, F_fake, u_t, _ = (leaf.detach() for leaf in score_inputs(shape, torch.float64, torch.float64))
    sigma = levels(shape[0])
    f = torch.from_numpy(denoise64(*arrays(F_teacher, u_t), sigma))
    return F_teacher, F_fake, u_t, f + size * rand(shape, 9), sigma


def test_the_weight_is_at_most_1e5():
    *leaves, sigma = small_difference((2, 2, 3, 2), 1e-7)
    loss, _, mean_error = score64(*arrays(*leaves), sigma, 1.2)
    assert mean_error.max() < 1e-6
    np.testing.assert_allclose(ops.score_difference_loss(*leaves, sigma).numpy(), 1e5 * loss, rtol=1e-9)
    *leaves, sigma = small_difference((2, 2, 3, 2), 1e-4)
    loss, _, mean_error = score64(*arrays(*leaves), sigma, 1.2)
    np.testing.assert_allclose(ops.score_difference_loss(*leaves, sigma).numpy(), loss / mean_error, rtol=1e-8)


def test_score_difference_loss_gradcheck_where_the_weight_is_constant():
    *leaves, sigma = small_difference((2, 2, 3, 2), 1e-7)
    for mask in (None, torch.ones(2, 1, 3, 2, dtype=torch.float64)):
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        assert torch.autograd.gradcheck(
            lambda *a, mask=mask: 1e-5 * ops.score_difference_loss(*a, sigma, mask=mask),
            leaves,
            eps=1e-7,
            atol=1e-6,
        )


@pytest.mark.parametrize("dtype", F_DTYPES)
def test_score_difference_loss_multiplies_every_term_by_the_mask(dtype):
    """Loss and all four gradients are w times the masked sums, whatever pixels w is averaged over."""
    shape = (3, 2, 5, 4)
    long = torch.float64 if dtype == torch.float64 else torch.float32
    leaves, sigma, mask = score_inputs(shape, dtype, long), levels(3).to(long), image_mask(shape).to(long)
    loss, gradients, _ = score64(*arrays(*leaves), sigma, 1.2, mask)
    found = ops.score_difference_loss(*leaves, sigma, mask=mask)
    w = found.detach().double().numpy() / loss
    observed = np.broadcast_to(mask.numpy(), shape)
    error = np.abs(arrays(leaves[3])[0] - denoise64(*arrays(leaves[0], leaves[2]), sigma)) * observed
    total = error.reshape(3, -1).sum(1)
    count = observed.reshape(3, -1).sum(1)
    assert np.all(w >= count / total * (1 - 1e-4)) and np.all(w <= error[0].size / total * (1 + 1e-4))
    tolerance = 8 * torch.finfo(dtype).eps
    for leaf, grad, expected in zip(leaves, torch.autograd.grad(found.sum(), leaves), gradients, strict=True):
        expected = columns(torch.from_numpy(w), leaf) * expected
        assert grad.dtype == leaf.dtype
        np.testing.assert_allclose(
            grad.double().numpy(),
            expected,
            rtol=max(tolerance, 1e-5),
            atol=max(tolerance, 1e-5) * np.abs(expected).max(),
        )


def test_unobserved_pixels_do_not_matter():
    shape = (3, 2, 5, 4)
    leaves, sigma, mask = (
        score_inputs(shape, torch.float64, torch.float64),
        levels(3),
        image_mask(shape).double(),
    )
    leaves = [leaf.detach() for leaf in leaves]
    other = [torch.where(mask.bool(), leaf, rand(shape, 20 + n)) for n, leaf in enumerate(leaves)]
    for function, arguments in (
        (ops.score_difference_loss, slice(0, 4)),
        (ops.denoising_loss, slice(0, 3)),
    ):
        first = function(*leaves[arguments], sigma, mask=mask)
        assert torch.equal(first, function(*other[arguments], sigma, mask=mask))
        assert not torch.equal(first, function(*other[arguments], sigma))
        everything = torch.ones_like(mask)
        torch.testing.assert_close(
            function(*leaves[arguments], sigma, mask=everything),
            function(*leaves[arguments], sigma),
            rtol=1e-12,
            atol=0,
        )


def test_nothing_observed_gives_zero_and_no_nan():
    leaves = score_inputs((2, 1, 3, 3), torch.float32, torch.float32)
    loss = ops.score_difference_loss(*leaves, levels(2), mask=torch.zeros(2, 1, 3, 3))
    grads = torch.autograd.grad(loss.sum(), leaves)
    assert torch.all(loss == 0) and all(torch.all(grad == 0) for grad in grads)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_score_difference_loss_of_any_layout(layout):
    shape, sigma = (3, 2, 4, 6), levels(3)
    leaves = [leaf.detach() for leaf in score_inputs(shape, torch.float32, torch.float32)]
    loss, gradients, mean_error = score64(*arrays(*leaves), sigma.float(), 1.2)
    leaves = [laid_out(leaf, layout).requires_grad_() for leaf in leaves]
    found = ops.score_difference_loss(*leaves, sigma)
    scale = np.abs(loss / mean_error).max()
    np.testing.assert_allclose(found.detach().numpy(), loss / mean_error, rtol=1e-5, atol=1e-5 * scale)
    for grad, expected in zip(torch.autograd.grad(found.sum(), leaves), gradients, strict=True):
        expected = expected / columns(torch.from_numpy(mean_error), expected)
        np.testing.assert_allclose(grad.numpy(), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_equal_scores_give_no_loss():
    """f = g is the goal: loss 0, and only the difference of the two pulls."""
    F, _, u_t, u = (leaf.detach() for leaf in score_inputs((2, 1, 3, 3), torch.float64, torch.float64))
    u.requires_grad_()
    loss = ops.score_difference_loss(F, F.clone(), u_t, u, levels(2))
    loss.sum().backward()
    assert torch.all(loss == 0) and torch.all(u.grad == 0)


# Errors.

GOOD = {name: torch.zeros(2, 3, 4, 4) for name in ("F", "F_teacher", "F_fake", "x_t", "u_t", "u", "y")}
CALLS = {
    ops.denoise: ("F", "x_t", "sigma"),
    ops.denoising_loss: ("F", "x_t", "y", "sigma", "sigma_obs", "mask"),
    ops.score_difference_loss: ("F_teacher", "F_fake", "u_t", "u", "sigma", "mask"),
    ops.perturb: ("y", "sigma", "sigma_obs"),
}
WRONG_IMAGES = [(function, name) for function, names in CALLS.items() for name in names if name in GOOD]


def call(function, **changes):
    arguments = {name: GOOD[name] for name in CALLS[function] if name in GOOD} | {"sigma": torch.ones(2)} | changes
    if function is ops.perturb:
        arguments = {"sigma_obs": 0.0, "seed": 0, "sample": torch.arange(2), "step": 0} | arguments
    return function(**arguments)


@pytest.mark.parametrize("function", CALLS, ids=lambda f: f.__name__)
def test_the_arguments_of_the_error_tests_are_right_otherwise(function):
    call(function)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 1, 4, 4), (1, 3, 4, 4), (2, 3, 4, 4, 1)], ids=str)
@pytest.mark.parametrize(
    ("function", "name"),
    [pair for pair in WRONG_IMAGES if pair[0] is not ops.perturb],
    ids=lambda v: getattr(v, "__name__", v),
)
def test_an_image_of_another_shape_raises(function, name, shape):
    with pytest.raises(ValueError, match=rf"expected.*\b{name}\b|\b{name}: expected"):
        call(function, **{name: torch.zeros(shape)})


@pytest.mark.parametrize("shape", [(3,), (2, 1), (2, 1, 1, 1), (1,)], ids=str)
@pytest.mark.parametrize(
    ("function", "name"),
    [(function, name) for function, names in CALLS.items() for name in names if name.startswith("sigma")],
    ids=lambda v: getattr(v, "__name__", v),
)
def test_a_noise_level_of_another_shape_raises(function, name, shape):
    with pytest.raises(ValueError, match=rf"{name}: expected"):
        call(function, **{name: torch.ones(shape)})


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 1, 4, 4), (5, 2, 3, 4, 4)], ids=str)
@pytest.mark.parametrize("function", [ops.denoising_loss, ops.score_difference_loss], ids=lambda f: f.__name__)
def test_a_mask_that_does_not_broadcast_raises(function, shape):
    with pytest.raises(ValueError, match="mask"):
        call(function, mask=torch.ones(shape))


def test_perturb_refuses_a_sample_that_is_not_one_id_an_image():
    with pytest.raises(ValueError, match=r"sample|shape"):
        call(ops.perturb, sample=torch.arange(3))
    with pytest.raises(TypeError, match="sample"):
        call(ops.perturb, sample=torch.zeros(2))
