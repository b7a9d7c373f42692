"""The centred orthonormal Fourier transform of images, and complex images as pairs of real channels."""

import torch
from torch import Tensor


def fft2c(x: Tensor) -> Tensor:
    """Centred orthonormal Fourier transform over the last two axes of complex x."""
    return torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(x, dim=(-2, -1)), norm="ortho"), dim=(-2, -1))


def ifft2c(k: Tensor) -> Tensor:
    """Its inverse, which is its adjoint."""
    return torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(k, dim=(-2, -1)), norm="ortho"), dim=(-2, -1))


def to_complex(x: Tensor) -> Tensor:
    """[B, 2n, H, W] of real and imaginary parts -> complex [B, n, H, W]; [B, 1, H, W] are real images."""
    if x.shape[1] == 1:
        return torch.complex(x, torch.zeros_like(x))
    parts = x.reshape(x.shape[0], -1, 2, *x.shape[2:])
    return torch.complex(parts[:, :, 0], parts[:, :, 1])


def to_channels(z: Tensor, channels: int | None = None) -> Tensor:
    """The inverse of `to_complex`; the real part where channels is 1."""
    return z.real if channels == 1 else torch.stack([z.real, z.imag], 2).flatten(1, 2)
