"""Folders and zip archives of images, and their labels."""

import io
import json
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsd_fast.data import open_source, write_png_folder
from tests.image_files import assert_refused, random_pixels, save_png


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
