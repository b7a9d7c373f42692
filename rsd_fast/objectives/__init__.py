r"""What a teacher minimises, and the fake score of distillation with it: one object serves both.

    standard   weight ||D(y + sigma n, sigma) - y||^2                      (Karras et al. 2022; sigma_obs = 0)
    tweedie    weight ||h - y||^2,  x_t = y + sqrt(sigma^2 - sigma_obs^2) n,  sigma >= sigma_obs,
               h = (1 - r) D(x_t, sigma) + r x_t,  r = sigma_obs^2 / sigma^2    (Daras et al. 2024)
    ambient    weight' ||M (h - y)||^2,  D seeing only M~ x_t and M~             (Daras et al. 2023)
    fourier    weight' ||h - k||^2 on what P samples,  D seeing only A~* s and P~,  s = P~ (k + sqrt(..) n)

At sigma_obs = 0 the second is the first, so one formula computes both; the name states what is expected of the data.

In the last two, M~ and P~ (`BatchOperator.further`) leave less than was observed, afresh at every step, so that the
denoiser must predict what it does not see. h is the estimate of what was observed, noise included: where the
denoiser sees it, h = (1 - r) A D + r s, and elsewhere A D. weight' is weight(sigma) where the denoiser sees, and its
limit for infinite sigma, 1 / sigma_data^2, elsewhere (`networks.hidden`). In both the expected loss is least for
D = E[x | what is seen], whatever the coils' maps and sigma_obs: what is sampled depends on the image in no way but
through what is seen. For a single coil ||A D - k|| is ||A* A (D - A* k)||, as published; for several that expression,
which applies A* A to A* k once more, has another minimum.
"""

from .base import NO_LABELS, Labels, Noised, Objective, WholeImages, create, squared
from .masked import Masked
from .measured import MeasuredSpace
from .resolve import resolve

__all__ = [
    "NO_LABELS",
    "Labels",
    "Masked",
    "MeasuredSpace",
    "Noised",
    "Objective",
    "WholeImages",
    "create",
    "resolve",
    "squared",
]
