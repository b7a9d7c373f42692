"""Coil sensitivity maps: simulated, estimated, and kept."""

from pathlib import Path

import numpy as np
import pytest

from rsd_fast.corruptions.birdcage import birdcage
from rsd_fast.data import DataError
from rsd_fast.data.coils import cache_folder, cached_maps, estimate_maps
from tests.kspace import channels, random_kspace


@pytest.mark.parametrize(("coils", "height", "width"), [(1, 5, 4), (2, 8, 8), (4, 64, 48), (15, 33, 20)])
def test_birdcage(coils, height, width):
    maps = birdcage(coils, height, width)
    assert maps.shape == (coils, height, width) and maps.dtype == np.complex64
    np.testing.assert_allclose((np.abs(maps) ** 2).sum(0), 1, atol=1e-6)
    np.testing.assert_array_equal(maps, birdcage(coils, height, width))
    if coils == 1:
        np.testing.assert_array_equal(maps, 1)


def test_birdcage_coils_see_their_own_side_and_turn_into_each_other():
    maps = birdcage(4, 16, 16)
    right, bottom = np.abs(maps[0]), np.abs(maps[1])
    assert (np.diff(right[8]) > 0).all() and (np.diff(bottom[:, 8]) > 0).all()
    np.testing.assert_allclose(np.abs(maps[1]), np.rot90(right, 3), atol=1e-6)
    with pytest.raises(ValueError, match="coils"):
        birdcage(0, 4, 4)


def phantom(coils: int, height: int, width: int, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(k-space [coils, H, W], maps, where the object is): ellipses of a smooth phase, seen by a birdcage."""
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    inside = (x / 0.75) ** 2 + (y / 0.85) ** 2 < 1
    image = inside + 0.5 * (((x - 0.2) / 0.3) ** 2 + ((y + 0.1) / 0.2) ** 2 < 1)
    maps = birdcage(coils, height, width)
    seen = np.fft.ifftshift(image * np.exp(1j * (x + 0.5 * y)) * maps, axes=(1, 2))
    kspace = np.fft.fftshift(np.fft.fft2(seen, norm="ortho"), axes=(1, 2))
    rng = np.random.default_rng(0)
    kspace += noise * (rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape))
    return kspace.astype(np.complex64), maps, inside


@pytest.mark.parametrize(("size", "acs_lines"), [((64, 64), 20), ((63, 48), 21), ((50, 65), 20)])
def test_estimated_maps_are_the_true_ones_but_for_a_phase(size, acs_lines):
    pytest.importorskip("sigpy", reason="needs sigpy")
    kspace, true, inside = phantom(4, *size, noise=0.02)
    start = (size[1] - acs_lines + 1) // 2
    kspace[:, :, : start - 1] = 0  # only the middle is needed
    kspace[:, :, start + acs_lines :: 3] = 0
    maps = estimate_maps(kspace[None], acs_lines)
    assert maps.shape == (1, *true.shape) and maps.dtype == np.complex64
    np.testing.assert_allclose((np.abs(maps) ** 2).sum(1), 1, atol=1e-5)  # outside the object, too
    product = (maps[0].conj() * true).sum(0)
    assert np.abs(product)[inside].min() > 0.95
    # That phase is smooth.
    phase = product / np.abs(product)
    steps = np.abs(np.diff(phase, axis=1))[inside[:, 1:] & inside[:, :-1]]
    assert steps.max() < 0.3
    np.testing.assert_array_equal(estimate_maps(channels(kspace[None]), acs_lines), maps)


def test_a_dead_coil_and_a_single_one():
    pytest.importorskip("sigpy", reason="needs sigpy")
    kspace, _, inside = phantom(4, 32, 32)
    kspace[0] = 0
    maps = estimate_maps(kspace[None], 16)[0]
    np.testing.assert_allclose((np.abs(maps) ** 2).sum(0), 1, atol=1e-5)
    assert np.abs(maps[0])[inside].max() < 1e-3
    np.testing.assert_array_equal(estimate_maps(kspace[None, :1], 16), np.ones((1, 1, 32, 32)))


def test_estimation_refuses_what_it_cannot_use():
    kspace = random_kspace(2, 2, 32, 32)
    kspace[1, :, :, 12] = 0
    with pytest.raises(DataError, match=r"slice 1.*middle 8 columns"):
        estimate_maps(kspace, 8)
    for acs_lines in (7, 33):
        with pytest.raises(ValueError, match=f"acs_lines: 8 to 32.*not {acs_lines}"):
            estimate_maps(kspace, acs_lines)
    with pytest.raises(ValueError, match="kspace: complex64"):
        estimate_maps(kspace[0], 8)
    with pytest.raises(ValueError, match="kspace: complex64"):
        estimate_maps(kspace.real[:, :1].copy(), 8)


@pytest.fixture
def no_sigpy(monkeypatch):
    """A call after which ESPIRiT fails."""
    app = pytest.importorskip("sigpy.mri.app", reason="needs sigpy")

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("ESPIRiT was called")

    return lambda: monkeypatch.setattr(app, "EspiritCalib", refuse)


def test_kept_maps_are_read_and_not_estimated(tmp_path, monkeypatch, no_sigpy):
    monkeypatch.setenv("RSD_FAST_CACHE", str(tmp_path / "cache"))
    kspace = np.stack([phantom(2, 24, 20, noise)[0] for noise in (0.01, 0.02, 0.03)])
    maps = cached_maps(kspace, 12)
    np.testing.assert_array_equal(maps, estimate_maps(kspace, 12))
    assert len(list((tmp_path / "cache" / "coil-maps").iterdir())) == 3
    no_sigpy()
    np.testing.assert_array_equal(cached_maps(kspace, 12), maps)
    outside = kspace.copy()
    outside[:, :, :, 0] = 1  # not in the calibration region
    np.testing.assert_array_equal(cached_maps(channels(outside[::-1]), 12), maps[::-1])
    for other, acs_lines in [(2 * kspace, 12), (kspace, 10), (kspace[:, :, 2:-2], 12)]:
        with pytest.raises(AssertionError, match="ESPIRiT was called"):
            cached_maps(other, acs_lines)


def test_damaged_maps_are_estimated_again(tmp_path, no_sigpy):
    kspace = phantom(2, 24, 20)[0][None]
    maps = cached_maps(kspace, 12, tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for damaged in (b"", b"junk", b"PK\x03\x04", whole[:-1], whole[:-8] + b"\xff" * 8, whole.replace(b"<c8", b"<f8")):
        file.write_bytes(damaged)
        np.testing.assert_array_equal(cached_maps(kspace, 12, tmp_path), maps)
        assert file.read_bytes() == whole
    no_sigpy()
    np.testing.assert_array_equal(cached_maps(kspace, 12, tmp_path), maps)


def test_a_cache_that_cannot_be_written_is_one_warning(tmp_path):
    pytest.importorskip("sigpy", reason="needs sigpy")
    (tmp_path / "file").write_text("")
    kspace = phantom(2, 24, 20)[0][None].repeat(2, 0)
    with pytest.warns(UserWarning, match="file/cache: coil maps cannot be kept there") as caught:
        maps = cached_maps(kspace, 12, tmp_path / "file" / "cache")
    assert len(caught) == 1 and caught[0].filename == __file__
    np.testing.assert_array_equal(maps, estimate_maps(kspace, 12))


def test_place_of_the_cache(monkeypatch):
    monkeypatch.setenv("RSD_FAST_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_folder() == Path("/a")
    monkeypatch.delenv("RSD_FAST_CACHE")
    assert cache_folder() == Path("/b/rsd-fast")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/c")
    assert cache_folder() == Path("/c/.cache/rsd-fast")
