"""Coil sensitivity maps of observed k-space: ESPIRiT (Uecker et al. 2014, as sigpy has it), estimated once and kept.

Maps have sum_c |S_c|^2 = 1 at every pixel. ESPIRiT programs often crop them to 0 where no object is; then A = P F S
would not see those pixels, A^H A would be 0 there, and nothing would ever teach a model that they are dark. Uncropped,
A^H A is the identity for full sampling, and the little that was measured in the air says what it says everywhere else.

The phase of a map is free, a factor per pixel that the image takes up: a smooth one makes smooth images. The reference
here is the principal virtual coil, the unitary mix of coils that holds most of the energy; sigpy's, the first coil,
is blind to most of the object where that coil is small or far away.
"""

import hashlib
import os
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rsd_fast.files import atomic_file

from . import storage
from .errors import DataError, first_line, missing_package, optional_package

_ACS_LINES_MIN = 8  # a kernel of sigpy's 6 by 6 has 9 places among them
_METHOD = 1  # raised whenever the maps of the same k-space change, so that kept ones are not taken for them
_PURPOSE = "estimating coil maps"


def estimate_maps(kspace: np.ndarray, acs_lines: int, *, progress: bool = True) -> np.ndarray:
    """Coil maps [N, coils, H, W] complex64, each slice's from its own fully sampled centre; of a single coil, ones.

    kspace:    [N, coils, H, W] complex64, or its parts [N, 2 coils, H, W] float32, coil 0 real, coil 0 imaginary, ...;
               the DC sample at (H // 2, W // 2)
    acs_lines: sampled columns in the middle, from (W - acs_lines + 1) // 2, as fastMRI's masks and `Fourier` have them
    progress:  shown on stderr where it takes long

    DataError without sigpy, or where a column in the middle is not sampled; ValueError for impossible `acs_lines`.
    """
    return _every_slice(kspace, acs_lines, progress, _espirit)


def cached_maps(kspace: np.ndarray, acs_lines: int, cache: Path | None = None, *, progress: bool = True) -> np.ndarray:
    """`estimate_maps`, each slice's kept in a file of `cache`, by default under `cache_folder()`, and read next time.

    A file's name is the hash of all that decides its content; one that is damaged is made anew. Processes that
    estimate the same maps at once do the work twice, but no harm. A cache that cannot be written is a warning.
    """
    folder = cache_folder() / "coil-maps" if cache is None else Path(cache)
    unwritable = False

    def maps_of(calibration: np.ndarray, height: int, width: int) -> np.ndarray:
        nonlocal unwritable
        file = folder / f"{_key(calibration, height, width)}.npy"
        maps = _kept(file, (len(calibration), height, width))
        if maps is None:
            maps = _espirit(calibration, height, width)
            try:
                if not unwritable:
                    _keep(file, maps)
            except OSError as error:  # not after an hour's work
                unwritable = True
                reason = error.strerror or first_line(error)
                warnings.warn(f"{folder}: coil maps cannot be kept there ({reason})", stacklevel=4)
        return maps

    return _every_slice(kspace, acs_lines, progress, maps_of)


def cache_folder() -> Path:
    """$RSD_FAST_CACHE, else rsd-fast in $XDG_CACHE_HOME, else in ~/.cache."""
    if own := os.environ.get("RSD_FAST_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rsd-fast"


def _every_slice(
    kspace: np.ndarray, acs_lines: int, progress: bool, maps_of: Callable[[np.ndarray, int, int], np.ndarray]
) -> np.ndarray:
    """[N, coils, H, W]: `maps_of` the calibration region [coils, acs_lines, acs_lines], H and W, of each slice."""
    paired = kspace.dtype == np.float32
    if kspace.ndim != 4 or not (kspace.dtype == np.complex64 or (paired and kspace.shape[1] % 2 == 0)):
        raise ValueError(
            "kspace: complex64 [N, coils, H, W] or float32 [N, 2 coils, H, W] is wanted, "
            f"not {kspace.dtype} {list(kspace.shape)}"
        )
    count, channels, height, width = kspace.shape
    coils = channels // 2 if paired else channels
    if coils == 1:
        return np.ones((count, 1, height, width), np.complex64)
    if not _ACS_LINES_MIN <= acs_lines <= min(height, width):
        raise ValueError(
            f"acs_lines: {_ACS_LINES_MIN} to {min(height, width)} are wanted to estimate the coil maps of "
            f"{height}x{width} k-space, not {acs_lines}"
        )
    top, left = ((size - acs_lines + 1) // 2 for size in (height, width))
    middle = kspace[:, :, top : top + acs_lines, left : left + acs_lines]
    for index, calibration in enumerate(middle):  # all of them before an hour's work
        if not calibration.any((0, 1)).all():
            raise DataError(
                f"slice {index}: the middle {acs_lines} columns of k-space are not all sampled, "
                "and coil maps are estimated from them"
            )
    maps = storage.allocate((count, coils, height, width), np.complex64, "coil maps")
    slices = tqdm(
        range(count),
        desc="coil maps",
        unit="slices",
        delay=2,
        mininterval=0.1 if sys.stderr.isatty() else 30,
        disable=not progress,
        file=sys.stderr,
    )
    for index in slices:
        calibration = middle[index, 0::2] + np.complex64(1j) * middle[index, 1::2] if paired else middle[index]
        maps[index] = maps_of(calibration, height, width)
    return maps


def _espirit(calibration: np.ndarray, height: int, width: int) -> np.ndarray:
    """Maps [coils, height, width] complex64 from a calibration region [coils, n, n]."""
    app = optional_package("sigpy.mri.app", extra="mri", purpose=_PURPOSE)  # takes two seconds
    coils, lines, _ = calibration.shape
    mixing = _principal_first(calibration)  # [virtual coil, coil]
    top, left = height // 2 - lines // 2, width // 2 - lines // 2  # where sigpy takes it from; maps know no shift of it
    kspace = np.zeros((coils, height, width), np.complex64)
    kspace[:, top : top + lines, left : left + lines] = np.tensordot(mixing, calibration, 1)
    with np.errstate(divide="ignore", invalid="ignore"):  # sigpy divides by the magnitude of the reference coil
        maps = app.EspiritCalib(kspace, calib_width=lines, crop=0, show_pbar=False).run()
    maps[:, ~np.isfinite(maps).all(0)] = np.eye(coils)[:, :1]  # where that was 0
    return np.tensordot(mixing.conj().T, maps, 1)


def _principal_first(calibration: np.ndarray) -> np.ndarray:
    """Unitary [coils, coils] complex64 whose first row makes the virtual coil of most energy."""
    samples = calibration.reshape(len(calibration), -1).astype(np.complex128)
    _, vectors = np.linalg.eigh(samples @ samples.conj().T)  # energies ascend
    vectors = vectors[:, ::-1]
    largest = vectors[np.abs(vectors).argmax(0), np.arange(len(vectors))]
    return (vectors * (largest.conj() / np.abs(largest))).conj().T.astype(np.complex64)


def _key(calibration: np.ndarray, height: int, width: int) -> str:
    try:
        sigpy = version("sigpy")
    except PackageNotFoundError as error:
        raise missing_package("sigpy", extra="mri", purpose=_PURPOSE) from error
    settings = f"method {_METHOD}, sigpy {sigpy}, {calibration.shape} of {height}x{width}"
    return hashlib.sha256(settings.encode() + calibration.tobytes()).hexdigest()[:32]


def _kept(file: Path, shape: tuple[int, int, int]) -> np.ndarray | None:
    """The maps in `file`, None where they are not there or are not maps."""
    try:
        with file.open("rb") as stream:
            maps = np.lib.format.read_array(stream, allow_pickle=False)
    except Exception:  # of a damaged file NumPy raises half a dozen kinds
        return None
    if maps.shape != shape or maps.dtype != np.complex64:
        return None
    return maps if (np.abs((np.abs(maps) ** 2).sum(0) - 1) < 1e-3).all() else None


def _keep(file: Path, maps: np.ndarray) -> None:
    with atomic_file(file) as temporary, temporary.open("wb") as stream:
        np.lib.format.write_array(stream, maps, allow_pickle=False)
