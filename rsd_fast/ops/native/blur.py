from typing import Any

import torch
from torch import Tensor

from .. import edm
from .._library import implement
from .launch import image_size, launch


@implement("blur", "native")
def blur(x: Tensor, kernel: Tensor) -> Tensor:
    return _blur("blur", x, kernel)


@implement("blur_adjoint", "native")
def blur_adjoint(y: Tensor, kernel: Tensor) -> Tensor:
    return _blur("blur_adjoint", y, kernel)


def _blur(op: str, x: Tensor, kernel: Tensor) -> Tensor:
    x = edm.laid_out(x, x.dtype, edm.is_channels_last(x))
    out = torch.empty_like(x)
    launch(op, x.device, x=x, out=out, **image_size(x), **taps(kernel))
    return out


def taps(kernel: Tensor) -> dict[str, Any]:
    """The fields of a blur's kernel, [n] or [n, m]."""
    rows, columns = kernel.shape[0], kernel.shape[-1]
    separable = kernel.ndim == 1
    return {"kernel": kernel.contiguous(), "kernel_rows": rows, "kernel_columns": columns, "separable": separable}
