"""What a denoiser may not see of its images, and how that counts in its preconditioning and in its losses.

Where nothing was observed, D is to make something up whatever sigma is. So it counts as at infinite noise there: c_out
is sigma_data and the weight of the loss 1 / sigma_data^2, the limits for infinite sigma. With c_out of sigma, which
goes to 0 with it, F would have to grow as 1 / sigma; and the weight of sigma, 250,000 at .002, would drown all else.
"""

import abc

import torch
from torch import Tensor

from rsd_fast import ops
from rsd_fast.ops import edm, fft
from rsd_fast.registry import Registry

INFINITE = 1e4  # in units of sigma_data: c_skip below 1e-7, c_out and weight as in the limit, squares within float32


class Hidden(abc.ABC):
    """A way of not seeing all of an image."""

    predicts_condition = False  # has F outputs for the condition, too, which do not count?

    def condition(self, condition: Tensor, c_in: Tensor) -> Tensor:
        """The condition as an input of F; c_in: the factor of the image."""
        return condition

    @abc.abstractmethod
    def denoise(self, F: Tensor, x: Tensor, sigma: Tensor, condition: Tensor, sigma_data: float) -> Tensor:
        """D(x, sigma) of F's output; condition: 1 where something was observed."""

    def weigh(self, seen: Tensor, whole: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
        """Weigh squared errors [B] at levels sigma [B]: `seen` is that of what is seen, `whole` is that of all."""
        return edm.loss_weight(sigma, sigma_data) * seen + (whole - seen) / sigma_data**2

    def level(self, sigma: Tensor, sigma_data: float) -> Tensor | float:
        """The noise level that what is hidden counts as, where that of what is seen is sigma [B]."""
        return INFINITE * sigma_data


class HiddenPixels(Hidden):
    """Pixels, each by itself."""

    def denoise(self, F: Tensor, x: Tensor, sigma: Tensor, condition: Tensor, sigma_data: float) -> Tensor:
        F = F.to(edm.accumulation_dtype(F))
        return torch.where(condition > 0, ops.denoise(F, x, sigma, sigma_data), sigma_data * F)


class HiddenColumns(Hidden):
    """Parts of k-space, in which A* A is a projection, which does not touch the others."""

    def denoise(self, F: Tensor, x: Tensor, sigma: Tensor, condition: Tensor, sigma_data: float) -> Tensor:
        F = F.to(edm.accumulation_dtype(F))
        seen = fft.to_channels(fft.ifft2c(fft.fft2c(fft.to_complex(F)) * condition[:, :1]), F.shape[1])
        return ops.denoise(seen, x, sigma, sigma_data) + sigma_data * (F - seen)


class HiddenAll(Hidden):
    """Something of everything: A* A mixes what was observed with what was not, so that all counts as hidden."""

    def denoise(self, F: Tensor, x: Tensor, sigma: Tensor, condition: Tensor, sigma_data: float) -> Tensor:
        F = F.to(edm.accumulation_dtype(F))
        return edm.c_skip(edm.per_sample(sigma, x), sigma_data) * x + sigma_data * F

    def weigh(self, seen: Tensor, whole: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
        return whole / sigma_data**2


class AsSeen(Hidden):
    """What is hidden counts as what is seen: ambient diffusion's own preconditioning, for its published networks. Image
    and condition are preconditioned alike, and F has outputs for both, of which the image's count."""

    predicts_condition = True

    def condition(self, condition: Tensor, c_in: Tensor) -> Tensor:
        return condition * c_in

    def denoise(self, F: Tensor, x: Tensor, sigma: Tensor, condition: Tensor, sigma_data: float) -> Tensor:
        return ops.denoise(F, x, sigma, sigma_data)

    def weigh(self, seen: Tensor, whole: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
        return edm.loss_weight(sigma, sigma_data) * whole

    def level(self, sigma: Tensor, sigma_data: float) -> Tensor | float:
        return sigma


HIDDEN: Registry[Hidden] = Registry("hidden", "kind of what is hidden")
for _name, _hidden in {
    "pixels": HiddenPixels(),
    "columns": HiddenColumns(),
    "all": HiddenAll(),
    "sigma": AsSeen(),
}.items():
    HIDDEN.add(_name, _hidden)
