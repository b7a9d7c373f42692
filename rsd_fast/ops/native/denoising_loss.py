from typing import Any

from torch import Tensor

from .. import edm
from .._library import implement
from .launch import images, launch, mask_fields, partial_sums, raw_dtype, returned, size, stride


@implement("denoising_loss", "native")
def denoising_loss(F: Tensor, x_t: Tensor, *arguments: Any) -> Tensor:
    loss = x_t.new_empty(len(x_t), dtype=edm.accumulation_dtype(x_t))
    _launch("denoising_loss", {"loss": loss, "partial": partial_sums(x_t, 1)}, F, x_t, *arguments)
    return loss


@implement("denoising_loss_backward", "native")
def denoising_loss_backward(grad: Tensor, F: Tensor, x_t: Tensor, *arguments: Any) -> Tensor:
    dF = edm.new_images(F, raw_dtype(x_t, F.dtype), edm.is_channels_last(F))
    fields = {"grad": grad, "grad_stride": grad.stride(0), "grad_F": dF}
    _launch("denoising_loss_backward", fields, F, x_t, *arguments)
    return returned(dF, F.dtype, x_t)


def _launch(
    op: str,
    fields: dict[str, Any],
    F: Tensor,
    x_t: Tensor,
    y: Tensor,
    sigma: Tensor,
    sigma_obs: Tensor,
    sigma_data: float,
    mask: Tensor | None,
) -> None:
    channels_last = edm.is_channels_last(F)
    raw = edm.laid_out(F, raw_dtype(x_t, F.dtype), channels_last)
    x_t, y = images(channels_last, x_t, y)
    launch(
        op,
        x_t.device,
        F=raw,
        x_t=x_t,
        y=y,
        sigma=sigma,
        sigma_stride=stride(sigma),
        sigma_obs=sigma_obs,
        sigma_obs_stride=stride(sigma_obs),
        sigma_data=sigma_data,
        mask=mask_fields(mask, x_t, channels_last),
        **size(x_t),
        raw_dtype=raw.dtype,
        dtype=x_t.dtype,
        **fields,
    )
