"""Depthwise blur with reflect padding, and its exact transpose.

    (K x)[i] = sum_j k[j] x[reflect(i + j - r)],      j = 0 .. 2 r,      reflect(-1) = 1,      reflect(H) = H - 2

    (K^T y)[m] = z[m] + (z[-m] where 1 <= m <= r) + (z[2 (H - 1) - m] where H - 1 - r <= m <= H - 2)
    z[q] = sum_j k[2 r - j] y[q + j - r],      y = 0 beyond the border

for each axis of radius r and size H. A separable kernel is given by its taps [n], used along height and then along
width; a dense one as [n, m], summed row by row. Both are linear, so that each is the other's gradient.

Sums of shifted slices rather than a convolution: the order of additions, and so the bits of an image, do not depend on
the batch it comes in. A permanent observation must be the same however it is batched.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from . import _library, edm

MAX_TAPS = 31  # along an axis; csrc/linear.h


def blur(x: Tensor, kernel: Tensor) -> Tensor:
    """K x, [B, C, H, W] in x's dtype, contiguous or, where x is that, channels-last.

    Sums are in float32 (float64 for float64). kernel: [n] (separable) or [n, m] (dense), finite, n and m odd, at most
    31 and at most 2 H - 1 and 2 W - 1. Keep it on the CPU: from a GPU it is fetched, which waits for the GPU.
    Differentiable in x, any number of times. Raises ValueError on images that are not floating-point [B, C, H, W] and
    on any other kernel.
    """
    return torch.ops.rsd_fast.blur.default(x, host_kernel(kernel))


def blur_adjoint(y: Tensor, kernel: Tensor) -> Tensor:
    """K^T y, the exact transpose, border included. Arguments, result and errors as for `blur`."""
    return torch.ops.rsd_fast.blur_adjoint.default(y, host_kernel(kernel))


def blur_reference(x: Tensor, kernel: Tensor) -> Tensor:
    """`blur` in plain PyTorch."""
    _check(x, kernel)
    total = x.to(edm.accumulation_dtype(x))
    for taps in _passes(kernel, total):
        down, across = _radii(taps)
        total = _weighted_sum(nnf.pad(total, (across, across, down, down), mode="reflect"), taps)
    return total.to(x.dtype)


def blur_adjoint_reference(y: Tensor, kernel: Tensor) -> Tensor:
    """`blur_adjoint` in plain PyTorch."""
    _check(y, kernel)
    total = y.to(edm.accumulation_dtype(y))
    for taps in _passes(kernel, total):
        down, across = _radii(taps)
        total = _weighted_sum(nnf.pad(total, (2 * across, 2 * across, 2 * down, 2 * down)), taps.flip(0, 1))
        total = _fold(_fold(total, 2, down), 3, across)
    return total.to(y.dtype)


def _passes(kernel: Tensor, x: Tensor) -> list[Tensor]:
    """The dense kernels [n, m] that are used one after the other; none where there is nothing to blur."""
    kernel = kernel.to(x.device, x.dtype)
    if x.numel() == 0:  # reflect padding refuses it
        return []
    return [kernel] if kernel.ndim == 2 else [kernel[:, None], kernel[None, :]]


def _radii(taps: Tensor) -> tuple[int, int]:
    return taps.shape[0] // 2, taps.shape[1] // 2


def _weighted_sum(padded: Tensor, taps: Tensor) -> Tensor:
    rows, columns = taps.shape
    height, width = padded.shape[2] - rows + 1, padded.shape[3] - columns + 1
    parts = [padded[:, :, i : i + height, j : j + width] for i in range(rows) for j in range(columns)]
    total = taps[0, 0] * parts[0]
    for tap, part in zip(taps.flatten()[1:], parts[1:], strict=True):
        total = total + tap * part
    return total


def _fold(z: Tensor, dim: int, radius: int) -> Tensor:
    """The sums beyond the border, `radius` on either side, added to the pixels that are reflected there."""
    size = z.shape[dim] - 2 * radius
    total = z.narrow(dim, radius, size).clone()
    total.narrow(dim, min(1, size - 1), radius).add_(z.narrow(dim, 0, radius).flip(dim))
    total.narrow(dim, size - 1 - radius, radius).add_(z.narrow(dim, radius + size, radius).flip(dim))
    return total


# Registration: the ops take the kernel as float64 on the CPU.


def host_kernel(kernel: Tensor) -> Tensor:
    """The taps as the ops take them. TypeError where it is no tensor, ValueError where it requires a gradient."""
    edm.check_tensors(kernel=kernel)
    edm.check_no_gradient(kernel=kernel)
    return kernel.to("cpu", torch.float64)


def _check(x: Tensor, kernel: Tensor) -> None:
    edm.check_images(x=x)
    if x.ndim != 4:
        raise ValueError(f"x: expected [B, C, H, W], got {list(x.shape)}")
    check_kernel(kernel, *x.shape[2:])


def check_kernel(kernel: Tensor, height: int, width: int) -> None:
    """ValueError unless images of that size can be blurred by the kernel."""
    if kernel.ndim not in (1, 2) or any(n % 2 == 0 or n > MAX_TAPS for n in kernel.shape):
        raise ValueError(
            f"kernel: expected [n] or [n, m] with odd n and m of at most {MAX_TAPS}, got {list(kernel.shape)}"
        )
    rows, columns = kernel.shape[0], kernel.shape[-1]
    if rows // 2 >= height or columns // 2 >= width:
        raise ValueError(
            f"kernel: {rows}x{columns} taps reach past the border of {height}x{width} images by more than "
            "reflect padding can give; use a smaller size"
        )
    if not isinstance(kernel, FakeTensor) and not kernel.isfinite().all():
        raise ValueError(f"kernel: expected finite numbers, got {kernel.tolist()}")


def check_host_kernel(kernel: Tensor) -> None:
    edm.check_layout(kernel=kernel)
    if kernel.dtype != torch.float64 or kernel.device.type != "cpu":
        raise TypeError(f"kernel: expected float64 on the CPU, got {kernel.dtype} on {kernel.device}")


def _check_op(x: Tensor, kernel: Tensor) -> None:
    check_host_kernel(kernel)
    _check(x, kernel)


def _fake(x: Tensor, kernel: Tensor) -> Tensor:
    return edm.new_images(x, x.dtype, edm.is_channels_last(x))


def _define(op: str, reference: Callable[[Tensor, Tensor], Tensor], transpose: str) -> None:
    def serve(x: Tensor, kernel: Tensor) -> Tensor:
        return edm.laid_out(reference(x, kernel), x.dtype, edm.is_channels_last(x))

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return getattr(torch.ops.rsd_fast, transpose).default(grad, *ctx.saved_tensors), None

    _library.define(op, "(Tensor x, Tensor kernel) -> Tensor", serve, _check_op)
    _library.fake(op)(_fake)
    _library.differentiable(op, backward, setup_context, (0,))


_define("blur", blur_reference, "blur_adjoint")
_define("blur_adjoint", blur_adjoint_reference, "blur")
