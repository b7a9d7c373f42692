"""fastMRI's HDF5 files in and out."""

import os
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from rsd_fast import corruptions
from rsd_fast.corruptions.birdcage import birdcage
from rsd_fast.data import DataError, ImageArray, ObservedDataset, write_h5
from rsd_fast.data.coils import estimate_maps
from rsd_fast.data.readers.fastmri import read_h5
from tests.kspace import channels, random_kspace

h5py = pytest.importorskip("h5py", reason="needs h5py")


def save(path: Path, **values: object) -> Path:
    """An HDF5 file of these datasets; a number or a string becomes an attribute."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as h5:
        for name, value in values.items():
            if isinstance(value, np.ndarray):
                h5[name] = value
            else:
                h5.attrs[name] = value
    return path


def random_mask(count: int, width: int) -> np.ndarray:
    mask = np.random.default_rng(1).integers(0, 2, (count, 1, 1, width), dtype=np.uint8)
    mask[..., width // 2] = 1
    return mask


def assert_refused(path: Path, *needles: object) -> None:
    """`path` raises DataError: one line that holds every needle."""
    with pytest.raises(DataError) as caught:
        read_h5(path)
    message = str(caught.value)
    assert "\n" not in message
    for needle in needles:
        assert str(needle) in message, message


def inverse_fourier(kspace: np.ndarray) -> np.ndarray:
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=axes), norm="ortho"), axes=axes)


# Round trip


@pytest.mark.parametrize("coils", [1, 3])
@pytest.mark.parametrize("shared", [True, False])
def test_what_is_written_is_read_bit_for_bit(tmp_path, coils, shared):
    mask = random_mask(5, 7)
    if shared:
        mask[:] = mask[0]
    maps = birdcage(coils, 6, 7)[None] if shared else random_kspace(5, coils, 6, 7, seed=2)
    kspace = channels(random_kspace(5, coils, 6, 7)) * mask
    rss = np.random.default_rng(3).random((5, 4, 4), np.float32)
    batches = (torch.from_numpy(kspace[i : i + 2]).to(memory_format=torch.channels_last) for i in range(0, 5, 2))
    write_h5(tmp_path / "x.h5", batches, count=5, mask=mask, maps=maps, reconstruction_rss=rss)
    assert os.listdir(tmp_path) == ["x.h5"]
    with h5py.File(tmp_path / "x.h5") as h5:  # as fastMRI has it
        assert h5["kspace"].dtype == np.complex64
        assert h5["kspace"].shape == ((5, 6, 7) if coils == 1 else (5, coils, 6, 7))
        assert h5["mask"].shape == ((7,) if shared else (5, 7))
        assert h5["sensitivity_maps"].shape == maps.shape[shared:]
        assert dict(h5.attrs) == {"rsd_fast_scale": 1.0, "acquisition": "simulated", "max": rss.max()}

    read = read_h5(tmp_path / "x.h5")
    assert len(read) == 5 and read.coils == coils
    for array, expected in [
        (read.kspace, kspace),
        (read.mask, mask),
        (read.maps, maps),
        (read.reconstruction, rss),
    ]:
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)

    write_h5(tmp_path / "y.h5", read.kspace, count=5, mask=read.mask, maps=read.maps, reconstruction_rss=rss)
    assert (tmp_path / "y.h5").read_bytes() == (tmp_path / "x.h5").read_bytes()


def test_written_kspace_is_zero_where_the_mask_is(tmp_path):
    kspace = np.full((1, 2, 3, 4), np.nan, np.float32)
    kspace[..., 2] = 1
    mask = np.array([0, 0, 1, 0], np.uint8).reshape(1, 1, 1, 4)
    write_h5(tmp_path / "x.h5", kspace, count=1, mask=mask)
    with h5py.File(tmp_path / "x.h5") as h5:
        np.testing.assert_array_equal(h5["kspace"][0], np.array([[0, 0, 1 + 1j, 0]] * 3))
        assert h5.attrs["max"] == 1 and "sensitivity_maps" not in h5
    read = read_h5(tmp_path / "x.h5")
    assert read.maps is None and read.reconstruction is None


def test_writing_holds_one_batch(tmp_path):
    batch = np.ones((1, 8, 64, 64), np.float32)
    tracemalloc.start()
    write_h5(tmp_path / "x.h5", (batch for _ in range(100)), count=100, mask=np.ones((100, 1, 1, 64), np.uint8))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "x.h5").stat().st_size > 100 * batch.nbytes > 10 * peak


@pytest.mark.parametrize(
    ("change", "needle"),
    [
        ({"kspace": np.ones((1, 2, 4, 4), np.float32)}, "1 slices came, 2 were announced"),
        ({"kspace": np.ones((3, 2, 4, 4), np.float32)}, "more slices than the 2"),
        ({"kspace": [np.ones((2, 2, 4, 4), np.float32)] * 2}, "more slices than the 2"),
        ({"kspace": [np.ones((1, c, 4, 4), np.float32) for c in (2, 4)]}, "a batch of slices [2, 4, 4] after"),
        ({"kspace": []}, "0 slices came"),
        ({"kspace": np.ones((2, 3, 4, 4), np.float32)}, "2 coils"),
        ({"kspace": np.ones((2, 2, 4, 4))}, "float64"),
        ({"kspace": np.ones((2, 2, 4, 5), np.float32)}, "H, 4]"),
        ({"mask": np.ones((1, 1, 1, 4), np.uint8)}, "mask: uint8 [2, 1, 1, W]"),
        ({"mask": np.full((2, 1, 1, 4), 2, np.uint8)}, "0 and 1"),
        ({"mask": np.ones((2, 1, 1, 4), np.float32)}, "float32"),
        ({"maps": np.ones((2, 2, 4, 4), np.complex64)}, "maps: complex64 [2, 1, 4, 4]"),
        ({"maps": np.ones((1, 1, 4, 4))}, "float64"),
        ({"reconstruction_rss": np.ones((3, 4, 4), np.float32)}, "reconstruction_rss: [2, H, W]"),
    ],
)
def test_writer_refuses_what_does_not_agree_and_leaves_the_old_file(tmp_path, change, needle):
    (tmp_path / "x.h5").write_text("old")
    arguments = {"kspace": np.ones((2, 2, 4, 4), np.float32), "mask": np.ones((2, 1, 1, 4), np.uint8)} | change
    with pytest.raises(ValueError) as caught:
        write_h5(tmp_path / "x.h5", count=2, **arguments)
    assert needle in str(caught.value)
    assert os.listdir(tmp_path) == ["x.h5"] and (tmp_path / "x.h5").read_text() == "old"


# fastMRI's own files


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128, ">c8"])
def test_single_coil_file_without_mask(tmp_path, dtype):
    kspace = random_kspace(3, 8, 6)
    kspace[1, :, [0, 3]] = 0
    kspace[2, :-1, 2] = 0  # a single sample makes a column
    esc = np.random.default_rng(1).random((3, 5, 5), np.float32)
    path = save(
        tmp_path / "a.h5", kspace=kspace.astype(dtype), reconstruction_esc=esc, reconstruction_rss=2 * esc, max=2e-4
    )
    read = read_h5(path)
    np.testing.assert_allclose(read.kspace, channels(kspace[:, None]) / 2e-4, rtol=1e-6)
    expected = np.ones((3, 1, 1, 6))
    expected[1, ..., [0, 3]] = 0
    np.testing.assert_array_equal(read.mask, expected)
    np.testing.assert_allclose(read.reconstruction, esc / 2e-4, rtol=1e-6)
    assert read.maps is None
    assert read.kspace.dtype == read.reconstruction.dtype == np.float32 and read.mask.dtype == np.uint8


@pytest.mark.parametrize("dtype", [np.uint8, bool, np.float32])
def test_mask_makes_everything_else_zero(tmp_path, dtype):
    kspace = random_kspace(2, 3, 4, 6)
    kspace[..., 5] = np.nan
    mask = np.array([0, 1, 1, 1, 0, 0], dtype)
    for values in (mask, np.stack([mask, mask])):
        read = read_h5(save(tmp_path / "a.h5", kspace=kspace, mask=values, rsd_fast_scale=1.0))
        np.testing.assert_array_equal(read.mask, np.broadcast_to(mask == 1, (2, 1, 1, 6)))
        np.testing.assert_array_equal(read.kspace, np.where(mask == 1, channels(kspace), 0))


def test_scale_of_a_volume(tmp_path):
    kspace = random_kspace(2, 3, 16, 16)
    rss = np.full((2, 4, 4), 3e-3, np.float32)
    image = np.sqrt((np.abs(inverse_fourier(kspace)) ** 2).sum(1))
    for scale, values in [
        (0.5, {"rsd_fast_scale": 0.5, "max": 1e-3, "reconstruction_rss": rss}),
        (1e-3, {"max": 1e-3, "reconstruction_rss": rss}),
        (1e-3, {"max": "0.001"}),
        (3e-3, {"reconstruction_rss": rss}),
        (3e-3, {"max": 0.0, "reconstruction_rss": rss}),
        (np.percentile(image, 99.9), {}),
    ]:
        read = read_h5(save(tmp_path / "a.h5", kspace=kspace, **values))
        np.testing.assert_allclose(read.kspace * scale, channels(kspace), rtol=1e-5)


def test_each_volume_of_a_folder_has_its_scale(tmp_path):
    volumes = {"b/1.h5": 1e-4, "a/2.hdf5": 1e-3, "a.h5": 1e-2}  # 'a.h5' sorts before 'a/2.hdf5'
    kspace = random_kspace(6, 2, 4, 5)
    maps = random_kspace(6, 2, 4, 5, seed=1)
    in_order = ["a.h5", "a/2.hdf5", "b/1.h5"]
    for place, name in enumerate(in_order):
        own = slice(2 * place, 2 * place + 2)
        save(
            tmp_path / name,
            kspace=kspace[own],
            sensitivity_maps=maps[own] if place else maps[0],
            reconstruction_rss=np.ones((2, 3, 3 + (place == 2)), np.float32),
            max=volumes[name],
        )
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / ".tmp-x.h5").write_text("")
    read = read_h5(tmp_path)
    scales = np.repeat([volumes[name] for name in in_order], 2)[:, None, None, None]
    np.testing.assert_allclose(read.kspace, channels(kspace) / scales, rtol=1e-6)
    maps[1] = maps[0]
    np.testing.assert_array_equal(read.maps, maps)
    assert read.reconstruction is None  # of two sizes
    save(tmp_path / "b/1.h5", kspace=kspace[4:], max=1.0)
    assert read_h5(tmp_path).maps is None


def test_compressed_chunks_of_several_slices(tmp_path):
    kspace = random_kspace(5, 2, 4, 6)
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5.create_dataset("kspace", data=kspace, chunks=(2, 1, 4, 3), compression="gzip")
        h5.attrs["rsd_fast_scale"] = 1.0
    np.testing.assert_array_equal(read_h5(tmp_path / "a.h5").kspace, channels(kspace))


# Files that cannot be read


KSPACE = random_kspace(2, 3, 4, 6)


@pytest.mark.parametrize(
    ("values", "needles"),
    [
        ({}, ["`kspace`", "nothing"]),
        ({"dataset": KSPACE, "xml": KSPACE}, ["`kspace`", "dataset, xml"]),
        ({"kspace": KSPACE.real}, ["float32", "complex"]),
        ({"kspace": KSPACE[0, 0]}, ["[4, 6]", "[slices, coils, H, W]"]),
        ({"kspace": KSPACE[None]}, ["[1, 2, 3, 4, 6]"]),
        ({"kspace": KSPACE[:0]}, ["[0, 3, 4, 6]"]),
        ({"kspace": np.array(1j)}, ["[]"]),
        ({"kspace": np.where(np.arange(2)[:, None, None, None] == 1, np.nan, KSPACE)}, ["slice 1", "NaN"]),
        ({"kspace": np.where(KSPACE[1, 1, 1, 1] == KSPACE, np.inf, KSPACE), "max": 1.0}, ["slice 1", "NaN"]),
        ({"kspace": KSPACE.astype(np.complex128) * 1e60, "max": 1.0}, ["slice 0", "infinity"]),
        ({"kspace": KSPACE * np.float32([[[[1]]], [[[0]]]])}, ["slice 1", "no sampled column"]),
        ({"kspace": KSPACE, "mask": np.array([[1] * 6, [0] * 6])}, ["slice 1", "no sampled column"]),
        ({"kspace": 0 * KSPACE, "mask": np.ones(6)}, ["0 everywhere"]),
        ({"kspace": KSPACE, "mask": np.ones(5)}, ["`mask`", "[5]", "[6] or [2, 6]"]),
        ({"kspace": KSPACE, "mask": np.ones((3, 6))}, ["`mask`", "[3, 6]"]),
        ({"kspace": KSPACE, "mask": np.full(6, 0.5)}, ["`mask`", "0 and 1"]),
        ({"kspace": KSPACE, "rsd_fast_scale": 0.0}, ["rsd_fast_scale", "positive"]),
        ({"kspace": KSPACE, "rsd_fast_scale": "x"}, ["rsd_fast_scale", "positive"]),
        ({"kspace": KSPACE, "sensitivity_maps": KSPACE[:, :2]}, ["[2, 2, 4, 6]", "[2, 3, 4, 6], or [3, 4, 6]"]),
        ({"kspace": KSPACE, "sensitivity_maps": KSPACE[..., :5]}, ["[2, 3, 4, 5]"]),
        ({"kspace": KSPACE, "sensitivity_maps": KSPACE.real}, ["float32"]),
        ({"kspace": KSPACE, "sensitivity_maps": KSPACE * np.float32(np.nan)}, ["slice 0", "`sensitivity_maps`", "NaN"]),
        ({"kspace": KSPACE, "reconstruction_rss": np.ones((3, 4, 4))}, ["`reconstruction_rss`", "[3, 4, 4]"]),
        ({"kspace": KSPACE, "reconstruction_rss": np.ones((2, 4, 4), int)}, ["`reconstruction_rss`", "int64"]),
        ({"kspace": KSPACE, "reconstruction_rss": np.full((2, 4, 4), np.nan)}, ["`reconstruction_rss`", "NaN"]),
    ],
)
def test_unusable_values_are_refused(tmp_path, values, needles):
    assert_refused(save(tmp_path / "bad.h5", **values), f"{tmp_path}/bad.h5", *needles)


def test_no_hdf5_file_and_no_file_at_all(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"junk" * 1000)
    assert_refused(tmp_path / "a.h5", "a.h5", "not an HDF5 file")
    (tmp_path / "a.h5").write_bytes(b"")
    assert_refused(tmp_path, "a.h5", "not an HDF5 file")
    assert_refused(tmp_path / "b.h5", "b.h5", "no such file")
    (tmp_path / "empty").mkdir()
    assert_refused(tmp_path / "empty", "empty", "no .h5 file")


def test_truncated_and_damaged_files_are_refused(tmp_path):
    path = save(tmp_path / "a.h5", kspace=random_kspace(4, 2, 16, 16), max=1.0)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert_refused(path, "a.h5", "truncated")
    refused = 0
    for place in range(0, 2048, 16):  # the metadata
        path.write_bytes(whole[:place] + b"\xff" * 8 + whole[place + 8 :])
        try:
            read_h5(path)
        except DataError as error:
            refused += 1
            assert "a.h5" in str(error) and "\n" not in str(error)
    assert refused > 10


@pytest.mark.parametrize("chunks", [None, (1, 1, 512, 512)])
@pytest.mark.parametrize("name", ["kspace", "sensitivity_maps", "mask"])
def test_a_header_that_claims_more_than_there_is_costs_nothing(tmp_path, chunks, name):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as h5:
        if name == "mask":
            h5["kspace"] = KSPACE
            h5.create_dataset("mask", (10**6, 10**6), np.uint8, chunks=chunks and (1, 512))
        else:
            h5.create_dataset(name, (10**6, 16, 512, 512), np.complex64, chunks=chunks)
            if chunks:
                h5[name][0, 0] = 1  # the first of 16 million chunks
            if name != "kspace":
                h5["kspace"] = KSPACE
    tracemalloc.start()
    assert_refused(path, "a.h5", f"`{name}`", "not all of it was written")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 22


def test_values_in_other_files_are_refused(tmp_path):
    source = save(tmp_path / "source.h5", kspace=KSPACE)
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        layout = h5py.VirtualLayout(KSPACE.shape, KSPACE.dtype)
        layout[:] = h5py.VirtualSource(source, "kspace", KSPACE.shape)
        h5.create_virtual_dataset("kspace", layout)
    assert_refused(tmp_path / "a.h5", "a.h5", "other files")
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5.create_dataset("kspace", (1, 4, 4), np.complex64, external=[(str(source), 0, 128)])
    assert_refused(tmp_path / "a.h5", "a.h5", "other files")
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5.create_group("kspace")
    assert_refused(tmp_path / "a.h5", "no array")


@pytest.mark.parametrize("other", [KSPACE[:, :2], KSPACE[:, 0], KSPACE[..., :5], KSPACE[:, :, :3]])
def test_files_of_another_size_are_refused(tmp_path, other):
    save(tmp_path / "a.h5", kspace=KSPACE)
    save(tmp_path / "b.h5", kspace=other)
    assert_refused(tmp_path, "a.h5", "b.h5", "4x6, 3 coils")


def test_missing_libraries_are_named(tmp_path, monkeypatch):
    path = save(tmp_path / "a.h5", kspace=KSPACE)
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert_refused(path, "needs h5py: pip install 'rsd-fast[mri]'")
    monkeypatch.setitem(sys.modules, "sigpy.mri.app", None)
    with pytest.raises(DataError, match=r"needs sigpy: pip install 'rsd-fast\[mri\]'"):
        estimate_maps(random_kspace(1, 2, 16, 16), 8)


@pytest.mark.parametrize("sigma_obs", [0.0, 0.5])
def test_simulating_from_kspace_adds_the_noise_where_it_is_sampled(sigma_obs):
    generator = np.random.default_rng(0)
    images = generator.standard_normal((40, 2, 16, 16)).astype(np.float32)
    source = ImageArray(images=images, name="x", kspace=True)
    operator = corruptions.Fourier(acceleration=2, acs_lines=4)
    dataset = ObservedDataset(source, corruption=operator, sigma_obs=sigma_obs, seed=0, simulate=True)
    seen, _ = dataset.observe(torch.arange(40))
    sampled = seen.operator.draw.mask.bool().expand_as(seen.y)
    noise = (seen.y - torch.from_numpy(images))[sampled]
    assert (seen.y[~sampled] == 0).all() and abs(float(noise.std()) - sigma_obs) < 0.01
