"""`fourier`: undersampled k-space, and whatever else is not observed pixel by pixel."""

from torch import Tensor

from rsd_fast import ops
from rsd_fast.corruptions import BatchOperator, Observation
from rsd_fast.networks import Denoiser
from rsd_fast.ops import Key, edm

from .base import Conditional, Noised, squared


class MeasuredSpace(Conditional):
    """What diffuses is the observation, and the loss compares there: on all that was measured, with Tweedie's
    correction and weight(sigma) on what is seen, and the weight of infinite noise on what is hidden. That is all of it
    where A* A is no projection (coils' maps, or real images, of which a column shows half where its mirror image is not
    sampled)."""

    def noised(self, denoiser: Denoiser, observation: Observation, sigma: Tensor, key: Key) -> Noised:
        y, _, sigma_obs = observation
        state, _ = ops.perturb(y, sigma, sigma_obs, key.seed, key.sample, key.step)
        view = self.view(observation, key)
        state = view.keep(state)
        x_t = view.image(state)
        net_input = edm.c_in(edm.per_sample(sigma, x_t), denoiser.sigma_data) * x_t
        net_input = edm.laid_out(net_input, denoiser.input_dtype, denoiser.channels_last)
        return Noised(sigma, state, x_t, net_input, view)

    def error(self, denoiser: Denoiser, F: Tensor, noised: Noised, observation: Observation) -> Tensor:
        y, operator, sigma_obs = observation
        AD = operator.apply(noised.denoise(denoiser, F))
        error = AD - y
        if isinstance(sigma_obs, Tensor) or sigma_obs > 0:
            share = (edm.per_sample(sigma_obs, y) / edm.per_sample(noised.sigma, y)) ** 2
            error = error + share * (noised.state - noised.view.keep(AD))
        return self.weigh(denoiser, noised, error)

    def weigh_image(self, denoiser: Denoiser, noised: Noised, error: Tensor) -> Tensor:
        """In the images' space what is seen cannot be told from what is hidden."""
        whole = squared(error)
        return denoiser.hidden.weigh(0 * whole, whole, noised.sigma, denoiser.sigma_data)

    def estimate(self, D: Tensor, operator: BatchOperator) -> Tensor:
        return operator.apply(D)
