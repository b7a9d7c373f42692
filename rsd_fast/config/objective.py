"""Settings of what a teacher minimises. Each objective has a class: `OBJECTIVES` says where."""

import importlib
from dataclasses import dataclass
from typing import Any

from rsd_fast.registry import Registry

from .setting import Settings, setting


@dataclass(frozen=True, kw_only=True)
class Rule:
    """An objective in the registry.

    observations: the observations that it is for, in words. path: "module:class" of an `objectives.Objective`, which is
    imported only where one is made, so that options are listed without torch. noise: may the observations hold noise?
    conditional: is the denoiser shown what is missing, as operators ask for whose `objective` is this one's name?
    """

    observations: str
    path: str
    noise: bool = True
    conditional: bool = False

    def load(self) -> Any:
        """The class."""
        module, _, name = self.path.partition(":")
        return getattr(importlib.import_module(module), name)


OBJECTIVES: Registry[Rule] = Registry("objective", "objective", auto=True)
WHOLE = "rsd_fast.objectives.base:WholeImages"
OBJECTIVES.add("standard", Rule(observations="observations without noise", path=WHOLE, noise=False))
OBJECTIVES.add("tweedie", Rule(observations="observations with noise in every pixel", path=WHOLE))
OBJECTIVES.add("ambient", Rule(observations="masks", path="rsd_fast.objectives.masked:Masked", conditional=True))
OBJECTIVES.add(
    "fourier",
    Rule(observations="masks of k-space", path="rsd_fast.objectives.measured:MeasuredSpace", conditional=True),
)

SIGMA_DISTRIBUTIONS: Registry[str] = Registry("sigma_distribution", "sigma distribution")  # names in `schedules`
SIGMA_DISTRIBUTIONS.add("truncated", "truncated_log_normal")
SIGMA_DISTRIBUTIONS.add("clamped", "clamped_log_normal")


@dataclass(frozen=True, kw_only=True)
class Objective(Settings):
    """Denoising score matching with ln sigma ~ N(p_mean, p_std^2), restricted to sigma >= sigma_obs.

    sigma_distribution: "truncated" draws only such sigma and weighs the loss by their share; "clamped" raises lower
    draws to sigma_obs, where `tweedie`'s loss and gradient are exactly zero (published code): the same expected
    gradient, at 1 / share times the cost.
    """

    name: str = setting(
        "standard",
        name="objective",
        choices=OBJECTIVES,
        auto=True,
        help="What the teacher minimises; auto: ambient for masks, fourier for k-space, else tweedie where there is "
        "noise.",
    )
    p_mean: float = setting(-1.2, help="Mean of ln sigma in training.")
    p_std: float = setting(1.2, more_than=0, help="Standard deviation of ln sigma.")
    sigma_distribution: str = setting(
        "truncated",
        choices=SIGMA_DISTRIBUTIONS,
        help="Noise levels below sigma_obs are not drawn, or raised to it as published code does.",
    )
    delta: float = setting(
        0.1,
        more_than=0,
        below=1,
        help="ambient, fourier: probability that an observed pixel or column is hidden from the network.",
    )
    masked_loss: str = setting(
        "observed",
        choices=("observed", "kept"),
        help="ambient: the loss is on all observed pixels, or only on those that the network sees.",
    )
    consistency: float = setting(0.0, at_least=0, help="Weight of the consistency term; 0 for none.")
    consistency_steps: int = setting(2, at_least=1, help="Sampler steps in it.")
    consistency_primes: int = setting(2, at_least=1, help="Runs that it averages.")

    @property
    def further_evaluations(self) -> int:
        """Evaluations of the denoiser, without gradient, for an image's loss, beside the one that learns."""
        return self.consistency_primes * self.consistency_steps if self.consistency else 0

    @property
    def conditional(self) -> bool:
        """Is the denoiser shown what is missing?"""
        return OBJECTIVES[self.name].conditional
