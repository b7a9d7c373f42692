from collections.abc import Sequence

from torch import Tensor

from .. import edm
from .._library import implement
from .images import laid_out, new, returned


@implement("score_difference_loss", "triton")
def score_difference_loss(
    F_teacher: Tensor,
    F_fake: Tensor,
    u_t: Tensor,
    u: Tensor,
    sigma: Tensor,
    alpha: float,
    sigma_data: float,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    from rsd_fast.kernels import score_difference_loss as kernels

    channels_last = edm.is_channels_last(F_teacher)
    loss, weight = sigma.new_empty(len(u)), sigma.new_empty(len(u))
    images = laid_out(channels_last, F_teacher, F_fake, u_t, u)
    kernels.score_difference_loss(loss, weight, images, sigma, alpha, sigma_data, mask, channels_last)
    return loss, weight


@implement("score_difference_loss_backward", "triton")
def score_difference_loss_backward(
    grad: Tensor,
    weight: Tensor,
    F_teacher: Tensor,
    F_fake: Tensor,
    u_t: Tensor,
    u: Tensor,
    sigma: Tensor,
    alpha: float,
    sigma_data: float,
    mask: Tensor | None,
    needed: Sequence[bool],
) -> tuple[Tensor, ...]:
    from rsd_fast.kernels import score_difference_loss as kernels

    channels_last = edm.is_channels_last(F_teacher)
    images = laid_out(channels_last, F_teacher, F_fake, u_t, u)
    dtypes = (image.dtype if need else None for image, need in zip(images, needed, strict=True))
    gradients = new(images[0], channels_last, *dtypes)
    kernels.score_difference_loss_backward(
        grad, weight, images, sigma, alpha, sigma_data, mask, gradients, channels_last
    )
    return returned(images[0], *gradients)
