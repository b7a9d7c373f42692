"""`ambient` and `fourier` where all is known: x ~ N(0, S), so that the posterior mean is linear in what is seen.

A denoiser that is a matrix of its own for every mask, trained by the objective's own loss to its minimum, is that mean,
also where the observations hold noise, and for several coils.
"""

import pytest
import torch
from torch import Tensor

from rsd_fast import corruptions, networks
from rsd_fast.config import Objective
from rsd_fast.corruptions import Draw, DrawnCorruption
from rsd_fast.ops import InputOptions, edm

from . import tiny

SIGMA = 0.4
SAMPLES = 20_000


class Matrices:
    """D(x, sigma; condition) = L[condition] x, a matrix for every mask; what `Objective.loss` needs of a denoiser."""

    sigma_data = 0.5
    input_dtype = torch.float64
    channels_last = False
    input_options = InputOptions(0.5, torch.float64)

    def __init__(self, masks: Tensor, shape: tuple[int, int, int], columns: bool, hidden: str):
        self.masks = masks  # [masks, K, H, W]: the conditions there can be
        self.columns = columns
        self.hidden = networks.HIDDEN[hidden]
        size = masks[0, : shape[0]].numel()
        self.L = torch.zeros(len(masks), size, size, dtype=torch.float64)

    def which(self, condition: Tensor) -> Tensor:
        same = (condition[:, None] == self.masks).flatten(2).all(2)
        assert same.any(1).all()
        return same.int().argmax(1)

    def image(self, x: Tensor, condition: Tensor) -> Tensor:
        return torch.einsum("bij,bj->bi", self.L[self.which(condition)], x.flatten(1)).reshape(x.shape)

    def raw(
        self,
        net_input: Tensor,
        sigma: Tensor,
        labels: None = None,
        augment_labels: None = None,
        condition: Tensor | None = None,
    ) -> Tensor:
        assert condition is not None
        level = edm.per_sample(sigma.double(), net_input)
        x = net_input / edm.c_in(level, 0.5)
        D = self.image(x, condition)
        if self.columns:
            return D
        F = (D - edm.c_skip(level, 0.5) * x) / edm.c_out(level, 0.5)
        return F if self.hidden.predicts_condition else torch.where(condition > 0, F, 2 * D)

    def denoise(self, F: Tensor, x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        assert self.columns  # of masked images the loss itself makes D of F
        return F


def matrix(operator: DrawnCorruption, shape: tuple[int, int, int], draw: Draw) -> Tensor:
    """A, of one draw, as a matrix [observation, image]."""
    size = torch.Size(shape).numel()
    basis = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    return operator.apply(basis, draw).flatten(1).T


def covariance(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    root = torch.randn(size, size, dtype=torch.float64, generator=generator) / size**0.5
    return root @ root.T + 0.05 * torch.eye(size, dtype=torch.float64)


def posterior_means(
    operator: DrawnCorruption, shape: tuple[int, int, int], draws: list[Draw], sigma: float
) -> list[Tensor]:
    """E[x | v] = P v for v = A~* s, s = A~ x + sigma n, by Gaussian conditioning; [image, image] each."""
    S = covariance(torch.Size(shape).numel())
    found = []
    for draw in draws:
        A = matrix(operator, shape, draw)
        cross, own = S @ A.T @ A, A.T @ (A @ S @ A.T + sigma**2 * torch.eye(len(A))) @ A
        found.append(cross @ torch.linalg.pinv(own, rtol=1e-10))
    return found


def train(
    spec: str, shape: tuple[int, int, int], sigma_obs: float, hidden: str | None = None, **options
) -> list[tuple[float, float]]:
    """For each mask that is seen: (its share, the distance of what is learned from the posterior mean, relative)."""
    operator = corruptions.parse(spec)
    assert isinstance(operator, DrawnCorruption)
    assert operator.objective is not None
    objective = Objective(
        name=operator.objective, delta=0.4, p_mean=float(torch.tensor(SIGMA).log()), p_std=1e-6, **options
    )
    index = torch.arange(SAMPLES)
    draw = operator.draw(shape, index, 3)
    S = covariance(torch.Size(shape).numel())
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(SAMPLES, len(S), dtype=torch.float64, generator=generator) @ torch.linalg.cholesky(S).T
    seen = corruptions.observation(operator, x.reshape(-1, *shape), index=index, sigma_obs=sigma_obs, seed=3)
    at = {"seed": 3, "sample": index, "step": 1}
    kept = operator.further(draw, objective.delta, **at)
    condition = operator.view(kept, shape).condition
    assert condition is not None
    masks, which, counts = condition.flatten(1).unique(dim=0, return_inverse=True, return_counts=True)
    hidden = hidden or operator.hidden
    denoiser = Matrices(masks.reshape(-1, *condition.shape[1:]), shape, columns=operator.measures_kspace, hidden=hidden)

    def gradient(L: Tensor) -> Tensor:
        denoiser.L = L.requires_grad_()
        loss, _ = tiny.loss(objective, denoiser, seen, **at)
        return torch.autograd.grad(loss.mean(), L)[0].flatten(1)

    # The loss is quadratic, and each mask's matrix has its own part of it: one gradient for each of a matrix's numbers
    # gives the curvature, and one step the least loss.
    start = torch.zeros_like(denoiser.L)
    slope = gradient(start)
    units = torch.eye(slope.shape[1], dtype=torch.float64).reshape(-1, 1, *start.shape[1:])
    curvature = torch.stack([gradient(start + unit) - slope for unit in units], 2)  # [masks, n, n]
    learned = -(torch.linalg.pinv(curvature, rtol=1e-9, hermitian=True) @ slope[:, :, None]).reshape(start.shape)
    result = []
    for number in range(len(masks)):
        first = int((which == number).int().argmax())
        one = Draw(mask=kept.mask[first : first + 1], maps=draw.maps)
        (P,) = posterior_means(operator, shape, [one], SIGMA)
        A = matrix(operator, shape, one)
        own = A.T @ (A @ S @ A.T + SIGMA**2 * torch.eye(len(A))) @ A  # of v, by which the error is weighted

        def size(M: Tensor, own: Tensor = own) -> float:
            return float(torch.trace(M @ own @ M.T)) ** 0.5

        error = size(learned[number] - P) / max(size(P), 1e-9)
        result.append((int(counts[number]) / SAMPLES, error if A.any() else 0.0))
    return result


CASES = [
    ("random_mask:missing=0.5", (1, 2, 2)),
    ("random_mask:missing=0.3,shared=0", (2, 1, 2)),
    ("fourier:acceleration=2,acs_lines=1,real=1", (1, 2, 4)),
    pytest.param("fourier:acceleration=2,acs_lines=1", (2, 2, 3), marks=pytest.mark.slow),
    pytest.param("fourier:acceleration=2,acs_lines=1,coils=3", (2, 2, 3), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("hidden", [None, "sigma"])
@pytest.mark.parametrize("sigma_obs", [0.0, 0.25])
@pytest.mark.parametrize(("spec", "shape"), CASES)
def test_what_is_learned_is_the_posterior_mean(spec, shape, sigma_obs, hidden):
    found = train(spec, shape, sigma_obs, hidden)
    assert len(found) >= 4
    for share, error in found:
        expected = 4 * (torch.Size(shape).numel() / (share * SAMPLES)) ** 0.5
        if expected < 0.5:  # of rarer masks there are too few samples
            assert error < expected


def test_a_loss_on_what_is_seen_alone_learns_nothing_of_the_rest():
    """The parity option is another objective: it is not least at the posterior mean of hidden pixels."""
    assert max(error for share, error in train("random_mask:missing=0.5", (1, 2, 2), 0.0, masked_loss="kept")) > 0.3


def test_the_published_expression_for_several_coils_has_another_minimum():
    """||A* A (D - A* k)||^2 is least at E[N^2]^-1 E[N^3 x | ..], N = A* A, which is x for a projection alone."""
    for spec, biased in (
        ("fourier:acceleration=2,acs_lines=1", False),
        ("fourier:acceleration=2,acs_lines=1,coils=3", True),
    ):
        operator = corruptions.parse(spec)
        assert isinstance(operator, DrawnCorruption)
        draws = operator.draw((2, 2, 4), torch.arange(400), 0)
        squares, cubes = torch.zeros(16, 16, dtype=torch.float64), torch.zeros(16, 16, dtype=torch.float64)
        for mask in draws.mask:
            A = matrix(operator, (2, 2, 4), Draw(mask=mask[None], maps=draws.maps))
            N = A.T @ A
            squares, cubes = squares + N @ N, cubes + N @ N @ N
        shrunk = torch.linalg.solve(squares, cubes)
        assert bool((shrunk - torch.eye(16)).abs().max() > 0.05) == biased
