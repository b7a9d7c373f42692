"""Objectives in the regime where everything is known: Gaussian images, whose optimal denoiser is linear.

Clean x ~ N(0, S), observations y = x + sigma_obs n. At level sigma >= sigma_obs, x_t holds noise of sigma in
all, so that the denoiser of the clean images is S (S + sigma^2)^-1 x_t, and

    E[y | x_t] = (S + sigma_obs^2) (S + sigma^2)^-1 x_t
    Var[y | x_t] = (S + sigma_obs^2) (sigma^2 - sigma_obs^2) (S + sigma^2)^-1
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from rsd_fast import ops
from rsd_fast.config import Objective
from rsd_fast.objectives import create, resolve
from rsd_fast.ops import Key

from . import tiny

S = torch.tensor([0.05, 0.25, 1.0, 2.0], dtype=torch.float64)  # an image: 1 x 2 x 2
SD = 0.5
SAMPLES = 40_000
SEED = 20


def observations(count, sigma_obs, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, n = (torch.randn(count, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    return (x * S.sqrt() + sigma_obs * n).reshape(count, 1, 2, 2)


class Linear:
    """D(x_t, sigma) = (gain(sigma) + c_in(sigma) P) x_t, a matrix P of each sample for gradients."""

    sigma_data, input_options = SD, ops.InputOptions(sigma_data=SD)

    def __init__(self, gain, count, offset=0.0):
        self.gain = gain
        self.P = torch.full((count, 4, 4), offset, dtype=torch.float64, requires_grad=True)
        self.labels = None

    def raw(self, net_input, sigma, labels=None, augment_labels=None, condition=None):
        self.labels = labels
        assert augment_labels is None
        s = sigma.double()[:, None]
        total = s**2 + SD**2
        x_t = net_input.double().flatten(1) * total.sqrt()
        denoised = self.gain(s) * x_t + (self.P @ x_t[:, :, None])[:, :, 0] / total.sqrt()
        F = (denoised - SD**2 / total * x_t) / (s * SD / total.sqrt())
        return F.reshape(net_input.shape)


def clean(s):
    return S / (S + s**2)


def zero(s):
    return 0 * s


def of_observations(sigma_obs):
    """The denoiser that gives E[y | x_t]."""
    return lambda s: (S + sigma_obs**2) / (S + s**2)


def gradients(gain, sigma_obs, count=SAMPLES, offset=0.0, dtype=torch.float64, **options):
    """(per-sample gradients by P [count, 4, 4], losses, sigma)"""
    objective = Objective(name=resolve("auto", sigma_obs), **options)
    denoiser = Linear(gain, count, offset)
    y, sample = observations(count, sigma_obs).to(dtype), torch.arange(count)
    loss, sigma = tiny.loss(objective, denoiser, tiny.observed(y, sigma_obs), seed=SEED, sample=sample, step=0)
    assert loss.shape == sigma.shape == (count,)
    (gradient,) = torch.autograd.grad(loss.sum(), denoiser.P)
    return gradient, loss.detach(), sigma


def scores(values):
    """The mean over the batch in units of its standard error."""
    return (values.mean(0) / (values.std(0) / len(values) ** 0.5)).abs()


DISTRIBUTIONS = pytest.mark.parametrize("distribution", ["truncated", "clamped"])


@DISTRIBUTIONS
@pytest.mark.parametrize("sigma_obs", [0.0, 0.1, 0.4, 1.0])
def test_the_denoiser_of_clean_images_is_stationary(sigma_obs, distribution):
    """16 scores; 4.2 is exceeded by chance once in 2,300 seeds, and the seed is fixed."""
    gradient, *_ = gradients(clean, sigma_obs, sigma_distribution=distribution)
    assert scores(gradient).max() < 4.2


@DISTRIBUTIONS
@pytest.mark.parametrize("sigma_obs", [0.4, 1.0])
def test_the_denoiser_of_the_observations_is_not(sigma_obs, distribution):
    gradient, *_ = gradients(of_observations(sigma_obs), sigma_obs, sigma_distribution=distribution)
    assert scores(gradient).diagonal().min() > 10
    assert (gradient.mean(0).diagonal() > 0).all(), "descent must lower the gain"


@pytest.mark.parametrize("gain", [zero, lambda s: 1.3 * clean(s), lambda s: S / (S + 1.5 * s**2)])
@pytest.mark.parametrize("sigma_obs", [0.0, 0.4])
def test_nor_is_any_other_denoiser(gain, sigma_obs):
    gradient, *_ = gradients(gain, sigma_obs)
    assert scores(gradient).max() > 8


def weight64(sigma):
    return (sigma**2 + SD**2) / (sigma * SD) ** 2


@DISTRIBUTIONS
@pytest.mark.parametrize("sigma_obs", [0.0, 0.2, 0.6])
def test_the_least_loss_is_the_conditional_variance(sigma_obs, distribution):
    """Loss over (mass weight Var[y | x_t]) has mean 1, at every level."""
    _, loss, sigma = gradients(clean, sigma_obs, sigma_distribution=distribution)
    sigma = sigma.double()
    above = sigma > sigma_obs * (1 + 1e-4)
    sigma, loss = sigma[above], loss[above].double()
    mass = 1.0
    if distribution == "truncated" and sigma_obs:
        mass = stats.norm.sf((math.log(sigma_obs) + 1.2) / 1.2)
    s2 = sigma[:, None] ** 2
    variance = ((S + sigma_obs**2) * (s2 - sigma_obs**2) / (S + s2)).sum(1)
    ratio = loss / (mass * weight64(sigma) * variance)
    for part in ratio[sigma.argsort()].chunk(4):
        assert scores(part[:, None] - 1).item() < 4


def test_the_loss_itself_against_float64():
    count, sigma_obs = 50, 0.3
    _, loss, sigma = gradients(zero, sigma_obs, count)
    y, s = observations(count, sigma_obs).numpy(), sigma.double().numpy()[:, None, None, None]
    n = ops.randn(y.shape, SEED, torch.arange(count), 0, ops.Stream.DIFFUSION_NOISE).double().numpy()
    x_t = y + np.sqrt(s**2 - sigma_obs**2) * n
    h = sigma_obs**2 / s**2 * x_t  # D = 0
    mass = stats.norm.sf((math.log(sigma_obs) + 1.2) / 1.2)
    expected = mass * (weight64(s) * (h - y) ** 2).sum((1, 2, 3))
    np.testing.assert_allclose(loss.numpy(), expected, rtol=2e-4)


@pytest.mark.parametrize("sigma_obs", [0.1, 0.4])
def test_truncated_and_clamped_have_the_same_expected_loss_gradient(sigma_obs):
    found = {}
    for distribution in ("truncated", "clamped"):
        gradient, loss, _ = gradients(zero, sigma_obs, offset=0.02, sigma_distribution=distribution)
        found[distribution] = torch.cat([gradient.flatten(1), loss[:, None].double()], 1)
    means = {name: values.mean(0) for name, values in found.items()}
    errors = {name: values.std(0) / SAMPLES**0.5 for name, values in found.items()}
    difference = (means["truncated"] - means["clamped"]).abs()
    assert (difference / (errors["truncated"] ** 2 + errors["clamped"] ** 2).sqrt()).max() < 4
    signal = (means["clamped"] / errors["clamped"]).abs()
    assert signal[[5, 10, 15, 16]].min() > 20, "nothing compared"
    assert errors["truncated"][16] < errors["clamped"][16], "and less noise"


@pytest.mark.parametrize(("sigma_obs", "wasted"), [(0.1, 0.18), (0.2, 0.37), (0.4, 0.59)])
def test_truncated_wastes_no_sample_and_clamped_the_published_share(sigma_obs, wasted):
    for distribution, share in (("truncated", 0.0), ("clamped", wasted)):
        gradient, loss, sigma = gradients(zero, sigma_obs, 20_000, dtype=torch.float32, sigma_distribution=distribution)
        idle = loss == 0
        assert torch.all(gradient[idle] == 0)
        assert idle.double().mean().item() == pytest.approx(share, abs=0.015 if share else 0)
        assert sigma.min() >= torch.tensor(sigma_obs, dtype=torch.float32)


def test_sigma_is_log_normal_of_the_given_mean_and_deviation():
    for options, mean, std in (({}, -1.2, 1.2), ({"p_mean": 0.3, "p_std": 0.5}, 0.3, 0.5)):
        sigma, mass = create(Objective(**options)).draw_sigma(0.0, Key(0, torch.arange(20_000)))
        assert sigma.dtype == mass.dtype == torch.float32 and torch.all(mass == 1)
        assert stats.kstest(sigma.double().log().numpy(), stats.norm(mean, std).cdf).pvalue > 1e-3


def draw(sample, seed=1, step=2, sigma_obs=0.2):
    return create(Objective(name="tweedie")).draw_sigma(sigma_obs, Key(seed, sample, step))[0]


def test_randomness_is_a_function_of_seed_sample_and_step():
    sample = torch.tensor([5, 0, 99, 12345])
    sigma = draw(sample)
    assert torch.equal(draw(sample), sigma)
    torch.manual_seed(5)
    assert torch.equal(draw(sample), sigma)
    for other in (draw(sample, seed=2), draw(sample, step=3), draw(sample + 1)):
        assert (other != sigma).all()


def test_the_loss_does_not_depend_on_the_rest_of_the_batch():
    count, sigma_obs = 12, 0.2
    y, sample = (
        observations(count, sigma_obs).float(),
        torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:count],
    )

    def loss(which, step=4, seed=1):
        return tiny.loss(
            Objective(name="tweedie"),
            Linear(clean, len(which)),
            tiny.observed(y[which], sigma_obs),
            seed=seed,
            sample=sample[which],
            step=step,
        )

    everything = torch.arange(count)
    losses, sigma = loss(everything)
    for which in (everything.flip(0), everything[3:4], everything[::3], torch.tensor([7, 7])):
        part, part_sigma = loss(which)
        assert torch.equal(part_sigma, sigma[which])
        torch.testing.assert_close(part, losses[which], rtol=1e-6, atol=0)
    for other, _ in (loss(everything, step=5), loss(everything, seed=2)):
        assert ((other - losses).abs() > 1e-6 * losses).all()


def test_sigma_and_noise_of_a_sample_are_unrelated():
    count = 20_000
    sample = torch.arange(count)
    sigma = draw(sample, sigma_obs=0.0).double().log()
    n = ops.randn((count, 4), 1, sample, 2, ops.Stream.DIFFUSION_NOISE).double()
    for part in (n, n**2):
        correlation = np.corrcoef(torch.cat([sigma[:, None], part], 1).T.numpy())[0, 1:]
        assert np.abs(correlation).max() * count**0.5 < 4


def test_labels_reach_the_network():
    denoiser, labels = Linear(clean, 3), torch.eye(3)
    observation = tiny.observed(observations(3, 0.0))
    tiny.loss(Objective(), denoiser, observation, labels=(labels,), seed=0, sample=torch.arange(3), step=0)
    assert denoiser.labels is labels


def test_sigma_data_of_the_denoiser_is_used():
    """F = net_input and sigma_data = 1: D = (c_skip + c_out c_in) x_t of that sigma_data, and its weight."""
    options = ops.InputOptions(sigma_data=1.0)
    denoiser = SimpleNamespace(sigma_data=1.0, input_options=options, raw=lambda net_input, *_: net_input)
    y, sample = observations(20, 0.0), torch.arange(20)
    loss, sigma = tiny.loss(Objective(), denoiser, tiny.observed(y), seed=0, sample=sample, step=0)
    s = sigma.double().numpy()[:, None, None, None]
    n = ops.randn(y.shape, 0, sample, 0, ops.Stream.DIFFUSION_NOISE).double().numpy()
    error = (y.numpy() + s * n) * (1 + s) / (s**2 + 1) - y.numpy()
    np.testing.assert_allclose(loss.numpy(), ((s**2 + 1) / s**2 * error**2).sum((1, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "sigma_obs", "expected"),
    [
        ("auto", 0.0, "standard"),
        ("auto", 0.1, "tweedie"),
        ("auto", 1e-6, "tweedie"),
        ("standard", 0.0, "standard"),
        ("tweedie", 0.3, "tweedie"),
    ],
)
def test_resolve(name, sigma_obs, expected):
    assert resolve(name, sigma_obs) == expected


def test_resolve_refuses_standard_on_noisy_observations():
    with pytest.raises(ValueError, match=r"standard.*0\.1.*tweedie"):
        resolve("standard", 0.1)


@pytest.mark.parametrize("sigma_obs", [0.0, 0.1])
def test_resolve_lists_what_is_known(sigma_obs):
    with pytest.raises(ValueError, match=r"'ambiant'.*auto.*standard.*tweedie"):
        resolve("ambiant", sigma_obs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma_distribution": "uniform"}, r"'uniform'.*truncated.*clamped"),
        ({"p_std": 0.0}, "p_std"),
        ({"p_std": -1.0}, "p_std"),
    ],
)
def test_bad_options_raise(options, message):
    with pytest.raises(ValueError, match=message):
        Objective(**options)
