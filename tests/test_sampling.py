"""Heun's sampler against exact solutions of the probability-flow equation, noise-level laws against SciPy.

For data x ~ N(0, S) the denoiser is D(x, sigma) = S (S + sigma^2)^-1 x, and dx/dsigma = (x - D) / sigma
carries x along  x(sigma) = (S + sigma^2)^(1/2) (S + sigma_max^2)^(-1/2) x(sigma_max).
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from rsd_fast import sampling, schedules

P_MEAN, P_STD = -1.2, 1.2
SIGMA_OBS = [0.1, 0.2, 0.4]


def karras_float64(n, sigma_min, sigma_max, rho):
    top, bottom = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return [(top + i / max(n - 1, 1) * (bottom - top)) ** rho for i in range(n)] + [0.0]


class GaussianDenoiser:
    """D of N(0, S) over the flattened image; remembers what it was asked."""

    def __init__(self, covariance):
        values, self.vectors = np.linalg.eigh(covariance)
        self.values = torch.from_numpy(values)
        self.vectors = torch.from_numpy(self.vectors)
        self.asked = []

    def along(self, x, factor):
        """x with its coefficient along eigenvector i times factor[i] ([B, D] or [D])."""
        return ((x.flatten(1).double() @ self.vectors * factor) @ self.vectors.T).reshape(x.shape)

    def __call__(self, x, sigma, *labels):
        assert sigma.shape == (len(x),)
        self.asked.append((x.clone(), sigma.clone(), labels))
        variance = sigma.double()[:, None] ** 2
        return self.along(x, self.values / (self.values + variance)).to(x.dtype)

    def flow(self, latents, sigma_max, sigma):
        """x(sigma) from x(sigma_max) = sigma_max latents."""
        return self.along(latents * sigma_max, ((self.values + sigma**2) / (self.values + sigma_max**2)).sqrt())

    def levels(self):
        return [level[0].item() for _, level, _ in self.asked]


def isotropic(size, deviation=0.7):
    return deviation**2 * np.eye(size)


def anisotropic(size, seed=0):
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]
    return (rotation * np.geomspace(0.01, 4.0, size)) @ rotation.T


def latents(dtype=torch.float64, seed=0):
    return torch.randn(3, 2, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


COVARIANCE = pytest.mark.parametrize("covariance", [isotropic(12), anisotropic(12)], ids=["isotropic", "anisotropic"])


@pytest.mark.parametrize(
    ("n", "sigma_min", "sigma_max", "rho"),
    [
        (18, 0.002, 80.0, 7.0),
        (40, 0.002, 80.0, 7.0),
        (5, 0.1, 3.0, 1.0),
        (2, 0.01, 1.0, 3.0),
        (1, 0.1, 3.0, 7.0),
    ],
)
def test_karras_grid_follows_the_formula(n, sigma_min, sigma_max, rho):
    grid = schedules.karras(n, sigma_min, sigma_max, rho)
    assert grid.dtype == torch.float64 and grid.shape == (n + 1,)
    np.testing.assert_allclose(grid.numpy(), karras_float64(n, sigma_min, sigma_max, rho), rtol=1e-12)
    assert grid[-1] == 0
    assert grid[0].item() == pytest.approx(sigma_max, rel=1e-12)
    if n > 1:
        assert grid[-2].item() == pytest.approx(sigma_min, rel=1e-12)


def test_karras_defaults_are_the_published_ones():
    np.testing.assert_allclose(schedules.karras(18).numpy(), karras_float64(18, 0.002, 80.0, 7.0), rtol=1e-12)


@pytest.mark.parametrize(
    "arguments",
    [(0,), (-1,), (5, 0.0), (5, -0.1), (5, 2.0, 1.0), (5, 0.1, 1.0, 0.0), (5, 0.1, math.inf), (5, math.nan)],
    ids=str,
)
def test_karras_refuses_what_is_no_grid(arguments):
    with pytest.raises(ValueError, match=r"n: |sigma_min|rho"):
        schedules.karras(*arguments)


def test_the_generators_levels_of_distillation():
    """sigma at 1 - t for t up to tmax / 1000 = 0.8: [.002, 24.4] with median .97, as published."""
    t = torch.tensor([0.0, 0.4, 0.8], dtype=torch.float64)
    sigma = schedules.power_interpolation(1 - t, 0.002, 80.0, 7.0)
    np.testing.assert_allclose(sigma.numpy(), [0.002, 0.97, 24.4], rtol=5e-3)


@COVARIANCE
def test_heun_is_of_second_order_down_to_sigma_min(covariance):
    """Truncated at sigma_min the Euler step to 0 is not made, and D there is exact in x."""
    den, z = GaussianDenoiser(covariance), latents()
    sigma_min, sigma_max = 0.05, 10.0
    exact = den.flow(z, sigma_max, sigma_min)
    exact = den.along(exact, den.values / (den.values + sigma_min**2))
    errors = []
    for steps in (65, 129, 257, 513):
        found = sampling.heun(den, z, steps, sigma_min, sigma_max, stop_at=sigma_min * (1 + 1e-9))
        errors.append((found - exact).norm().item())
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    assert errors[-1] > 1e-9, "nothing left to measure"
    assert np.all((slopes > 1.8) & (slopes < 2.3)), slopes


@COVARIANCE
def test_heun_reaches_the_exact_solution_at_0(covariance):
    den, z = GaussianDenoiser(covariance), latents()
    errors = []
    for steps in (100, 200, 400):
        found = sampling.heun(den, z, steps, sigma_min=1e-5, sigma_max=20.0)
        errors.append((found - den.flow(z, 20.0, 0.0)).norm().item())
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.all((slopes > 1.8) & (slopes < 2.3)), slopes
    assert errors[-1] < 1e-3 * z.norm().item()


def heun_float64(den, z, grid):
    """Algorithm 1 of Karras et al. without churn."""
    x = z * grid[0]
    for now, following in pairwise(grid):
        d = (x - den(x, torch.full((len(x),), now, dtype=torch.float64))) / now
        ahead = x + (following - now) * d
        if following > 0:
            d_ahead = (ahead - den(ahead, torch.full((len(x),), following, dtype=torch.float64))) / following
            ahead = x + (following - now) * (d + d_ahead) / 2
        x = ahead
    return x


@pytest.mark.parametrize("steps", [1, 2, 5, 18])
def test_few_steps_follow_the_algorithm(steps):
    den, z = GaussianDenoiser(anisotropic(12)), latents()
    expected = heun_float64(den, z, karras_float64(steps, 0.002, 80.0, 7.0))
    torch.testing.assert_close(sampling.heun(den, z, steps), expected, rtol=1e-10, atol=1e-12)


def test_the_default_costs_18_steps():
    den = GaussianDenoiser(isotropic(12))
    sampling.heun(den, latents())
    assert len(den.asked) == 35


@pytest.mark.parametrize("steps", [1, 2, 7, 18])
def test_evaluations_are_twice_the_steps_less_one(steps):
    den = GaussianDenoiser(isotropic(12))
    sampling.heun(den, latents(), steps)
    assert len(den.asked) == 2 * steps - 1
    grid = karras_float64(steps, 0.002, 80.0, 7.0)
    expected = [grid[0], *(level for sigma in grid[1:-1] for level in (sigma, sigma))]
    np.testing.assert_allclose(den.levels(), expected, rtol=1e-12)


GRID = karras_float64(18, 0.002, 80.0, 7.0)


@pytest.mark.parametrize(
    ("stop_at", "index"),
    [
        (0.1, None),
        (0.4, None),
        (GRID[9], 9),
        (GRID[9] * (1 + 1e-9), 9),
        (GRID[9] * (1 - 1e-9), 10),
        (100.0, 0),
        (0.002001, 17),
    ],
)
def test_stop_at_returns_d_at_the_first_grid_point_at_or_below(stop_at, index):
    if index is None:
        index = next(i for i, sigma in enumerate(GRID) if sigma <= stop_at)
    elif stop_at == GRID[9]:
        stop_at = schedules.karras(18)[9].item()  # the very number
    den, z = GaussianDenoiser(anisotropic(12)), latents()
    found = sampling.heun(den, z, 18, stop_at=stop_at)
    x, level, _ = den.asked[-1]
    assert level[0].item() == pytest.approx(GRID[index], rel=1e-12)
    assert len(den.asked) == 2 * index + 1
    assert torch.equal(found, den(x, level))
    reached = heun_float64(den, z, GRID[: index + 1]) if index else z * GRID[0]
    torch.testing.assert_close(x, reached, rtol=1e-10, atol=1e-12)


def test_stop_at_below_the_grid_changes_nothing():
    den, z = GaussianDenoiser(anisotropic(12)), latents()
    assert torch.equal(sampling.heun(den, z, 9, stop_at=0.001), sampling.heun(den, z, 9))
    assert torch.equal(sampling.heun(den, z, 9, stop_at=0.0), sampling.heun(den, z, 9))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("stop_at", [None, 0.2])
def test_the_latents_dtype_comes_back(dtype, stop_at):
    den = GaussianDenoiser(anisotropic(12))
    found = sampling.heun(den, latents(dtype), 6, stop_at=stop_at)
    assert found.dtype == dtype
    assert all(x.dtype == level.dtype == dtype for x, level, _ in den.asked)
    exact = sampling.heun(den, latents(), 6, stop_at=stop_at)
    tolerance = 1e-5 if dtype == torch.float32 else 0
    torch.testing.assert_close(found.double(), exact, rtol=tolerance, atol=tolerance)


@COVARIANCE
def test_the_trajectory_is_what_heun_goes_through(covariance):
    den, z = GaussianDenoiser(covariance), latents()
    states = list(sampling.heun_trajectory(den, z, 7, 0.01, 10.0, 5.0))
    assert len(den.asked) == 2 * 7 - 1
    grid = karras_float64(7, 0.01, 10.0, 5.0)
    np.testing.assert_allclose([sigma for sigma, *_ in states], grid, rtol=1e-12)
    for i, (sigma, x, denoised) in enumerate(states[:-1]):
        torch.testing.assert_close(x, heun_float64(den, z, grid[: i + 1]), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(denoised, den(x, torch.full((3,), sigma)), rtol=1e-6, atol=1e-8)
        assert torch.equal(sampling.heun(den, z, 7, 0.01, 10.0, 5.0, stop_at=sigma), denoised)
    assert states[-1][0] == 0 and torch.equal(states[-1][1], states[-1][2])
    assert torch.equal(states[-1][1], sampling.heun(den, z, 7, 0.01, 10.0, 5.0))


def test_sampling_leaves_the_latents_and_builds_no_graph():
    z = latents().requires_grad_()
    before = z.detach().clone()
    found = sampling.heun(GaussianDenoiser(isotropic(12)), z, 4)
    assert not found.requires_grad and torch.equal(z.detach(), before)


def midpoints(n):
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def upper_tail(sigma):
    """P(level > sigma) of the untruncated law."""
    return stats.norm.sf((np.log(sigma) - P_MEAN) / P_STD)


@pytest.mark.parametrize("sigma_obs", [0.0, *SIGMA_OBS, 2.0])
def test_truncated_samples_follow_the_truncated_law(sigma_obs):
    u = torch.rand(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigma, mass = schedules.truncated_log_normal(u, sigma_obs, P_MEAN, P_STD)
    assert sigma.dtype == mass.dtype == torch.float64 and sigma.shape == mass.shape == u.shape
    assert sigma.min() >= sigma_obs
    expected_mass = upper_tail(sigma_obs) if sigma_obs else 1.0
    np.testing.assert_allclose(mass.numpy(), expected_mass, rtol=1e-12)

    def cdf(x):
        return 1 - upper_tail(x) / expected_mass

    assert stats.kstest(sigma.numpy(), cdf).pvalue > 0.01
    # And exactly: at the midpoints of n equal parts the law's own quantiles come out.
    quantile = np.sort(cdf(schedules.truncated_log_normal(midpoints(500), sigma_obs, P_MEAN, P_STD)[0].numpy()))
    np.testing.assert_allclose(quantile, midpoints(500).numpy(), atol=1e-10)


def test_sigma_obs_0_is_the_plain_law():
    u = midpoints(1000)
    sigma, mass = schedules.truncated_log_normal(u, 0.0, P_MEAN, P_STD)
    clamped, one = schedules.clamped_log_normal(u, 0.0, P_MEAN, P_STD)
    plain = np.exp(P_MEAN + P_STD * stats.norm.ppf(u.numpy()))
    for levels in (sigma, clamped):
        np.testing.assert_allclose(np.sort(levels.numpy()), plain, rtol=1e-10)
    assert torch.all(mass == 1) and torch.all(one == 1)


@pytest.mark.parametrize("sigma_obs", SIGMA_OBS)
def test_clamped_samples_follow_the_clamped_law(sigma_obs):
    u = midpoints(1000)
    sigma, mass = schedules.clamped_log_normal(u, sigma_obs, P_MEAN, P_STD)
    plain = np.exp(P_MEAN + P_STD * stats.norm.ppf(u.numpy()))
    np.testing.assert_allclose(np.sort(sigma.numpy()), np.maximum(plain, sigma_obs), rtol=1e-10)
    assert torch.all(mass == 1)


@pytest.mark.parametrize(("sigma_obs", "wasted"), [(0.1, 0.18), (0.2, 0.37), (0.4, 0.59)])
def test_the_published_share_of_wasted_draws(sigma_obs, wasted):
    u = midpoints(100_000)
    clamped, _ = schedules.clamped_log_normal(u, sigma_obs, P_MEAN, P_STD)
    truncated, mass = schedules.truncated_log_normal(u, sigma_obs, P_MEAN, P_STD)
    assert (clamped == sigma_obs).double().mean().item() == pytest.approx(wasted, abs=0.005)
    assert (1 - mass[0]).item() == pytest.approx(wasted, abs=0.005)
    assert (truncated > sigma_obs).all()


@pytest.mark.parametrize("sigma_obs", [50.0, 1e3, 1e5, 1e10])
def test_far_in_the_tail_levels_stay_finite_and_right(sigma_obs):
    u = midpoints(100)
    sigma, mass = schedules.truncated_log_normal(u, sigma_obs, P_MEAN, P_STD)
    assert torch.isfinite(sigma).all() and (sigma >= sigma_obs).all() and (mass > 0).all()
    np.testing.assert_allclose(mass.numpy(), upper_tail(sigma_obs), rtol=1e-6)
    share = np.sort(upper_tail(sigma.numpy()) / upper_tail(sigma_obs))
    np.testing.assert_allclose(share, u.numpy(), rtol=1e-6)


def test_a_narrow_law_below_sigma_obs_stays_finite():
    """Nine standard deviations: an ordinary sigma_obs under an unusual p_std."""
    sigma, mass = schedules.truncated_log_normal(midpoints(100), 4.5, P_MEAN, 0.3)
    assert torch.isfinite(sigma).all() and (sigma >= 4.5).all() and (sigma < 9).all()
    np.testing.assert_allclose(mass.numpy(), stats.norm.sf((math.log(4.5) - P_MEAN) / 0.3), rtol=1e-6)


@pytest.mark.parametrize("draw", [schedules.truncated_log_normal, schedules.clamped_log_normal])
def test_extreme_uniforms_stay_finite(draw):
    u = torch.tensor([2.0**-33, 1 - 2.0**-33], dtype=torch.float64)  # the ends of ops.uniform
    for sigma_obs in (0.0, 0.1, 10.0):
        sigma, mass = draw(u, sigma_obs, P_MEAN, P_STD)
        assert torch.isfinite(sigma).all() and torch.isfinite(mass).all() and (sigma > 0).all()


@pytest.mark.parametrize("draw", [schedules.truncated_log_normal, schedules.clamped_log_normal])
def test_sigma_obs_may_differ_per_sample(draw):
    sigma_obs = torch.tensor([0.0, 0.1, 0.4], dtype=torch.float64)
    u = torch.full((3,), 0.37, dtype=torch.float64)
    sigma, mass = draw(u, sigma_obs, P_MEAN, P_STD)
    for n in range(3):
        alone = draw(u[:1], sigma_obs[n].item(), P_MEAN, P_STD)
        assert sigma[n] == alone[0][0] and mass[n] == alone[1][0]


@pytest.mark.parametrize("sigma_obs", SIGMA_OBS)
@pytest.mark.parametrize("f", [lambda s, o: (1 - (o / s) ** 2) ** 2 / s, lambda s, o: 1 - o / s], ids=["loss", "ratio"])
def test_mass_times_truncated_is_unbiased_where_f_vanishes_at_sigma_obs(sigma_obs, f):
    """E[mass f(truncated)] = E[f(clamped)] = the integral of f over the law above sigma_obs."""
    u = midpoints(200_000)
    truncated, mass = schedules.truncated_log_normal(u, sigma_obs, P_MEAN, P_STD)
    clamped, one = schedules.clamped_log_normal(u, sigma_obs, P_MEAN, P_STD)
    low = (math.log(sigma_obs) - P_MEAN) / P_STD
    exact, _ = integrate.quad(lambda z: f(math.exp(P_MEAN + P_STD * z), sigma_obs) * stats.norm.pdf(z), low, 12)
    assert (mass * f(truncated, sigma_obs)).mean().item() == pytest.approx(exact, rel=1e-5)
    assert (one * f(clamped, sigma_obs)).mean().item() == pytest.approx(exact, rel=1e-5)
