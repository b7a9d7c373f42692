"""Settings of a teacher's objective."""

from dataclasses import dataclass

NAMES = ("standard", "tweedie", "ambient", "fourier")
SIGMA_DISTRIBUTIONS = ("truncated", "clamped")


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Denoising score matching with ln sigma ~ N(p_mean, p_std^2), restricted to sigma >= sigma_obs.

    sigma_distribution: "truncated" draws only such sigma and weighs the loss by their share; "clamped" raises lower
    draws to sigma_obs, where `tweedie`'s loss and gradient are exactly zero (published code): the same expected
    gradient, at 1 / share times the cost.
    delta: `ambient` and `fourier`: probability that an observed pixel or column is hidden from the denoiser.
    masked_loss: `ambient`: the pixels in the loss, all "observed" ones, or "kept", those the denoiser sees, alone.
    consistency: weight of the consistency term, 0 for none (`consistency_loss`); consistency_steps of the sampler, and
    consistency_primes runs of it.
    """

    name: str = "standard"
    p_mean: float = -1.2
    p_std: float = 1.2
    sigma_distribution: str = "truncated"
    delta: float = 0.1
    masked_loss: str = "observed"
    consistency: float = 0.0
    consistency_steps: int = 2
    consistency_primes: int = 2

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(f"unknown objective '{self.name}'; known: {', '.join(NAMES)}")
        if self.sigma_distribution not in SIGMA_DISTRIBUTIONS:
            known = ", ".join(SIGMA_DISTRIBUTIONS)
            raise ValueError(f"unknown sigma distribution '{self.sigma_distribution}'; known: {known}")
        if self.p_std <= 0:
            raise ValueError(f"p_std: expected more than 0, got {self.p_std}")
        if not 0 < self.delta < 1:
            raise ValueError(f"delta: expected 0 < delta < 1, got {self.delta}")
        if self.masked_loss not in ("observed", "kept"):
            raise ValueError(f"masked_loss: expected observed or kept, got '{self.masked_loss}'")
        if not 0 <= self.consistency < float("inf"):
            raise ValueError(f"consistency: expected at least 0, got {self.consistency}")
        for name in ("consistency_steps", "consistency_primes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
