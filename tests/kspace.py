"""k-space of noise, for tests."""

import numpy as np


def random_kspace(*shape: int, seed: int = 0) -> np.ndarray:
    """complex64, a fastMRI file's small amplitudes."""
    rng = np.random.default_rng(seed)
    return (1e-4 * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape))).astype(np.complex64)


def channels(kspace: np.ndarray) -> np.ndarray:
    """[N, coils, H, W] complex -> [N, 2 coils, H, W], coil by coil."""
    return np.stack([kspace.real, kspace.imag], 2).reshape(len(kspace), -1, *kspace.shape[2:])
