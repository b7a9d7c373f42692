"""Images to files, whole and in batches."""

import errno
import threading
from itertools import count

import numpy as np
import pytest
import torch
from PIL import Image

from rsd_fast.data import DataError, open_source, write, write_npz, write_png_folder
from tests.image_files import random_pixels


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


# Writing while the next batch is made


def pixels(batch, size=2, channels=1):
    return np.random.default_rng(batch).integers(256, size=(size, channels, 8, 8), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_written_meanwhile_is_what_came(tmp_path, channels):
    batches = [pixels(i, size, channels) for i, size in enumerate((5, 5, 5, 5, 2))]
    whole = np.concatenate(batches)
    write_npz(tmp_path / "x.npz", iter(batches), count=len(whole))
    assert np.array_equal(np.load(tmp_path / "x.npz")["images"], whole)
    write_png_folder(tmp_path / "x", iter(batches), masks=whole[:, :1] % 2)
    assert np.array_equal(open_source(tmp_path / "x").images, whole)
    for i, image in enumerate(whole):
        Image.fromarray(image[0] if channels == 1 else image.transpose(1, 2, 0)).save(
            tmp_path / "one.png", compress_level=1
        )
        assert (tmp_path / "x" / f"{i:06d}.png").read_bytes() == (tmp_path / "one.png").read_bytes()


def test_batches_are_made_while_others_are_written_but_not_too_many():
    asked, written, go_on = [], [], threading.Event()

    def make():
        for i in range(9):
            asked.append(i)
            if i == 3:  # one is being written and two wait: the next would have to wait, too
                assert written == []
                go_on.set()
            yield i

    def store(batch):
        assert go_on.wait(10)
        assert len(asked) <= len(written) + 4
        written.append(batch)

    write._write_behind(make(), store)
    assert written == list(range(9))


def test_an_error_in_writing_ends_the_making():
    asked, failed = [], threading.Event()

    def make():
        for i in count():
            asked.append(i)
            if i == 2:
                assert failed.wait(10)
            yield i

    def store(batch):
        if batch == 1:
            failed.set()
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write._write_behind(make(), store)
    assert len(asked) <= 4


def test_an_error_in_making_ends_the_writing():
    written = []

    def make():
        yield 0
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        write._write_behind(make(), written.append)
    assert written in ([], [0]) and threading.active_count() == before
