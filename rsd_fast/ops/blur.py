"""Depthwise blur with reflect padding, and its exact adjoint.

    (K x)[i] = sum_j k[j] x[reflect(i + j - n//2)],      reflect(-1) = 1, reflect(H) = H - 2

A separable kernel is given by its taps [n], used along height and then width; a dense one as [n, m].
"""

import torch
import torch.nn.functional as nnf
from torch import Tensor


def blur(x: Tensor, kernel: Tensor) -> Tensor:
    """K x, [B, C, H, W] in x's dtype; sums in float32 (float64 for float64).

    kernel: [n] (separable) or [n, m] (dense), odd, at most 2 H - 1 by 2 W - 1. Differentiable in x.
    Raises ValueError on an even kernel or one too large for reflect padding.
    """
    rows, columns = _check(x, kernel)
    height, width = x.shape[2:]
    dtype = torch.promote_types(x.dtype, torch.float32)
    kernel = kernel.to(x.device, dtype)
    padded = nnf.pad(x.to(dtype), (columns // 2, columns // 2, rows // 2, rows // 2), mode="reflect")
    # Sums of shifted slices rather than a convolution: the order of additions, and so the bits of an image, do not
    # depend on the batch it comes in. A permanent observation must be the same however it is batched.
    if kernel.ndim == 2:
        shifts = [padded[:, :, i : i + height, j : j + width] for i in range(rows) for j in range(columns)]
        total = _weighted_sum(shifts, kernel.flatten())
    else:
        down = _weighted_sum([padded.narrow(2, i, height) for i in range(rows)], kernel)
        total = _weighted_sum([down.narrow(3, j, width) for j in range(columns)], kernel)
    return total.to(x.dtype)


def blur_adjoint(y: Tensor, kernel: Tensor) -> Tensor:
    """K^T y, [B, C, H, W]: the exact adjoint, border included. Arguments as for `blur`; differentiable in y."""
    with torch.enable_grad():
        x = torch.zeros_like(y).requires_grad_()
        return torch.autograd.grad(blur(x, kernel), x, y, create_graph=y.requires_grad)[0]


def _weighted_sum(slices: list[Tensor], weights: Tensor) -> Tensor:
    total = weights[0] * slices[0]
    for weight, part in zip(weights[1:], slices[1:], strict=True):
        total = total + weight * part
    return total


def _check(x: Tensor, kernel: Tensor) -> tuple[int, int]:
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"x: expected floating-point [B, C, H, W], got {x.dtype} {list(x.shape)}")
    if kernel.ndim not in (1, 2) or any(n % 2 == 0 for n in kernel.shape):
        raise ValueError(f"kernel: expected [n] or [n, m] with odd n and m, got {list(kernel.shape)}")
    rows, columns = kernel.shape[0], kernel.shape[-1]
    if rows // 2 >= x.shape[2] or columns // 2 >= x.shape[3]:
        raise ValueError(
            f"kernel: {rows}x{columns} taps reach past the border of {x.shape[2]}x{x.shape[3]} images by more than "
            "reflect padding can give; use a smaller size"
        )
    return rows, columns
