from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import edm
from .._library import implement
from .launch import images, launch, mask_fields, partial_sums, raw_dtype, returned, size, stride


@implement("score_difference_loss", "native")
def score_difference_loss(
    F_teacher: Tensor, F_fake: Tensor, u_t: Tensor, u: Tensor, *arguments: Any
) -> tuple[Tensor, Tensor]:
    loss = u.new_empty(len(u), dtype=edm.accumulation_dtype(u))
    weight = torch.empty_like(loss)
    outputs = {"loss": loss, "weight": weight, "partial": partial_sums(u, 2)}
    _launch("score_difference_loss", outputs, F_teacher, F_fake, u_t, u, *arguments)
    return loss, weight


@implement("score_difference_loss_backward", "native")
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
    channels_last = edm.is_channels_last(F_teacher)
    raw, dtype = raw_dtype(u, F_teacher.dtype, F_fake.dtype), edm.accumulation_dtype(u)
    names = "grad_F_teacher", "grad_F_fake", "grad_u_t", "grad_u"
    gradients = {
        name: edm.new_images(u, kind, channels_last) if need else None
        for name, kind, need in zip(names, (raw, raw, dtype, dtype), needed, strict=True)
    }
    inputs = F_teacher, F_fake, u_t, u
    fields = {"grad": grad, "grad_stride": grad.stride(0), "weight": weight.contiguous(), **gradients}
    _launch("score_difference_loss_backward", fields, *inputs, sigma, alpha, sigma_data, mask)
    return tuple(returned(g, x.dtype, u) for g, x in zip(gradients.values(), inputs, strict=True))


def _launch(
    op: str,
    fields: dict[str, Any],
    F_teacher: Tensor,
    F_fake: Tensor,
    u_t: Tensor,
    u: Tensor,
    sigma: Tensor,
    alpha: float,
    sigma_data: float,
    mask: Tensor | None,
) -> None:
    channels_last = edm.is_channels_last(F_teacher)
    raw = raw_dtype(u, F_teacher.dtype, F_fake.dtype)
    teacher, fake = (edm.laid_out(F, raw, channels_last) for F in (F_teacher, F_fake))
    u, u_t = images(channels_last, u, u_t)
    launch(
        op,
        u.device,
        F_teacher=teacher,
        F_fake=fake,
        u_t=u_t,
        u=u,
        sigma=sigma,
        sigma_stride=stride(sigma),
        alpha=alpha,
        sigma_data=sigma_data,
        mask=mask_fields(mask, u, channels_last),
        **size(u),
        raw_dtype=raw,
        dtype=u.dtype,
        **fields,
    )
