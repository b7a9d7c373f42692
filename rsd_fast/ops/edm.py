"""EDM preconditioning (Karras et al. 2022, arXiv 2206.00364, table 1).

    c_skip = sd^2 / (sigma^2 + sd^2)        c_out   = sigma sd / sqrt(sigma^2 + sd^2)
    c_in   = 1 / sqrt(sigma^2 + sd^2)       c_noise = ln(sigma) / 4
    weight = (sigma^2 + sd^2) / (sigma sd)^2

Each takes sigma of any shape, in its dtype, and returns that shape; sd is sigma_data.
"""

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


def per_sample(value: Tensor | float, x: Tensor, name: str = "sigma") -> Tensor:
    """value [B] or a number as [B, 1, ...] (or [1, 1, ...]) in x's accumulation dtype, to broadcast against x [B, ...].

    Raises ValueError for any other shape.
    """
    dtype = accumulation_dtype(x)
    if not isinstance(value, Tensor):
        value = torch.full((), value, dtype=dtype, device=x.device)  # made there: a copy from the host would wait
    value = value.to(x.device, dtype)
    if value.ndim > 1 or (value.ndim == 1 and len(value) != len(x)):
        raise ValueError(f"{name}: expected a number or shape [{len(x)}], got {list(value.shape)}")
    return value.reshape(-1, *[1] * (x.ndim - 1))


def check_mask(mask: Tensor | None, x: Tensor) -> None:
    """ValueError unless the mask broadcasts to x's shape without enlarging it."""
    if mask is None:
        return
    if mask.ndim > x.ndim or any(
        m not in (1, n) for m, n in zip(reversed(mask.shape), reversed(x.shape), strict=False)
    ):
        raise ValueError(f"mask: expected a shape that broadcasts to {list(x.shape)}, got {list(mask.shape)}")


def check_same_shape(name: str, tensor: Tensor, like_name: str, like: Tensor) -> None:
    if tensor.shape != like.shape:
        raise ValueError(f"{name}: expected the shape of {like_name}, {list(like.shape)}, got {list(tensor.shape)}")
