"""EDM preconditioning (Karras et al. 2022, arXiv 2206.00364, table 1).

    c_skip = sd^2 / (sigma^2 + sd^2)        c_out   = sigma sd / sqrt(sigma^2 + sd^2)
    c_in   = 1 / sqrt(sigma^2 + sd^2)       c_noise = ln(sigma) / 4
    weight = (sigma^2 + sd^2) / (sigma sd)^2

Each takes sigma of any shape, in its dtype, and returns that shape; sd is sigma_data.
"""

import math
import numbers

import torch
from torch import Tensor


def c_skip(sigma: Tensor, sigma_data: float) -> Tensor:
    return sigma_data**2 / (sigma**2 + sigma_data**2)


def c_out(sigma: Tensor, sigma_data: float) -> Tensor:
    return sigma * sigma_data / (sigma**2 + sigma_data**2).sqrt()


def c_in(sigma: Tensor, sigma_data: float) -> Tensor:
    return 1 / (sigma**2 + sigma_data**2).sqrt()


def c_noise(sigma: Tensor) -> Tensor:
    return sigma.log() / 4


def loss_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64 (so that gradcheck works), float32 for everything shorter."""
    return torch.promote_types(x.dtype, torch.float32)


def levels(value: Tensor | float, x: Tensor, name: str = "sigma") -> Tensor:
    """value [B] or a number as a tensor [B] or [1] in x's accumulation dtype, on its device.

    A tensor is best on that device already: copying it there would wait for a GPU. Raises ValueError for any other
    shape, for a number that is negative or not finite, and where it requires a gradient; TypeError for another type.
    """
    dtype = accumulation_dtype(x)
    if not isinstance(value, Tensor):
        if not isinstance(value, numbers.Real):
            raise TypeError(f"{name}: expected a number or a tensor, got {type(value).__name__}")
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}: expected a finite number of at least 0, got {value}")
        value = torch.full((1,), value, dtype=dtype, device=x.device)  # made there: a copy from the host would wait
    elif value.ndim > 1 or (
        value.ndim == 1 and value.shape[0] == 1 and x.shape[0] != 1
    ):  # other lengths: `check_levels`
        raise ValueError(f"{name}: expected a number or shape [{len(x)}], got {list(value.shape)}")
    if value.is_complex():
        raise TypeError(f"{name}: expected real numbers, got {value.dtype}")
    check_no_gradient(**{name: value})
    if value.dtype != dtype or value.device != x.device:
        value = value.to(x.device, dtype)
    return value if value.ndim == 1 else value.reshape(1)


def per_sample(value: Tensor | float, x: Tensor, name: str = "sigma") -> Tensor:
    """value [B], [1] or a number as [B, 1, ...] (or [1, 1, ...]) like `levels`, to broadcast against x [B, ...]."""
    if isinstance(value, Tensor) and value.shape == (1,):
        value = value[0]
    return levels(value, x, name).reshape(-1, *[1] * (x.ndim - 1))


# Layouts. Kernels walk through memory, so that the tensors of a call share one of two orders: that of a contiguous
# tensor or, with four dimensions, that of channels-last. The first image of an op's arguments decides which.


def is_channels_last(x: Tensor) -> bool:
    """Whether x is channels-last and no contiguous tensor at the same time, as one of a single channel is."""
    return x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def memory_format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def no_output(x: Tensor) -> Tensor:
    """What an op returns for an output that is not asked for."""
    return torch.empty(0, device=x.device)


def laid_out(x: Tensor, dtype: torch.dtype | None, channels_last: bool) -> Tensor:
    """x in that dtype and layout; an empty tensor for None."""
    if dtype is None:
        return no_output(x)
    if x.dtype != dtype:
        x = x.to(dtype)
    kind = memory_format(channels_last)
    return x if x.is_contiguous(memory_format=kind) else x.contiguous(memory_format=kind)


def new_images(x: Tensor, dtype: torch.dtype | None, channels_last: bool) -> Tensor:
    """`laid_out` without the values."""
    if dtype is None:
        return no_output(x)
    return torch.empty_like(x, dtype=dtype, memory_format=memory_format(channels_last))


# Checks: every backend and the fakes run them before anything else.


DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
MOST_ELEMENTS = 2**31 - 2**15  # of a sample: offsets within it are of 32 bits on a GPU, and go a tile beyond its end


def check_tensors(**tensors: object) -> None:
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")


def check_layout(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided:
            raise TypeError(f"{name}: expected a dense tensor, got {tensor.layout}")


def check_size(name: str, image: Tensor) -> None:
    if math.prod(image.shape[1:]) > MOST_ELEMENTS:
        raise ValueError(f"{name}: expected at most {MOST_ELEMENTS} elements a sample, got {list(image.shape)}")


def check_output(dtype: torch.dtype | None, channels_last: bool, x: Tensor) -> None:
    """TypeError or ValueError unless images like x can be made in that dtype and layout."""
    if dtype is not None and dtype not in DTYPES:
        raise TypeError(f"dtype: expected a floating-point dtype of 16 to 64 bits, got {dtype}")
    if channels_last and x.ndim != 4:
        raise ValueError(f"channels_last: expected images [B, C, H, W], got {list(x.shape)}")


def check_images(**images: Tensor) -> None:
    """TypeError or ValueError unless all are floating-point [B, ...] of one shape and device."""
    (first, like), *_ = images.items()
    check_layout(**images)
    for name, image in images.items():
        if image.dtype not in DTYPES:
            raise TypeError(f"{name}: expected a floating-point dtype of 16 to 64 bits, got {image.dtype}")
        check_size(name, image)
        if image.ndim == 0:
            raise ValueError(f"{name}: expected a batch, [B, ...], got a single number")
        if image.shape != like.shape:
            raise ValueError(f"{name}: expected the shape of {first}, {list(like.shape)}, got {list(image.shape)}")
        if image.device != like.device:
            raise ValueError(f"{name}: expected the device of {first}, {like.device}, got {image.device}")


def check_levels(x: Tensor, **values: Tensor) -> None:
    """TypeError or ValueError unless all are [B] or [1] in x's accumulation dtype, on its device."""
    check_layout(**values)
    for name, value in values.items():
        if value.dtype != accumulation_dtype(x):
            raise TypeError(f"{name}: expected {accumulation_dtype(x)}, got {value.dtype}")
        if value.ndim != 1 or (value.shape[0] not in (1, x.shape[0])):
            raise ValueError(f"{name}: expected a number or shape [{len(x)}], got {list(value.shape)}")
        if value.device != x.device:
            raise ValueError(f"{name}: expected the device of the images, {x.device}, got {value.device}")


def check_gradient(grad: Tensor, x: Tensor, name: str = "grad") -> None:
    """TypeError or ValueError unless grad is one number a sample of x."""
    check_layout(**{name: grad})
    if grad.dtype != accumulation_dtype(x):
        raise TypeError(f"{name}: expected {accumulation_dtype(x)}, got {grad.dtype}")
    if grad.shape != x.shape[:1] or grad.device != x.device:
        raise ValueError(f"{name}: expected [{len(x)}] on {x.device}, got {list(grad.shape)} on {grad.device}")


def check_no_gradient(**tensors: Tensor | None) -> None:
    """ValueError where a gradient is asked for that would silently be 0."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"{name}: there is no gradient in it; pass {name}.detach()")


def check_positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name}: expected a finite number above 0, got {value}")


def check_finite(**values: float) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"{name}: expected a finite number, got {value}")


def check_mask(mask: Tensor | None, x: Tensor) -> None:
    """TypeError or ValueError unless the mask, of any real dtype, broadcasts to x's shape without enlarging it."""
    if mask is None:
        return
    check_layout(mask=mask)
    if mask.is_complex() or (mask.is_floating_point() and mask.dtype not in DTYPES):
        raise TypeError(f"mask: expected bool, integers or a floating-point dtype of 16 to 64 bits, got {mask.dtype}")
    if mask.ndim > x.ndim or any(
        m not in (1, n) for m, n in zip(reversed(mask.shape), reversed(x.shape), strict=False)
    ):
        raise ValueError(f"mask: expected a shape that broadcasts to {list(x.shape)}, got {list(mask.shape)}")
    if mask.device != x.device:
        raise ValueError(f"mask: expected the device of the images, {x.device}, got {mask.device}")
