"""The method in closed form: exact denoisers, no gradient at the truth, and what a linear generator converges to."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from rsd_fast import ops

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "linear_gaussian.py"
spec = importlib.util.spec_from_file_location("linear_gaussian", SCRIPT)
example = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = example  # dataclasses look their module up
spec.loader.exec_module(example)

SETTINGS = range(3)
IDS = [problem.name for problem in example.problems()]


def draws(problem, batch, seed=7):
    """z, n, sigma, mask for one call of the loss; mask is None where nothing is hidden."""
    shape, generator = (batch, len(problem.A)), torch.Generator().manual_seed(seed)
    z, n = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    u = torch.rand(shape, generator=generator, dtype=torch.float64)
    return z, n, torch.logspace(-2, 1, batch, dtype=torch.float64), (u > 0.4).double() if problem.missing else None


@pytest.mark.parametrize("setting", SETTINGS, ids=IDS)
def test_denoisers_are_posterior_means(setting):
    """By conditioning x ~ N(0, Sigma) on the visible entries of A x + sigma n, sample by sample."""
    problem = example.problems()[setting]
    z, n, sigma, mask = draws(problem, 12)
    u_t = z + sigma[:, None] * n
    S = problem.teacher_covariance
    if mask is not None:
        u_t, S = mask * u_t, mask[:, :, None] * S * mask[:, None, :]
    denoised = example.denoise(S, u_t, sigma)
    for i in range(len(u_t)):
        visible = torch.arange(u_t.shape[1]) if mask is None else mask[i].nonzero()[:, 0]
        rows = problem.A[visible]
        noise = sigma[i] ** 2 * torch.eye(len(visible), dtype=torch.float64)
        gain = torch.linalg.solve(rows @ problem.covariance @ rows.T + noise, u_t[i, visible])
        expected = torch.zeros_like(u_t[i])
        expected[visible] = rows @ (problem.covariance @ rows.T @ gain)
        torch.testing.assert_close(denoised[i], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("setting", [0, 1], ids=IDS[:2])
def test_the_teacher_is_what_the_tweedie_objective_learns(setting):
    """The expected gradient of ops.denoising_loss in a linear denoiser is 0 at the exact one, and not at S = Cov(y)."""
    problem = example.problems()[setting]
    d, sigma_obs, sigma = len(problem.A), problem.sigma_obs, 0.8
    # 2d samples whose second moments are exactly those of (y, n): their mean of a quadratic is its expectation.
    white = (2 * d) ** 0.5 * torch.linalg.qr(example.normal(2 * d, 2 * d, seed=3)).Q
    y, n = white[:, :d], white[:, d:]
    y = y @ torch.linalg.cholesky(problem.observed_covariance).T
    x_t = y + (sigma**2 - sigma_obs**2) ** 0.5 * n
    levels = torch.full((2 * d,), sigma, dtype=torch.float64)

    def gradient(S):
        K = torch.linalg.solve(S + sigma**2 * torch.eye(d, dtype=torch.float64), S).requires_grad_(True)
        F = example.network_output(x_t @ K.T, x_t, levels)
        return torch.autograd.grad(ops.denoising_loss(F, x_t, y, levels, sigma_obs).mean(), K)[0]

    assert gradient(problem.teacher_covariance).abs().max() < 1e-10
    assert gradient(problem.observed_covariance).abs().max() > 1e-3


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.2])
@pytest.mark.parametrize("setting", SETTINGS, ids=IDS)
def test_the_gradient_is_zero_at_the_truth(setting, alpha):
    """Teacher and fake score agree there, so that it is 0 for every sample, whatever the square root of Sigma."""
    problem = example.problems()[setting]
    d, r = problem.U.shape
    rotation = torch.linalg.qr(example.normal(d, d, seed=4)).Q
    truth = problem.U * problem.eigenvalues.sqrt() @ rotation[:r]
    z, n, sigma, mask = draws(problem, 16)
    sizes = []
    for scale in (1.0, 1.01):
        W = (scale * truth).requires_grad_(True)
        loss = example.generator_loss(problem, W, z, n, sigma, alpha, mask)
        sizes.append(torch.autograd.grad(loss.sum(), W)[0].abs().max())
    assert sizes[0] < 1e-6 * sizes[1]


@pytest.mark.parametrize("alpha", [1.1, 1.2, 2.0])
@pytest.mark.parametrize("sigma", [0.1, 1.0])
def test_the_variance_above_which_a_large_alpha_pushes_outward(alpha, sigma):
    """At one noise level, without weights: v + sigma^2 > alpha / (alpha - 1) (s + sigma^2), for variances s and v."""
    d, s = 8, 0.5
    eye = torch.eye(d, dtype=torch.float64)
    problem = example.Problem(name="", U=eye, eigenvalues=torch.full((d,), s, dtype=torch.float64), A=eye)
    z, n, _, _ = draws(problem, 64)
    z, n = torch.cat([z, z]), torch.cat([n, -n])  # so that E[z n] is exactly 0
    threshold = alpha / (alpha - 1) * (s + sigma**2) - sigma**2

    def push(v):
        """The derivative in the scale of W."""
        scale = torch.ones((), dtype=torch.float64, requires_grad=True)
        levels = torch.full((len(z),), sigma, dtype=torch.float64)
        loss = example.generator_loss(problem, v**0.5 * scale * eye, z, n, levels, alpha)
        u = v**0.5 * z
        error = u - example.denoise(problem.covariance, u + sigma * n, levels)
        return torch.autograd.grad((error.abs().mean(1) * loss).mean(), scale)[0].item()

    assert push(0.9 * threshold) > 0 > push(1.1 * threshold)
    assert abs(push(threshold)) < 1e-10 * push(0.9 * threshold)


def assert_recovered(run):
    assert run.angle[0] > 10 and run.angle[-1] < 0.1, str(run)
    assert run.eigenvalue_error < 0.01 and run.leak < 1e-3, str(run)


@pytest.mark.parametrize("setting", SETTINGS, ids=IDS)
def test_a_small_run_recovers_the_clean_data(setting):
    problem = example.problems(**example.QUICK_SIZE)[setting]
    assert_recovered(example.train(problem, example.random_start(problem), **example.QUICK_TRAINING))


def test_large_alpha_in_a_small_run():
    problem = example.problems(**example.QUICK_SIZE)[0]
    assert_large_alpha(problem, **example.QUICK_TRAINING)


def assert_large_alpha(problem, **settings):
    """Diverges from a random start, and below sigma_obs from the teacher's, but not above it from the teacher's."""
    random, teacher, whole_grid = (
        example.train(problem, start, alpha=1.2, sigma_min=sigma_min, **settings)
        for start, sigma_min in example.large_alpha_cases(problem).values()
    )
    assert random.diverged and whole_grid.diverged, f"{random}; {whole_grid}"
    assert teacher.angle[-1] < 0.1 and teacher.eigenvalue_error < 0.01, str(teacher)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.5, 1.0])
@pytest.mark.parametrize("setting", SETTINGS, ids=IDS)
def test_the_clean_data_is_recovered(setting, alpha):
    problem = example.problems()[setting]
    batch = 64 if problem.missing else 256  # masks make every sample a linear system of its own
    assert_recovered(example.train(problem, example.random_start(problem), alpha=alpha, batch=batch))


@pytest.mark.slow
def test_large_alpha():
    assert_large_alpha(example.problems()[0])


@pytest.mark.slow
def test_large_alpha_stays_at_the_truth_on_the_whole_grid_where_steps_are_small():
    problem = example.problems()[0]
    truth = problem.U * problem.eigenvalues.sqrt() @ problem.U.T
    large, small = (example.train(problem, truth, alpha=1.2, lr=lr, steps=1500) for lr in (5e-3, 1e-4))
    assert large.diverged and small.angle.max() < 1 and small.angle[-1] < 0.1, f"{large}; {small}"


def test_the_script(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(example.QUICK_TRAINING, "steps", 5)
    example.main(["--quick", "--out", str(tmp_path / "picture.png")])
    assert len(capsys.readouterr().out.splitlines()) == 7
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_the_script_without_matplotlib(capsys, monkeypatch):
    monkeypatch.setattr(example.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        example.main(["--quick"])
    assert capsys.readouterr().err.endswith("the picture needs matplotlib: pip install matplotlib\n")
