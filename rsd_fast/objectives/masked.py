"""`ambient`: masked images (Daras et al. 2023)."""

from torch import Tensor

from rsd_fast import ops
from rsd_fast.corruptions import Observation
from rsd_fast.networks import Denoiser

from .base import Conditional, Noised


class Masked(Conditional):
    """A pixel that is seen has its own noise in x_t (Tweedie); a hidden one counts as at infinite noise, or as one that
    is seen where the denoiser's `hidden` says so."""

    def error(self, denoiser: Denoiser, F: Tensor, noised: Noised, observation: Observation) -> Tensor:
        y, operator, sigma_obs = observation
        kept, draw, sigma_data = noised.view.kept, operator.draw, denoiser.sigma_data
        assert kept is not None and draw is not None
        loss = ops.denoising_loss(F, noised.x_t, y, noised.sigma, sigma_obs, sigma_data, kept)
        if self.settings.masked_loss == "kept":
            return loss
        level = denoiser.hidden.level(noised.sigma, sigma_data)
        return loss + ops.denoising_loss(F, noised.x_t, y, level, 0.0, sigma_data, draw.mask - kept)
