"""Magnetic resonance imaging: undersampled k-space of one or several coils.

    A x = P F S x,      A* k = sum over coils of conj(S) F^-1 P k

with the coils' sensitivity maps S (1 for a single coil), the centred orthonormal Fourier transform F, and a Cartesian
mask P of columns, phase-encode lines, that always has the central ones ("auto-calibration signal", ACS). An image has
two channels, its real and imaginary part, or one if it is real; k-space has two for every coil, (coil 0 real, coil 0
imaginary, coil 1 real, ...), and is 0 where it is not sampled.
"""

from dataclasses import replace
from functools import lru_cache
from typing import cast

import numpy as np
import torch
from torch import Tensor

from rsd_fast import ops
from rsd_fast.ops.fft import fft2c, ifft2c, to_channels, to_complex

from .base import Corruption, DrawnCorruption, register
from .birdcage import birdcage
from .parameters import Bank, Draw, Measured
from .view import View


@register("fourier")
class Fourier(DrawnCorruption):
    """k-space with one column in `acceleration` sampled on average, the central `acs_lines` always.

    pattern: "random", each other column by itself with one probability; "equispaced", others at equal distances from a
    random first one. coils: 1, or the number of simulated coils on a ring around the image (`birdcage`); data bring
    their own maps. real: images are real, of one channel. Raises ValueError out of range.
    """

    about = "undersampled k-space (MRI), of one or several coils; pattern=random or equispaced; real=1: real images"
    example = "fourier:acceleration=4,acs_lines=20"
    random = True
    objective = "fourier"
    measures_kspace = True
    unit = "column of k-space"

    def __init__(
        self,
        *,
        acceleration: float = 4.0,
        acs_lines: int = 20,
        pattern: str = "random",
        coils: int = 1,
        real: bool = False,
    ) -> None:
        if not 1 <= acceleration < float("inf"):
            raise ValueError(f"acceleration expects at least 1, got {acceleration}")
        if acs_lines < 1:
            raise ValueError(f"acs_lines expects at least 1, got {acs_lines}")
        if pattern not in ("random", "equispaced"):
            raise ValueError(f"pattern expects random or equispaced, got '{pattern}'")
        if not 1 <= coils <= 64:
            raise ValueError(f"coils expects 1 to 64, got {coils}")
        self.acceleration, self.acs_lines, self.pattern = acceleration, acs_lines, pattern
        self.coils, self.real = coils, real
        digits = repr(float(acceleration)).removesuffix(".0")
        self.spec = (
            f"{self.name}:acceleration={digits},acs_lines={acs_lines},pattern={pattern},coils={coils},real={int(real)}"
        )

    @property
    def channels(self) -> int:
        """The number of channels of an image."""
        return 1 if self.real else 2

    @property
    def is_projection(self) -> bool:
        """It is one only for a single coil and complex images: of a real image a column shows half where its mirror
        image is not sampled."""
        return self.coils == 1 and not self.real

    def observation_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        channels, height, width = image_shape
        if channels != self.channels:
            what = "real images of 1 channel" if self.real else "complex images of 2 channels, real and imaginary part"
            hint = "; real=1 takes real images" if channels == 1 else ""
            raise ValueError(f"corruption '{self.name}': expects {what}, got {channels}{hint}")
        if self.acs_lines > width / self.acceleration:
            raise ValueError(
                f"corruption '{self.name}': acs_lines {self.acs_lines} are more than the {width / self.acceleration:g} "
                f"of {width} columns that acceleration {self.acceleration:g} samples"
            )
        return 2 * self.coils, height, width

    def image_shape(self, observation_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        _, height, width = observation_shape
        return self.channels, height, width

    def bound_to(self, measured: Measured) -> Corruption:
        if measured.kspace_coils is None:
            if not measured.clean:
                raise ValueError(f"images, but observations of '{self}' are k-space, of an .h5 file")
            return super().bound_to(measured)
        if measured.kspace_coils > 1 and measured.maps is None:
            measured = replace(measured, maps=self.estimated_maps(measured))
        return super().bound_to(replace(measured, mask=None) if measured.clean else measured)

    def estimated_maps(self, measured: Measured) -> np.ndarray:
        """Coil maps of the data, from their central columns. Raises ValueError."""
        if self.real:
            raise ValueError("maps can be estimated but for a phase, which makes real images complex; real=0")
        if self.coils not in (1, measured.kspace_coils):
            raise ValueError(f"k-space of {measured.kspace_coils} coils, but '{self}' says another number")
        return measured.estimate_maps(self.acs_lines)

    def same_as(self, other: Corruption) -> bool:
        """Is it the same operator, except for the number of coils, which the data may bring?"""
        return super().same_as(other) or (isinstance(other, Fourier) and self.with_coils(other.coils) == other.spec)

    def with_coils(self, coils: int) -> str:
        """The SPEC for data of so many coils, where this one says nothing of theirs."""
        return self.spec.replace("coils=1,", f"coils={coils},")

    def why_unlearnable(self, image_shape: tuple[int, int, int], sigma_obs: float) -> str | None:
        if self.coils > 1:
            return None
        width = image_shape[2]
        if self.acs_lines < width and self.acs_lines >= width / self.acceleration:
            return (
                f"acs_lines {self.acs_lines} are all that acceleration {self.acceleration:g} samples of {width} "
                "columns, so that nothing shows what is in the others"
            )
        if self.pattern == "equispaced":
            return (
                "what lies between equispaced columns is never observed together with them, so that a single coil "
                "gives no way to learn it; use pattern=random, or several coils"
            )
        return None

    def bound(self, bank: Bank) -> "Fourier":
        if bank.mask is not None and bank.mask.shape[1:3] != (1, 1):
            raise ValueError(f"corruption '{self.name}': the data holds masks of pixels, not of k-space's columns")
        coils = self.coils if bank.maps is None else bank.maps.shape[1]
        if self.coils not in (1, coils):
            raise ValueError(f"corruption '{self.name}': coils {self.coils}, but the data's maps are of {coils}")
        copied = cast(Fourier, super().bound(bank))
        copied.coils = coils
        copied.spec = self.with_coils(coils)
        return copied

    def generate(self, image_shape: tuple[int, int, int], index: Tensor, seed: int) -> Draw:
        _, height, width = image_shape
        sampled = width / self.acceleration
        others = width - self.acs_lines
        if self.pattern == "random":
            u = ops.uniform((len(index), width), seed, index, 0, ops.Stream.OBSERVATION_MASK)
            mask = u * others < sampled - self.acs_lines
        else:
            u = ops.uniform((len(index), 1), seed, index, 0, ops.Stream.OBSERVATION_MASK)
            distance = others / (sampled - self.acs_lines) if sampled > self.acs_lines else float("inf")
            # Columns in which a point (u + j) distance lies, j = 0, 1, ...
            column = torch.arange(width + 1, device=u.device) / distance - u
            mask = column[:, 1:].floor() > column[:, :-1].floor()
        mask = mask | self._acs(width, index.device)
        maps = None if self.coils == 1 else _birdcage(self.coils, height, width, index.device)
        return Draw(mask=mask[:, None, None].to(torch.uint8), maps=maps)

    def _acs(self, width: int, device: torch.device) -> Tensor:
        """[W] bool: the central columns."""
        offset = torch.arange(width, device=device) - (width - self.acs_lines + 1) // 2
        return (offset >= 0) & (offset < self.acs_lines)

    def further(self, draw: Draw, delta: float, *, seed: int, sample: Tensor, step: int | Tensor) -> Draw:
        """P~: each sampled column but the central ones is gone with probability delta."""
        u = ops.uniform(draw.mask.shape, seed, sample, step, ops.Stream.FURTHER_MASK)
        stays = (u >= delta) | self._acs(draw.mask.shape[-1], u.device)
        return Draw(mask=draw.mask * stays, maps=draw.maps)

    def apply(self, x: Tensor, draw: Draw) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        z = to_complex(x)
        if draw.maps is not None:
            z = z * draw.maps.to(z.dtype)
        return to_channels(fft2c(z)).masked_fill(draw.mask == 0, 0)

    def transpose(self, y: Tensor, draw: Draw) -> Tensor:
        y = y.to(torch.promote_types(y.dtype, torch.float32))
        z = ifft2c(to_complex(y.masked_fill(draw.mask == 0, 0)))
        if draw.maps is not None:
            z = (z * draw.maps.to(z.dtype).conj()).sum(1, keepdim=True)
        return to_channels(z, self.channels)

    def view(self, draw: Draw, image_shape: tuple[int, int, int]) -> "FourierView":
        return FourierView(self, draw, image_shape)

    def picture(self, y: Tensor, draw: Draw | None) -> Tensor:
        """A* y, the zero-filled reconstruction."""
        assert draw is not None
        return self.transpose(y, draw)


class FourierView(View):
    """Columns of k-space: the state is k-space, the image A~* s, and the condition P~ spread over the image plane."""

    def __init__(self, operator: Fourier, draw: Draw, image_shape: tuple[int, int, int]) -> None:
        self.operator, self.draw, self.kept = operator, draw, draw.mask
        self.condition = draw.mask.expand(-1, image_shape[0], image_shape[1], -1)

    def measure(self, x: Tensor) -> Tensor:
        return self.operator.apply(x, self.draw)

    def image(self, state: Tensor) -> Tensor:
        return self.operator.transpose(state, self.draw)

    def keep(self, state: Tensor) -> Tensor:
        return state.masked_fill(self.draw.mask == 0, 0)


@lru_cache(maxsize=4)
def _birdcage(coils: int, height: int, width: int, device: torch.device) -> Tensor:
    return torch.from_numpy(birdcage(coils, height, width))[None].to(device)
