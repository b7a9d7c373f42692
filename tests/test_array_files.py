"""Arrays in files: NumPy's and MNIST's."""

import gzip
import io
import pickle
import re
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from rsd_fast.data import open_source, write_npz
from tests.image_files import assert_refused, idx_bytes, random_pixels


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("shape", [(3, 5, 6), (3, 5, 6, 1), (3, 5, 6, 3), (3, 1, 5, 6), (3, 2, 5, 6), (2, 3, 4, 4)])
def test_npy_layouts_and_dtypes(tmp_path, shape, dtype):
    pixels = random_pixels(*shape)
    array = pixels if dtype == np.uint8 else (pixels / 127.5 - 1).astype(dtype)
    np.save(tmp_path / "x.npy", array)
    np.save(tmp_path / "y.npy", np.asfortranarray(array))
    images = open_source(tmp_path / "x.npy").images
    if len(shape) == 3:
        expected = array[:, None]
    else:
        expected = array.transpose(0, 3, 1, 2) if shape[1] == 5 else array
    assert images.dtype == (np.uint8 if dtype == np.uint8 else np.float32)
    assert images.flags.c_contiguous and images.dtype.isnative
    np.testing.assert_array_equal(images, expected.astype(images.dtype))
    np.testing.assert_array_equal(open_source(tmp_path / "y.npy").images, images)


def test_npz_keys_in_order_of_preference(tmp_path):
    first, second = random_pixels(2, 4, 5, seed=1), random_pixels(2, 4, 5, seed=2)
    for chosen, other in (("images", "x"), ("x", "arr_0"), ("arr_0", "z"), ("z", "labels")):
        arrays = {other: second, chosen: first}
        if other == "labels":
            arrays["labels"] = np.array([4, 1], np.int32)
        np.savez_compressed(tmp_path / "x.npz", **arrays)
        source = open_source(tmp_path / "x.npz")
        np.testing.assert_array_equal(source.images, first[:, None])
        assert source.name == "x"
    assert source.labels.tolist() == [4, 1] and source.labels.dtype == np.int64 and source.label_dim == 5


def test_npz_refusals(tmp_path):
    path = tmp_path / "x.npz"
    images = random_pixels(3, 4, 4)
    for arrays, needles in (
        ({"a": images, "b": images}, ["a, b"]),
        ({"labels": np.arange(3)}, ["labels"]),
        ({"images": images, "mask": images}, ["[mask]", "more than two values"]),
        ({"images": images, "mask": images[:, :3] > 9}, ["[mask]", "[3, 3, 4]", "[3, 1, 4, 4]", "size"]),
        ({"images": images, "mask": images[:2] > 9}, ["[mask]", "[2, 4, 4]"]),
        ({"images": images, "sigma_obs": np.ones(2)}, ["[sigma_obs]", "[2]", "[3]"]),
        ({"images": images, "sigma_obs": -np.ones(3)}, ["[sigma_obs]", "-1"]),
        ({"images": images, "labels": np.arange(4)}, ["[labels]", "[4]", "3 images"]),
        ({"images": images, "labels": np.zeros(3)}, ["[labels]", "float64", "integers"]),
        ({"images": images, "labels": np.array([0, -1, 2])}, ["[labels]", "-1"]),
        ({"images": images.astype(np.complex64)}, ["complex", "2 channels"]),
    ):
        np.savez(path, **arrays)
        assert_refused(path, path, *needles)
    np.savez(path, allow_pickle=True, images=np.array([images, None], object))
    assert_refused(path, "[images]", "object")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert_refused(path, path, "not an .npz")


class Exploding:
    """Fails the test if it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was executed",)


@pytest.mark.parametrize(
    ("array", "needles"),
    [
        (np.zeros((4, 4), np.uint8), ["[4, 4]", "[N, H, W]"]),
        (np.zeros((1, 2, 3, 4, 5), np.uint8), ["[1, 2, 3, 4, 5]"]),
        (np.zeros((2, 5, 5, 5), np.uint8), ["[2, 5, 5, 5]", "channels"]),
        (np.zeros((0, 5, 5), np.uint8), ["no image"]),
        (np.zeros((2, 0, 5), np.uint8), ["no pixel"]),
        (np.zeros((2, 5, 0, 3), np.float32), ["no pixel"]),
        (np.zeros((2, 5, 5), np.int64), ["int64", "uint8"]),
        (np.zeros((2, 5, 5), bool), ["bool"]),
        (np.zeros((2, 5, 5), np.complex128), ["complex", "2 channels"]),
        (np.zeros((2, 5, 5), "U3"), ["<U3"]),
        (np.array([[[Exploding()]]], object), ["x.npy"]),
        (np.full((2, 5, 5), 1.01), ["1.01", "[-1, 1]"]),
        (np.full((2, 5, 5), -1.01), ["-1.01", "[-1, 1]"]),
        (np.arange(75.0).reshape(3, 5, 5), ["74", "127.5"]),
        (np.where(np.arange(75) == 30, np.nan, 0).reshape(3, 5, 5), ["image 1", "NaN"]),
        (np.where(np.arange(75) == 74, -np.inf, 0).reshape(3, 5, 5), ["image 2", "infinity"]),
        (np.full((2, 5, 5), 1e300), ["1e+300"]),
    ],
)
def test_npy_refusals(tmp_path, array, needles):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    assert_refused(tmp_path / "x.npy", tmp_path / "x.npy", *needles)


def test_noise_may_take_observations_out_of_the_range_but_not_far(tmp_path):
    path = tmp_path / "x.npy"
    images = np.zeros((2, 4, 4), np.float32)
    images[0, 0, :2] = 1.5, -2.9
    np.save(path, images)
    assert_refused(path, "-2.9", "[-1, 1]")
    assert_refused(path, "-2.9", "sigma_obs", observations=True, sigma_obs_max=0.1)
    assert_refused(path, "-2.9", sigma_obs_max=0.2)
    source = open_source(path, observations=True, sigma_obs_max=0.2)
    np.testing.assert_array_equal(source.images[:, 0], images)

    np.save(path, images.clip(-1.0005, 1.0005))  # rounding
    open_source(path)


def test_images_in_0_to_1_are_warned_of(tmp_path):
    np.save(tmp_path / "x.npy", random_pixels(2, 4, 4) / 255)
    with pytest.warns(UserWarning, match=re.escape(f"{tmp_path / 'x.npy'}: no value is negative")):
        open_source(tmp_path / "x.npy")


def test_headers_that_lie_about_gigabytes(tmp_path):
    """The 40 GB claimed here would not fit; each is refused for what the file holds."""
    shape = (10_000, 1000, 4000)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    npy = header.getvalue() + bytes(1000)
    (tmp_path / "x.npy").write_bytes(npy)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", npy)
    idx = idx_bytes(np.zeros(1000, np.uint8), shape)
    (tmp_path / "x-idx3-ubyte").write_bytes(idx)
    (tmp_path / "x-idx3-ubyte.gz").write_bytes(gzip.compress(idx))

    tracemalloc.start()
    for name in ("x.npy", "x.npz", "x-idx3-ubyte", "x-idx3-ubyte.gz"):
        assert_refused(tmp_path / name, tmp_path / name)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6


def test_rubbish_npy_and_npz(tmp_path):
    for name in ("x.npy", "x.npz"):
        for content in (b"", b"rubbish", pickle.dumps(Exploding()), b"\x93NUMPY\x01\x00\xff\xffrubbish"):
            (tmp_path / name).write_bytes(content)
            assert_refused(tmp_path / name, tmp_path / name)
    write_npz(tmp_path / "x.npz", random_pixels(2, 1, 4, 4))
    (tmp_path / "x.npz").rename(tmp_path / "x.npy")
    assert_refused(tmp_path / "x.npy", tmp_path / "x.npy")


# idx files


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_with_labels_beside_it(tmp_path, suffix):
    def write(name: str, array: np.ndarray) -> Path:
        path = tmp_path / (name + suffix)
        path.write_bytes(gzip.compress(idx_bytes(array)) if suffix else idx_bytes(array))
        return path

    images = random_pixels(6, 4, 5)
    path = write("train-images-idx3-ubyte", images)
    source = open_source(path)
    np.testing.assert_array_equal(source.images, images[:, None])
    assert source.labels is None and source.name == "train-images"

    write("train-labels-idx1-ubyte", np.array([9, 0, 0, 3, 1, 2], np.uint8))
    assert open_source(path).labels.tolist() == [9, 0, 0, 3, 1, 2]
    bad = write("train-labels-idx1-ubyte", np.zeros(5, np.uint8))
    assert_refused(path, bad, "[5]", "6 images")

    colour = random_pixels(6, 8, 5, 3)
    path = write("test-images-idx4-ubyte", colour)
    np.testing.assert_array_equal(open_source(path).images, colour.transpose(0, 3, 1, 2))


def test_bad_idx_files(tmp_path):
    path = tmp_path / "images-idx3-ubyte"
    good = idx_bytes(random_pixels(3, 4, 4))
    for content, needle in (
        (b"", "too short"),
        (good[:9], "too short"),
        (good[:-1], "only 47"),
        (good + b"\0", "more follow"),
        (b"\x01" + good[1:], "not an idx file"),
        (good[:2] + b"\x0d" + good[3:], "unsigned bytes"),
        (idx_bytes(np.zeros((0, 4, 4), np.uint8)), "no image"),
        (idx_bytes(np.zeros(5, np.uint8)), "[5]"),
    ):
        path.write_bytes(content)
        assert_refused(path, path, needle)

    compressed = gzip.compress(idx_bytes(random_pixels(50, 9, 9)))
    path = tmp_path / "images-idx3-ubyte.gz"
    for content in (compressed[:-100], compressed[:5], compressed[:-4] + b"abcd", b"rubbish", b"", good):
        path.write_bytes(content)
        assert_refused(path, path)
