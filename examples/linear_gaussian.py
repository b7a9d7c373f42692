"""The method where all of it is known in closed form: Gaussian data, a linear generator, exact scores.

    x ~ N(0, Sigma),  Sigma = U diag(eigenvalues) U^T of rank r      clean data, used to judge and for no more
    y = A x + sigma_obs eps                                         its observations
    G(z) = W z,  z ~ N(0, I),  W [d, d]                             the one-step generator

The best denoiser of N(0, S) is linear, D(u_t, sigma) = S (S + sigma^2 I)^-1 u_t, so no network need be trained. The
teacher has S = Cov(y) - sigma_obs^2 I, which is what the Tweedie objective learns from y; the fake score has
S = A W W^T A^T, exact at every step. What is left is the library's own: `rsd_fast.ops.score_difference_loss` and its
gradient, in float64, through both denoisers and A into W. W W^T then converges to Sigma.

`python examples/linear_gaussian.py` prints how closely, for noise, blur and random masks, shows when alpha > 1
diverges (docs/linear-gaussian.md), and draws both, for which it needs matplotlib.
"""

import argparse
import importlib.util
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from rsd_fast import ops, schedules
from rsd_fast.ops import Stream, edm

SIGMA_DATA = 0.5  # of the preconditioning; exact denoisers do not depend on it
TMAX, SIGMA_MAX, RHO = 800, 80.0, 7.0  # the noise levels of stage 2: the lower 80 % of the sampler's grid
QUICK_SIZE = {"dimension": 8, "eigenvalues": (2.0, 0.5), "sigma_obs": 0.1}
QUICK_TRAINING = {"steps": 800, "batch": 64, "lr": 0.03}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Clean data N(0, U diag(eigenvalues) U^T), and how it is observed."""

    name: str
    U: Tensor  # [d, r], orthonormal columns
    eigenvalues: Tensor  # [r], falling
    A: Tensor  # [d, d]
    sigma_obs: float = 0.0
    missing: float = 0.0  # chance that a mask, another one for each sample, hides an entry of y

    @property
    def covariance(self) -> Tensor:
        """Cov(x), [d, d], of the clean data: the truth to recover."""
        return self.U * self.eigenvalues @ self.U.T

    @property
    def observed_covariance(self) -> Tensor:
        """Cov(y), [d, d], where nothing is hidden."""
        return self.A @ self.covariance @ self.A.T + self.sigma_obs**2 * torch.eye(len(self.A), dtype=self.A.dtype)

    @property
    def teacher_covariance(self) -> Tensor:
        """Cov(A x), [d, d], as it follows from only the observations."""
        return self.observed_covariance - self.sigma_obs**2 * torch.eye(len(self.A), dtype=self.A.dtype)


def problems(
    dimension: int = 32,
    eigenvalues: tuple[float, ...] = (4.0, 2.0, 1.0, 0.5),
    sigma_obs: float = 0.3,
    seed: int = 0,
) -> list[Problem]:
    """The same data seen with noise, through blur and noise, and through masks."""
    U = torch.linalg.qr(normal(dimension, len(eigenvalues), seed=seed)).Q
    identity = torch.eye(dimension, dtype=torch.float64)
    blur = 0.6 * identity + 0.2 * (identity.roll(1, 0) + identity.roll(-1, 0))  # circulant; spectrum in [0.2, 1]
    data = {"U": U, "eigenvalues": torch.tensor(eigenvalues, dtype=torch.float64)}
    return [
        Problem(name="noise", A=identity, sigma_obs=sigma_obs, **data),
        Problem(name="blur and noise", A=blur, sigma_obs=sigma_obs, **data),
        Problem(name="40 % missing", A=identity, missing=0.4, **data),
    ]


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_start(problem: Problem, variance: float = 32.0, seed: int = 0) -> Tensor:
    """W [d, d] of independent normals: E[W W^T] = variance I, which is far above the data's in every direction."""
    return (variance / len(problem.A)) ** 0.5 * normal(*problem.A.shape, seed=seed + 1)


def teacher_start(problem: Problem) -> Tensor:
    """W [d, d] that generates what the observations look like, noise and all: W W^T = Cov(y)."""
    variances, directions = torch.linalg.eigh(problem.observed_covariance)
    return directions * variances.clamp_min(0).sqrt() @ directions.T


def denoise(S: Tensor, u_t: Tensor, sigma: Tensor) -> Tensor:
    """E[u | u_t] [B, d] for u ~ N(0, S), u_t = u + sigma n. S: [d, d], or [B, d, d] for one a sample; sigma: [B]."""
    if S.ndim == 2:
        variances, directions = torch.linalg.eigh(S)
        return (u_t @ directions * (variances / (variances + sigma[:, None] ** 2))) @ directions.T
    variance = sigma[:, None, None] ** 2
    factor = torch.linalg.cholesky(S + variance * torch.eye(S.shape[-1], dtype=S.dtype))
    return u_t - (variance * torch.cholesky_solve(u_t[..., None], factor))[..., 0]


def network_output(D: Tensor, u_t: Tensor, sigma: Tensor) -> Tensor:
    """F [B, d] of D = c_skip u_t + c_out F: what a network would have to put out."""
    sigma = sigma[:, None]
    return (D - edm.c_skip(sigma, SIGMA_DATA) * u_t) / edm.c_out(sigma, SIGMA_DATA)


def generator_loss(
    problem: Problem, W: Tensor, z: Tensor, n: Tensor, sigma: Tensor, alpha: float, mask: Tensor | None = None
) -> Tensor:
    """SiD's loss of each sample, [B], as rsd_fast.methods.distill has it. z, n, mask: [B, d]; sigma: [B]."""
    u = z @ W.T @ problem.A.T
    # The fake score is a network of its own: it has learnt W's covariance, and takes no gradient.
    covariances = problem.teacher_covariance, problem.A @ W.detach() @ W.detach().T @ problem.A.T
    if mask is not None:  # denoisers that know the mask
        u, n = mask * u, mask * n
        covariances = tuple(mask[:, :, None] * S * mask[:, None, :] for S in covariances)
    u_t = u + sigma[:, None] * n
    F_teacher, F_fake = (network_output(denoise(S, u_t, sigma), u_t, sigma) for S in covariances)
    return ops.score_difference_loss(F_teacher, F_fake, u_t, u, sigma, alpha, SIGMA_DATA, mask)


def principal_angles(W: Tensor, U: Tensor) -> Tensor:
    """Angles [r] in degrees, falling, between the first r left singular vectors of W and the columns of U."""
    V = torch.linalg.svd(W).U[:, : U.shape[1]]
    return torch.linalg.svdvals(V - U @ (U.T @ V)).clamp(max=1).asin().rad2deg()  # by sines: right when tiny


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training's course: its points are W at the start and after each `every` steps."""

    problem: Problem
    W: Tensor  # [d, d], at the end
    steps: list[int]
    angle: Tensor  # [points], the largest principal angle in degrees
    eigenvalues: Tensor  # [points, d] of W W^T, falling
    seconds: float

    @property
    def eigenvalue_error(self) -> float:
        """The largest relative error of the first r eigenvalues at the end."""
        truth = self.problem.eigenvalues
        return (self.eigenvalues[-1, : len(truth)] / truth - 1).abs().max().item()

    @property
    def leak(self) -> float:
        """The largest variance at the end outside the first r directions, where the data has none."""
        return self.eigenvalues[-1, len(self.problem.eigenvalues)].item()

    @property
    def diverged(self) -> bool:
        return self.eigenvalues[-1, 0].item() > 10 * self.problem.eigenvalues[0].item()

    def __str__(self) -> str:
        if self.diverged:
            return f"diverged, largest eigenvalue {self.eigenvalues[-1, 0]:.0f} ({self.seconds:.1f} s)"
        return (
            f"angle {self.angle[-1]:.2g} degrees, eigenvalues within {100 * self.eigenvalue_error:.2g} %, "
            f"largest elsewhere {self.leak:.2g} ({len(self.problem.A)} dimensions, {self.seconds:.1f} s)"
        )


def train(
    problem: Problem,
    W: Tensor,
    *,
    alpha: float = 1.0,
    sigma_min: float = 0.002,
    steps: int = 3000,
    batch: int = 256,
    lr: float = 5e-3,
    seed: int = 0,
    every: int = 20,
) -> Run:
    """Train by Adam from the start W [d, d]; the learning rate falls linearly to 0."""
    W = W.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([W], lr=lr, betas=(0.0, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    sample, shape = torch.arange(batch), (batch, len(W))
    points, began = {0: measure(problem, W)}, time.perf_counter()
    for step in range(steps):
        z, n = (ops.randn(shape, seed, sample, step, s).double() for s in (Stream.LATENT, Stream.DIFFUSION_NOISE))
        t = ops.uniform((batch,), seed, sample, step, Stream.SIGMA)
        sigma = schedules.power_interpolation(1 - t * TMAX / 1000, sigma_min, SIGMA_MAX, RHO)
        mask = None
        if problem.missing:
            mask = (ops.uniform(shape, seed, sample, step, Stream.OBSERVATION_MASK) >= problem.missing).double()
        optimizer.zero_grad()
        generator_loss(problem, W, z, n, sigma, alpha, mask).mean().backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % every == 0 or step + 1 == steps:
            points[step + 1] = measure(problem, W)
    angle, eigenvalues = (torch.stack(column) for column in zip(*points.values(), strict=True))
    return Run(
        problem=problem,
        W=W.detach(),
        steps=list(points),
        angle=angle,
        eigenvalues=eigenvalues,
        seconds=time.perf_counter() - began,
    )


def measure(problem: Problem, W: Tensor) -> tuple[Tensor, Tensor]:
    return principal_angles(W.detach(), problem.U)[0], torch.linalg.svdvals(W.detach()) ** 2


def large_alpha_cases(problem: Problem, seed: int = 0) -> dict[str, tuple[Tensor, float]]:
    """Starts and sigma_min to try alpha = 1.2 with: sigma_obs, where a teacher's training begins, or the whole grid."""
    random, teacher, trained = random_start(problem, seed=seed), teacher_start(problem), problem.sigma_obs
    return {
        f"random start, σ ≥ {trained}": (random, trained),
        f"teacher's start, σ ≥ {trained}": (teacher, trained),
        "teacher's start, σ ≥ 0.002": (teacher, 0.002),
    }


def draw(path: str, runs: list[Run], large_alpha: dict[str, Run]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(2, len(runs) + 1, figsize=(13, 5.6), sharex=True, layout="constrained")
    truth = {"color": "black", "linewidth": 0.8, "linestyle": "--", "zorder": 3}
    for run, (top, bottom) in zip(runs, axes.T, strict=False):
        problem, r = run.problem, len(run.problem.eigenvalues)
        top.set_title(f"{problem.name}: random start, α = 1")
        top.semilogy(run.steps[1:], run.angle[1:], color="C0")
        observed = principal_angles(teacher_start(problem), problem.U)[0]
        if observed > 0.01:
            top.axhline(observed, color="0.5", linewidth=0.8, linestyle=":", label="of the observations")
            top.legend(frameon=False)
        for i, eigenvalue in enumerate(problem.eigenvalues.tolist()):
            bottom.axhline(eigenvalue, label="truth" if i == 0 else None, **truth)
            bottom.semilogy(run.steps, run.eigenvalues[:, i], color=f"C{i}")
        bottom.semilogy(run.steps, run.eigenvalues[:, r], color="0.6", label=f"eigenvalue {r + 1}, in truth 0")
        bottom.set_ylim(1e-7, 1e3)
    *_, (top, bottom) = axes.T
    top.set_title(f"{runs[0].problem.name}: α = 1.2")
    for (name, run), color in zip(large_alpha.items(), ("C3", "C2", "C1"), strict=True):
        style = "--" if name == list(large_alpha)[-1] else "-"  # two of them lie on top of each other
        top.semilogy(run.steps[1:], run.angle[1:], color=color, linestyle=style, label=name)
        bottom.semilogy(run.steps, run.eigenvalues[:, 0], color=color, linestyle=style)
    bottom.axhline(runs[0].problem.eigenvalues[0], **truth)
    bottom.set_ylabel("largest eigenvalue of W Wᵀ")
    top.legend(frameon=False, loc="lower left")
    axes[0, 0].set_ylabel("largest principal angle (degrees)")
    axes[1, 0].set_ylabel("eigenvalues of W Wᵀ")
    axes[1, 0].legend(frameon=False, loc="lower left")
    for top, bottom in axes.T:
        top.set_ylim(1e-5, 3e2)
        bottom.set_xlabel("step")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", default="linear_gaussian.png", metavar="FILE", help="the picture (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="8 dimensions, rank 2, 800 steps of 64: some seconds")
    parser.add_argument("--seed", type=int, default=0, help="of data, starts and noise (%(default)s)")
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("matplotlib") is None:
        parser.error("the picture needs matplotlib: pip install matplotlib")

    torch.set_num_threads(1)  # the matrices are too small to gain by more
    size = QUICK_SIZE if options.quick else {}
    settings = {"seed": options.seed, **(QUICK_TRAINING if options.quick else {})}
    noise, *others = problems(**size, seed=options.seed)
    runs = []
    for problem in (noise, *others):
        runs.append(train(problem, random_start(problem, seed=options.seed), **settings))
        print(f"{problem.name}, random start, alpha 1: {runs[-1]}", flush=True)
    large_alpha = {}
    for name, (start, sigma_min) in large_alpha_cases(noise, options.seed).items():
        large_alpha[name] = train(noise, start, alpha=1.2, sigma_min=sigma_min, **settings)
        print(f"{noise.name}, {name}, alpha 1.2: {large_alpha[name]}", flush=True)
    draw(options.out, runs, large_alpha)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
