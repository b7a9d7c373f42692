"""The losses, and what the ops around the network refuse, against float64 NumPy and gradients by hand.

Tolerance: the error against float64 is at most twice that of the same formula in plain float32, plus a few
units in the last place of the result.
"""

import numpy as np
import pytest
import torch

from rsd_fast import ops

from .exact import (
    F_DTYPES,
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
