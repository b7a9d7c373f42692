"""What a teacher minimises, and the fake score of distillation with it: one object serves both.

    standard   weight ||D(y + sigma n, sigma) - y||^2                      (Karras et al. 2022; sigma_obs = 0)
    tweedie    weight ||h - y||^2,  x_t = y + sqrt(sigma^2 - sigma_obs^2) n,  sigma >= sigma_obs,
               h = (1 - r) D(x_t, sigma) + r x_t,  r = sigma_obs^2 / sigma^2    (Daras et al. 2024)

At sigma_obs = 0 the second is the first, so one formula computes both; the name states what is expected of the data.
"""

from dataclasses import dataclass

from torch import Tensor

from . import ops, schedules
from .networks import Denoiser

NAMES = ("standard", "tweedie")
SIGMA_DISTRIBUTIONS = {
    "truncated": schedules.truncated_log_normal,
    "clamped": schedules.clamped_log_normal,
}


def resolve(name: str, sigma_obs: float) -> str:
    """The objective for observations with noise sigma_obs; `auto` chooses. Raises ValueError where they do not fit."""
    if name == "auto":
        return "tweedie" if sigma_obs > 0 else "standard"
    if name not in NAMES:
        raise ValueError(f"unknown objective '{name}'; known: auto, {', '.join(NAMES)}")
    if name == "standard" and sigma_obs > 0:
        raise ValueError(
            f"objective 'standard' would learn the noise as if it were signal (sigma_obs is {sigma_obs}); use 'tweedie'"
        )
    return name


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Denoising score matching with ln sigma ~ N(p_mean, p_std^2), restricted to sigma >= sigma_obs.

    sigma_distribution: "truncated" draws only such sigma and weighs the loss by their share; "clamped" raises lower
    draws to sigma_obs, where loss and gradient are exactly zero (published code): the same expected gradient, at
    1 / share times the cost.
    """

    name: str = "standard"
    p_mean: float = -1.2
    p_std: float = 1.2
    sigma_distribution: str = "truncated"

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(f"unknown objective '{self.name}'; known: {', '.join(NAMES)}")
        if self.sigma_distribution not in SIGMA_DISTRIBUTIONS:
            known = ", ".join(SIGMA_DISTRIBUTIONS)
            raise ValueError(f"unknown sigma distribution '{self.sigma_distribution}'; known: {known}")
        if self.p_std <= 0:
            raise ValueError(f"p_std: expected more than 0, got {self.p_std}")

    def draw_sigma(self, sigma_obs: float, *, seed: int, sample: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """(sigma, mass), both [B] float32: noise levels of the samples, and the factor their losses carry."""
        u = ops.uniform((len(sample),), seed, sample, step, ops.Stream.SIGMA)
        sigma, mass = SIGMA_DISTRIBUTIONS[self.sigma_distribution](u, sigma_obs, self.p_mean, self.p_std)
        return sigma.float(), mass.float()

    def loss(
        self,
        denoiser: Denoiser,
        y: Tensor,
        *,
        sigma_obs: float,
        seed: int,
        sample: Tensor,
        step: int,
        labels: Tensor | None = None,
        operator: ops.Operator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(loss [B] summed over pixels, sigma [B]) of observations y [B, C, H, W] with noise sigma_obs.

        operator: y are images instead, and a fresh observation of each is drawn on the way. The noise level and the
        noise of a sample are functions of (seed, sample, step).
        """
        sigma, mass = self.draw_sigma(sigma_obs, seed=seed, sample=sample, step=step)
        options = denoiser.input_options
        if operator is None:
            x_t, net_input = ops.perturb(y, sigma, sigma_obs, seed, sample, step, **options)
        else:
            y, x_t, net_input = ops.observe_perturb(
                y, sample, operator, sigma_obs, seed, sigma, sample, step, observation_step=step, **options
            )
        F = denoiser.raw(net_input, sigma, labels)
        return mass * ops.denoising_loss(F, x_t, y, sigma, sigma_obs, denoiser.sigma_data), sigma
