import math

import torch
from torch import Tensor

from .._library import implement
from ..observe import Acquisition, mask_shape, new_outputs, normalised, threshold
from ..perturb import Perturbation
from .images import laid_out, new


@implement("observe", "triton")
def observe(images: Tensor, acquisition: Acquisition, channels_last: bool) -> tuple[Tensor | None, ...]:
    return _observe(images, acquisition, channels_last)[:2]


@implement("observe_perturb", "triton")
def observe_perturb(images: Tensor, acquisition: Acquisition, perturbation: Perturbation) -> tuple[Tensor | None, ...]:
    return _observe(images, acquisition, perturbation.options.channels_last, perturbation)


def _observe(
    images: Tensor, acquisition: Acquisition, channels_last: bool, perturbation: Perturbation | None = None
) -> tuple[Tensor | None, ...]:
    """(y, mask, x_t, net_input): the operator where it is more than elementwise, then all the rest in one pass."""
    from rsd_fast.kernels import observe as kernels

    counter, sigma_obs, operator, mask_format = acquisition
    if operator.kind == "blur":
        images = torch.ops.rsd_fast.blur.default(normalised(images), operator.kernel)
    elif operator.kind == "downsample":
        images = torch.ops.rsd_fast.downsample.default(normalised(images), operator.factor)
    (images,) = laid_out(channels_last, images)
    dtypes = (None, None) if perturbation is None else (perturbation.sigma.dtype, perturbation.options.dtype)
    y, x_t, net_input = new(images, channels_last, sigma_obs.dtype, *dtypes)
    mask, rule = images.new_empty(0, dtype=torch.uint8), None
    if operator.kind == "mask":
        rule = threshold(operator.missing), operator.shared
        if mask_format:
            _, mask = new_outputs(images, acquisition, channels_last)
            elements = math.prod(mask_shape(images, operator.shared)[1:])
            kernels.observation_mask(mask, elements, mask_format == "packed", counter.seed, counter.sample, rule[0])
    if images.numel():
        outputs = y, x_t, net_input
        kernels.observe_perturb(images, outputs, sigma_obs, counter, rule, perturbation, channels_last)
    return y, mask, x_t, net_input
