"""Simulated coil sensitivities of a birdcage: straight rungs on a cylinder around the field of view.

    S_c(z) = 1 / (z - z_c),    z_c = R exp(2 pi i c / coils),    then divided by sqrt(sum_c |S_c|^2)

The image plane is the complex plane, z = x + iy, its edges at x, y = -1 and 1; rung c is a long wire that crosses it
at z_c (the cage: Hayes et al., J. Magn. Reson. 63, 1985; its rungs received one by one: Roemer et al., Magn. Reson.
Med. 16, 1990). By Biot and Savart, a current in the wire makes a field of magnitude 1 / |z - z_c| at right angles to
z - z_c; by reciprocity (Hoult and Richards, J. Magn. Reson. 24, 1976) the wire receives with the conjugate
B_x - i B_y of it, which is 1 / (z - z_c) up to a constant: it falls with the distance, its phase is minus the angle.
"""

import numpy as np

RING_RADIUS = 1.75  # outside the corners of the field of view, which lie at sqrt(2)


def birdcage(coils: int, height: int, width: int) -> np.ndarray:
    """Maps [coils, height, width] complex64 with sum_c |S_c|^2 = 1 at every pixel; of a single coil, ones."""
    for name, value in {"coils": coils, "height": height, "width": width}.items():
        if value < 1:
            raise ValueError(f"{name}: at least 1 is wanted, not {value}")
    if coils == 1:
        return np.ones((1, height, width), np.complex64)
    x, y = ((2 * np.arange(size) + 1) / size - 1 for size in (width, height))
    pixels = x + 1j * y[:, None]  # [height, width]
    rungs = RING_RADIUS * np.exp(2j * np.pi * np.arange(coils) / coils)
    maps = 1 / (pixels - rungs[:, None, None])
    return (maps / np.sqrt((np.abs(maps) ** 2).sum(0))).astype(np.complex64)
