"""Image sources, the permanence of observations, and the writers."""

import gzip
import io
import json
import pickle
import re
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from rsd_fast import corruptions
from rsd_fast.data import (
    DataError,
    ImageArray,
    ObservedDataset,
    open_source,
    to_uint8,
    write_npz,
    write_png_folder,
)


def random_pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save_png(path: Path, pixels: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def idx_bytes(array: np.ndarray, shape: tuple[int, ...] | None = None) -> bytes:
    """An idx file of unsigned bytes whose header claims `shape`."""
    shape = array.shape if shape is None else shape
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + array.tobytes()


def assert_refused(src: object, *needles: str, **options: object) -> None:
    """`src` raises DataError: one line that holds every needle."""
    with pytest.raises(DataError) as caught:
        open_source(src, **options)
    message = str(caught.value)
    assert "\n" not in message
    for needle in needles:
        assert str(needle) in message, message


# Folders


@pytest.fixture
def folder(tmp_path):
    """Four colour images in nested folders, whose paths do not sort in the order of writing."""
    images = random_pixels(4, 6, 5, 3)
    names = ["b/2.png", "a/1.png", "b/1.png", "c.png"]
    for name, image in zip(names, images, strict=True):
        save_png(tmp_path / "set" / name, image)
    in_order = [images[names.index(name)] for name in sorted(names)]
    return tmp_path / "set", np.stack(in_order).transpose(0, 3, 1, 2)


def test_folder_is_read_in_the_order_of_relative_paths(folder):
    path, expected = folder
    source = open_source(path)
    assert source.images.dtype == np.uint8
    np.testing.assert_array_equal(source.images, expected)
    assert source.labels is None and source.label_dim == 0
    assert source.image_shape == (3, 6, 5) and len(source) == 4 and source.name == "set"


def test_folder_leaves_out_what_is_no_image(folder):
    path, expected = folder
    (path / "notes.txt").write_text("no image")
    (path / "drawing.eps").write_text("no image that is read")
    (path / "._c.png").write_bytes(b"written by a Mac")
    (path / ".cache").mkdir()
    (path / ".cache" / "c.png").write_bytes(b"hidden")
    np.testing.assert_array_equal(open_source(path).images, expected)


def test_folder_labels_come_from_dataset_json(folder):
    path, _ = folder
    labels = {"a/1.png": 3, "b/1.png": 0, "b/2.png": 2, "c.png": 3}
    (path / "dataset.json").write_text(json.dumps({"labels": list(labels.items())}))
    source = open_source(path)
    assert source.labels.dtype == np.int64 and source.labels.tolist() == [3, 0, 2, 3]
    assert source.label_dim == 4


def test_more_images_than_one_task_holds_keep_their_order(tmp_path):
    images = random_pixels(300, 1, 2, 2)
    write_png_folder(tmp_path / "set", images)
    np.testing.assert_array_equal(open_source(tmp_path / "set").images, images)


def test_large_images_decoded_by_several_threads_keep_their_order(tmp_path):
    images = random_pixels(150, 3, 80, 80)
    write_png_folder(tmp_path / "set", images)
    np.testing.assert_array_equal(open_source(tmp_path / "set").images, images)


@pytest.mark.parametrize("extension", ["bmp", "tif", "webp", "ppm", "PNG"])
def test_lossless_formats(tmp_path, extension):
    image = random_pixels(7, 9, 3)
    save_png(tmp_path / f"x.{extension}", image, **({"lossless": True} if extension == "webp" else {}))
    np.testing.assert_array_equal(open_source(tmp_path).images[0], image.transpose(2, 0, 1))


def test_grey_palette_bilevel_and_opaque_alpha(tmp_path):
    grey, colour = random_pixels(4, 4), random_pixels(4, 4, 3) // 128 * 255
    opaque = np.full((4, 4, 1), 255, np.uint8)
    cases = {
        "grey": (Image.fromarray(grey), grey[None]),
        "palette": (Image.fromarray(colour).quantize(8), colour.transpose(2, 0, 1)),
        "bilevel": (Image.fromarray(grey > 127), np.where(grey > 127, 255, 0)[None]),
        "rgba": (Image.fromarray(np.concatenate([colour, opaque], 2)), colour.transpose(2, 0, 1)),
        "la": (Image.merge("LA", [Image.fromarray(grey), Image.fromarray(opaque[:, :, 0])]), grey[None]),
    }
    for name, (image, expected) in cases.items():
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "x.png")
        np.testing.assert_array_equal(open_source(tmp_path / name).images[0], expected, err_msg=name)


def test_16_bit_grey_keeps_its_bits(tmp_path):
    values = np.array([[0, 1, 255], [256, 32768, 65535]], np.uint16)
    save_png(tmp_path / "a.png", values)
    save_png(tmp_path / "b.tif", values)
    images = open_source(tmp_path).images
    assert images.dtype == np.float32
    np.testing.assert_allclose(images[0, 0], values / 32767.5 - 1, rtol=0, atol=1e-7)
    np.testing.assert_array_equal(images[0], images[1])
    assert images.min() == -1 and images.max() == 1

    save_png(tmp_path / "c.png", random_pixels(2, 3))
    assert_refused(tmp_path, tmp_path / "c.png", "grey, but", tmp_path / "a.png", "grey of 16 bits")


def png_of_16_bit_colour() -> bytes:
    """Written by hand, because Pillow cannot: one pixel of three 16-bit channels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(">3H", 1, 2, 3)))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


def test_folder_refusals_name_the_file(folder, tmp_path):
    path, _ = folder
    bad = path / "b" / "bad.png"
    whole = io.BytesIO()
    Image.fromarray(random_pixels(6, 5, 3)).save(whole, "PNG")
    transparent = random_pixels(6, 5, 4)
    transparent[:, :, 3] = 255
    transparent[5, 4, 3] = 254
    first = path / "a" / "1.png"

    bad.write_bytes(whole.getvalue()[:-60])
    assert_refused(path, bad, "cannot be decoded")
    bad.write_bytes(b"hello")
    assert_refused(path, bad, "not an image")
    bad.write_bytes(b"")
    assert_refused(path, bad, "not an image")
    bad.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 6\n")  # would be run by Ghostscript
    assert_refused(path, bad, "not an image")
    save_png(bad, random_pixels(6, 4, 3))
    assert_refused(path, bad, "4x6", first, "5x6", "crop or resize")
    save_png(bad, random_pixels(6, 5))
    assert_refused(path, bad, "grey", first, "colour")
    save_png(bad, random_pixels(6, 5).astype(np.uint16))
    assert_refused(path, bad, "16 bits", first)
    save_png(bad, transparent)
    assert_refused(path, bad, "half-transparent")
    bad.write_bytes(png_of_16_bit_colour())
    assert_refused(path, bad, "16 bits")
    bad.unlink()
    bad.symlink_to("nowhere")
    assert_refused(path, bad)
    bad.rename(path / "c.mask.png")
    assert_refused(path, first, "has no mask", "1.mask.png")


def test_frames_floats_and_bombs_are_refused(tmp_path, monkeypatch):
    frames = [Image.fromarray(frame) for frame in random_pixels(2, 4, 4)]
    (tmp_path / "frames").mkdir()
    frames[0].save(tmp_path / "frames" / "x.gif", save_all=True, append_images=frames[1:])
    assert_refused(tmp_path / "frames", "x.gif", "several frames")

    save_png(tmp_path / "float" / "x.tif", np.zeros((4, 4), np.float32))
    assert_refused(tmp_path / "float", "x.tif", "32 bits")

    save_png(tmp_path / "bomb" / "x.png", random_pixels(20, 20))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert_refused(tmp_path / "bomb", "x.png", "bomb")


def test_missing_and_empty_sources(tmp_path):
    (tmp_path / "empty" / "inside").mkdir(parents=True)
    assert_refused(tmp_path / "empty", tmp_path / "empty", "no image")
    assert_refused(tmp_path / "absent", tmp_path / "absent", "no such file", ".npz", "digits")
    assert_refused("", "no source")
    assert_refused("digitz", "digitz", "no such file", "digits")
    (tmp_path / "x.mat").write_bytes(b"")
    assert_refused(tmp_path / "x.mat", "x.mat", "folder", ".zip", ".npy", "idx3-ubyte", "digits")
    (tmp_path / "x.h5").write_bytes(b"")
    assert_refused(tmp_path / "x.h5", "x.h5", "not an HDF5 file")


# Zip archives and dataset.json


def write_zip(path: Path, images: np.ndarray, labels: object = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for index, image in reversed(list(enumerate(images))):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            archive.writestr(f"0000{index // 2}/img{index:08d}.png", buffer.getvalue())
        archive.writestr("__MACOSX/0000/._img00000000.png", b"rubbish")
        if labels is not None:
            archive.writestr("dataset.json", labels if isinstance(labels, str) else json.dumps(labels))
    return path


def zip_names(count: int) -> list[str]:
    return [f"0000{index // 2}/img{index:08d}.png" for index in range(count)]


def test_zip_with_class_indices_one_hot_lists_or_no_labels(tmp_path):
    images = random_pixels(5, 4, 4, 3)
    classes = [6, 0, 2, 2, 1]
    one_hot = np.eye(7)[classes].tolist()
    for labels, expected in (
        ({"labels": list(zip(zip_names(5), classes, strict=True))}, classes),
        ({"labels": list(zip(zip_names(5), one_hot, strict=True))[::-1]}, classes),
        ({"labels": None}, None),
        (None, None),
    ):
        source = open_source(write_zip(tmp_path / "set.zip", images, labels))
        np.testing.assert_array_equal(source.images, images.transpose(0, 3, 1, 2))
        assert (source.labels if expected is None else source.labels.tolist()) == expected
        assert source.name == "set"


@pytest.mark.parametrize(
    ("labels", "needle"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1, 2]", "object"),
        ({"labels": 3}, "list of [name, label]"),
        ({"labels": [["a", 1, 2]]}, "list of [name, label]"),
        ({"labels": [[zip_names(2)[0], 1]]}, zip_names(2)[1]),
        ({"labels": [[name, 1] for name in [*zip_names(2), "gone.png"]]}, "3 labels for 2 images"),
        ({"labels": [[name, -1] for name in zip_names(2)]}, "-1"),
        ({"labels": [[name, 10**30] for name in zip_names(2)]}, "labels"),
        ({"labels": [[name, 0.5] for name in zip_names(2)]}, "integers"),
        ({"labels": [[name, True] for name in zip_names(2)]}, "integers"),
        ({"labels": [[name, "cat"] for name in zip_names(2)]}, "integers"),
        ({"labels": [[name, [0, 0.5]] for name in zip_names(2)]}, "one-hot"),
        ({"labels": [[name, [0, 0]] for name in zip_names(2)]}, "one-hot"),
        ({"labels": [[name, [1, 1]] for name in zip_names(2)]}, "one-hot"),
        ({"labels": [[zip_names(2)[0], [0, 1]], [zip_names(2)[1], 1]]}, "one-hot"),
    ],
)
def test_bad_dataset_json(tmp_path, labels, needle):
    path = write_zip(tmp_path / "set.zip", random_pixels(2, 4, 4), labels)
    assert_refused(path, f"{path}/dataset.json", needle)


def test_bad_zips(tmp_path):
    path = write_zip(tmp_path / "set.zip", random_pixels(2, 4, 4))
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    assert_refused(path, path, "not a zip")
    member = zip_names(1)[0]
    start = whole.index(member.encode()) + len(member) + 20
    path.write_bytes(whole[:start] + bytes([whole[start] ^ 255]) + whole[start + 1 :])
    assert_refused(path, f"{path}/{member}", "CRC")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("latents.npy", b"")
    assert_refused(path, path, "no image")


# NumPy files


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


# Bundled sets


def test_digits():
    source = open_source("digits")
    assert source.images.shape == (1797, 1, 8, 8) and source.images.dtype == np.uint8
    assert source.label_dim == 10 and source.name == "digits"
    assert set(np.unique(source.images)) == {round(level * 255 / 16) for level in range(17)}
    assert np.bincount(source.labels).min() > 170


# ImageArray


def test_tensor_is_exact_whatever_the_batch():
    levels = ImageArray(images=np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1), name="levels")
    expected = np.arange(256, dtype=np.float32) / np.float32(127.5) - 1
    whole = levels.tensor(torch.arange(256))
    assert whole.dtype == torch.float32
    np.testing.assert_array_equal(whole.flatten().numpy(), expected)
    for index in range(256):
        assert levels.tensor([index]).item() == expected[index]
    np.testing.assert_array_equal(to_uint8(whole).numpy(), levels.images)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_tensor_has_the_same_bits_on_the_gpu():
    levels = ImageArray(images=np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1), name="levels")
    assert torch.equal(levels.tensor(range(256), "cuda").cpu(), levels.tensor(range(256)))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_tensor_never_shares_memory_with_the_source(dtype):
    source = ImageArray(images=np.zeros((2, 1, 2, 2), dtype), name="zeros")
    before = torch.full((2, 1, 2, 2), -1.0 if dtype == np.uint8 else 0.0)
    source.tensor([0, 1]).add_(1)  # noise in place on a cached array would grow every epoch
    assert torch.equal(source.tensor([0, 1]), before)


def test_image_array_checks_its_fields():
    with pytest.raises(ValueError, match="float64"):
        ImageArray(images=np.zeros((2, 1, 4, 4)), name="x")
    with pytest.raises(ValueError, match="labels"):
        ImageArray(images=np.zeros((2, 1, 4, 4), np.uint8), labels=np.zeros(3, np.int64), name="x")


def test_to_uint8_rounds_and_clips():
    values = torch.tensor([-7.0, -1.0, -0.999, 0.0, 0.999, 1.0, 1.001, 7.0])
    assert to_uint8(values).tolist() == [0, 0, 0, 128, 255, 255, 255, 255]
    step = 2 / 255
    assert to_uint8(torch.tensor([-1 + 0.49 * step, -1 + 0.51 * step])).tolist() == [0, 1]


def test_tensor_keeps_floats_as_they_are():
    images = np.random.default_rng(0).standard_normal((5, 2, 3, 3), np.float32)
    source = ImageArray(images=images, name="floats")
    np.testing.assert_array_equal(source.tensor(torch.tensor([3, 0])).numpy(), images[[3, 0]])


# Permanence

SPECS = ["identity", "gaussian_blur:size=5,std=1"]


def make_dataset(spec: str = SPECS[1], **changes: object) -> ObservedDataset:
    # 3 x 7 x 5 is no multiple of any vector length: the remainder of a loop must not differ from its body.
    source = ImageArray(images=random_pixels(203, 3, 7, 5), labels=np.arange(203, dtype=np.int64) % 4, name="random")
    options = {"corruption": corruptions.parse(spec), "sigma_obs": 0.3, "seed": 11, "simulate": True}
    return ObservedDataset(source, **{**options, **changes})


@pytest.mark.parametrize("spec", SPECS)
def test_an_observation_is_the_same_alone_or_in_any_batch(spec):
    dataset = make_dataset(spec)
    whole, index, labels = dataset.batch(torch.arange(len(dataset)))
    assert whole.shape == (203, 3, 7, 5) and whole.dtype == torch.float32
    assert index.tolist() == list(range(203)) and labels.tolist() == dataset.source.labels.tolist()
    generator = torch.Generator().manual_seed(0)
    for size in (1, 2, 3, 8, 17, 64, 203):
        some = torch.randperm(203, generator=generator)[:size]
        assert torch.equal(dataset.batch(some)[0], whole[some])
    for one in (0, 1, 100, 202):
        observation, index_of_one, label = dataset[one]
        assert torch.equal(observation, whole[one])
        assert (index_of_one, label) == (one, dataset.source.labels[one])


# More workers than cores, and forking a process that has threads, are what this test is about.
@pytest.mark.filterwarnings("ignore:This DataLoader will create", "ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("spec", SPECS)
def test_an_observation_is_the_same_in_every_epoch_order_and_number_of_workers(spec):
    dataset = make_dataset(spec)
    whole = dataset.batch(torch.arange(len(dataset)))[0]
    for workers in (0, 4):
        loader = DataLoader(
            dataset,
            batch_size=16,
            shuffle=True,
            num_workers=workers,
            generator=torch.Generator().manual_seed(1),
        )
        orders = []
        for _ in range(2):
            read = list(loader)
            order = torch.cat([index for _, index, _ in read])
            assert torch.equal(torch.cat([observations for observations, _, _ in read]), whole[order])
            orders.append(order.tolist())
        assert orders[0] != orders[1] and sorted(orders[0]) == list(range(203))


def test_global_generators_and_pickling_change_nothing():
    dataset = make_dataset()
    before = dataset.batch(torch.arange(20))[0]
    torch.manual_seed(123)
    torch.rand(5)
    assert torch.equal(dataset.batch(torch.arange(20))[0], before)
    packed = pickle.dumps(dataset)
    assert torch.equal(pickle.loads(packed).batch(torch.arange(20))[0], before)
    assert len(packed) < dataset.source.images.nbytes + 5000


def test_images_share_no_noise_and_other_seeds_give_other_noise():
    dataset = make_dataset("identity")
    every = torch.arange(203)
    noise = (dataset.batch(every)[0] - dataset.source.tensor(every)).flatten(1).double()
    correlation = torch.corrcoef(noise)[~torch.eye(203, dtype=torch.bool)]
    # Of 20503 pairs with 105 elements, the largest of |r| is near 4 / sqrt(105) = 0.39.
    assert correlation.abs().max() < 0.6
    other = make_dataset("identity", seed=12)
    other_noise = (other.batch(every)[0] - dataset.source.tensor(every)).flatten().double()
    assert abs(torch.corrcoef(torch.stack([noise.flatten(), other_noise]))[0, 1]) < 5 / noise.numel() ** 0.5


@pytest.mark.parametrize("spec", SPECS)
def test_the_residual_is_white_noise_of_sigma_obs(spec):
    dataset = make_dataset(spec)
    every = torch.arange(203)
    clean = dataset.corruption.forward(dataset.source.tensor(every), index=every, seed=dataset.seed)
    residual = (dataset.batch(every)[0] - clean).double()
    count = residual.numel()
    assert abs(residual.mean()) < 4 * 0.3 / count**0.5
    assert abs(residual.std() - 0.3) < 4 * 0.3 / (2 * count) ** 0.5


def test_no_noise_and_no_simulation():
    exact = make_dataset("identity", sigma_obs=0.0)
    clean = exact.source.tensor(range(203))
    assert torch.equal(exact.batch(torch.arange(203))[0], clean)
    given = make_dataset(simulate=False)
    assert torch.equal(given.batch(torch.arange(203))[0], clean)
    assert given.observation_shape == make_dataset().observation_shape == (3, 7, 5)


def test_observation_shape_is_that_of_the_corruption():
    class Halving(corruptions.Corruption):
        spec = "halving"

        def forward(self, x, *, index=None, seed=0):
            return x[:, :, ::2, ::2]

        def observation_shape(self, image_shape):
            return image_shape[0], (image_shape[1] + 1) // 2, (image_shape[2] + 1) // 2

        def image_shape(self, observation_shape):
            return observation_shape[0], 2 * observation_shape[1], 2 * observation_shape[2]

    dataset = make_dataset(corruption=Halving())
    assert dataset.observation_shape == (3, 4, 3) == tuple(dataset[0][0].shape)
    assert make_dataset(corruption=Halving(), simulate=False).observation_shape == (3, 7, 5)
    assert make_dataset(corruption=Halving(), simulate=False).image_shape == (3, 14, 10)


def test_indices_and_labels():
    dataset = make_dataset()
    assert torch.equal(dataset[-1][0], dataset[202][0]) and dataset[-1][1] == 202
    for bad in (203, -204):
        with pytest.raises(IndexError, match=str(bad)):
            dataset[bad]
    unlabelled = make_dataset()
    unlabelled.source = ImageArray(images=unlabelled.source.images, name="x")
    assert unlabelled[5][2] == -1
    for bad in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="sigma_obs"):
            make_dataset(sigma_obs=bad)


# Writers


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_npz_round_trip_whole_and_in_batches(tmp_path, dtype):
    pixels = random_pixels(10, 3, 4, 5)
    images = pixels if dtype == np.uint8 else (pixels / 127.5 - 1).astype(np.float32)
    labels = np.arange(10) % 3
    write_npz(tmp_path / "a" / "whole.npz", torch.from_numpy(images), labels)
    write_npz(tmp_path / "batches.npz", (images[start : start + 4] for start in (0, 4, 8)), labels, count=10)
    for path in (tmp_path / "a" / "whole.npz", tmp_path / "batches.npz"):
        with np.load(path) as archive:
            assert archive["images"].dtype == dtype
            np.testing.assert_array_equal(archive["images"], images)
        source = open_source(path)
        np.testing.assert_array_equal(source.images, images)
        assert source.labels.tolist() == labels.tolist()


def test_npz_batches_that_are_not_contiguous(tmp_path):
    images = random_pixels(4, 6, 5, 3)
    write_npz(tmp_path / "x.npz", images.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(open_source(tmp_path / "x.npz").images, images.transpose(0, 3, 1, 2))


def test_a_failed_npz_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.npz"
    write_npz(path, random_pixels(2, 1, 3, 3))
    before = path.read_bytes()

    def failing():
        yield random_pixels(2, 1, 3, 3)
        raise KeyboardInterrupt

    def changing():
        yield random_pixels(2, 1, 3, 3)
        yield random_pixels(2, 1, 4, 3)

    with pytest.raises(KeyboardInterrupt):
        write_npz(path, failing(), count=4)
    for images, options in (
        (changing(), {"count": 4}),
        ([random_pixels(2, 1, 3, 3)], {"count": 3}),
        ([random_pixels(2, 1, 3, 3)], {"count": 1}),
        ([random_pixels(2, 1, 3, 3)], {}),
        ([], {"count": 0}),
        (random_pixels(2, 3, 3), {}),
        (np.zeros((2, 1, 3, 3)), {}),
        (random_pixels(2, 1, 3, 3), {"labels": np.arange(3)}),
    ):
        with pytest.raises(ValueError):
            write_npz(path, images, **options)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.npz"]


@pytest.mark.parametrize("channels", [1, 3])
def test_png_folder_round_trip(tmp_path, channels):
    images = random_pixels(7, channels, 5, 4)
    path = tmp_path / "new" / "set"
    path.mkdir(parents=True)  # an empty folder is no obstacle
    write_png_folder(path, (torch.from_numpy(images[start : start + 3]) for start in (0, 3, 6)), range(7))
    assert sorted(entry.name for entry in path.iterdir()) == [f"{i:06d}.png" for i in range(7)] + ["dataset.json"]
    source = open_source(path)
    np.testing.assert_array_equal(source.images, images)
    assert source.labels.tolist() == list(range(7))


def test_a_failed_png_folder_leaves_nothing(tmp_path):
    def failing():
        yield random_pixels(2, 1, 3, 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_png_folder(tmp_path / "set", failing())
    for images, labels in (
        (random_pixels(2, 2, 3, 3), None),
        (np.zeros((2, 1, 3, 3), np.float32), None),
        (random_pixels(2, 1, 3, 3), [1]),
        ([], None),
    ):
        with pytest.raises(ValueError):
            write_png_folder(tmp_path / "set", images, labels)
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "precious").write_text("x")
    with pytest.raises(DataError, match="exists already"):
        write_png_folder(tmp_path / "set", random_pixels(2, 1, 3, 3))
    assert [entry.name for entry in (tmp_path / "set").iterdir()] == ["precious"]
