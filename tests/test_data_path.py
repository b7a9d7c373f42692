"""Data sets that are mapped rather than read, and batches that are read ahead."""

import errno
import gzip
import os
import struct
import tempfile
import threading
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rsd_fast import corruptions, train
from rsd_fast.corruptions import NoiseLevels
from rsd_fast.data import DataError, ObservedDataset, open_source, storage, write_h5, write_png_folder
from rsd_fast.data.order import ShuffledObservations
from rsd_fast.noise_estimation import estimate_sigma

from . import tiny

N = 23
RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (N, 8, 6, 3), dtype=np.uint8)
FLOATS = RANDOM.uniform(-1, 1, (N, 1, 8, 6)).astype(np.float32)
MASK = (RANDOM.random((N, 1, 8, 6)) > 0.4).astype(np.uint8)
LABELS = np.arange(N) % 5


@pytest.fixture
def mapping(monkeypatch, tmp_path):
    """All arrays are mapped, in blocks of a few images; returns the folder of temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(storage, "MAP_BYTES", 0)
    monkeypatch.setattr(storage, "_BLOCK_BYTES", 500)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def npy(array: np.ndarray):
    return lambda path: np.save(path, array)


def npz(save=np.savez, **arrays: np.ndarray):
    return lambda path: save(path, **arrays)


def idx(array: np.ndarray, pack=bytes):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return lambda path: path.write_bytes(pack(header + array.tobytes()))


def deep_folder(path: Path) -> None:
    path.mkdir()
    for i, image in enumerate(((FLOATS[:, 0] + 1) * 32767).astype(np.uint16)):
        Image.fromarray(image).save(path / f"{i:02}.png")


def transparent(path: Path) -> None:
    path.mkdir()
    for i in range(N):
        alpha = MASK[i, 0, :, :, None] * np.uint8(255 if i else 0)
        Image.fromarray(np.concatenate([PIXELS[i], alpha], 2)).save(path / f"{i:02}.png")


def kspace(path: Path) -> None:
    mask = np.ones((N, 1, 1, 6), np.uint8)
    mask[:, :, :, 0] = RANDOM.random((N, 1, 1)) > 0.5
    maps = np.full((N, 2, 8, 6), 0.5**0.5, np.complex64)
    write_h5(path, np.repeat(FLOATS, 4, 1), count=N, mask=mask, maps=maps)


CHANNELS_FIRST = np.ascontiguousarray(PIXELS.transpose(0, 3, 1, 2))
IN_PLACE = {
    "first.npy": npy(CHANNELS_FIRST),
    "last.npy": npy(PIXELS),
    "grey.npy": npy(PIXELS[..., 0].copy()),
    "float.npy": npy(FLOATS),
    "colour.npy": npy(PIXELS.astype(np.float32) / 127.5 - 1),
    "first.npz": npz(images=CHANNELS_FIRST, labels=LABELS),
    "float.npz": npz(images=FLOATS, sigma_obs=np.linspace(0, 1, N)),
    "masked.npz": npz(images=PIXELS, mask=MASK),
    "x-idx3-ubyte": idx(PIXELS[..., 0]),
    "x-idx4-ubyte": idx(PIXELS),
}
COPIED = {
    "fortran.npy": npy(np.asfortranarray(PIXELS)),
    "fortran.npz": npz(images=np.asfortranarray(FLOATS)),
    "half.npy": npy(FLOATS.astype(np.float16)),
    "double.npz": npz(images=FLOATS.astype(np.float64)),
    "swapped.npy": npy(FLOATS.astype(">f4")),
    "packed.npz": npz(np.savez_compressed, images=PIXELS, labels=LABELS),
    "nan.npz": npz(images=np.where(MASK, FLOATS, np.nan).astype(np.float32), mask=MASK == 1),
    "channels.npz": npz(images=FLOATS.repeat(3, 1), mask=255 * MASK.repeat(3, 1)),
    "x-idx3-ubyte.gz": idx(PIXELS[..., 0], gzip.compress),
    "folder": lambda path: write_png_folder(path, CHANNELS_FIRST, LABELS, masks=MASK),
    "transparent": transparent,
    "deep": deep_folder,
    "x.h5": kspace,
}


def same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is b is None or (a.dtype == b.dtype and np.array_equal(a, b))


@pytest.mark.parametrize("name", [*IN_PLACE, *COPIED])
def test_what_is_mapped_is_what_is_read(name, tmp_path, request):
    path = tmp_path / name
    (IN_PLACE | COPIED)[name](path)
    read = open_source(path)
    folder = request.getfixturevalue("mapping")
    source = open_source(path)
    assert isinstance(source.images, np.memmap) and not isinstance(read.images, np.memmap)
    assert same(source.images, read.images) and same(source.mask, read.mask) and same(source.maps, read.maps)
    assert same(source.labels, read.labels) and same(source.sigma, read.sigma)
    if name in IN_PLACE:
        assert Path(source.images.filename) == path and not source.images.flags.writeable
    assert list(folder.iterdir()) == []
    index = torch.tensor([5, 0, -1, 5])
    assert torch.equal(source.pixels(index), read.pixels(index))
    if not source.kspace:
        assert torch.equal(source.tensor(index), read.tensor(index))


@pytest.mark.parametrize("spec", ["gaussian_blur:size=3,std=1", "downsample:factor=2", "random_mask:missing=0.5"])
@pytest.mark.parametrize("name", ["first.npy", "last.npy", "colour.npy"])
def test_observations_are_those_of_an_array_in_memory(name, spec, tmp_path, request):
    IN_PLACE[name](tmp_path / name)

    def observed() -> torch.Tensor:
        source = open_source(tmp_path / name)
        data = ObservedDataset(source, corruption=corruptions.parse(spec), sigma_obs=0.2, seed=1, simulate=True)
        return data.observe(torch.tensor([3, 22, 0]), channels_last=True)[0].y

    read = observed()
    request.getfixturevalue("mapping")
    mapped = observed()
    assert torch.equal(mapped, read) and mapped.stride() == read.stride()


def test_only_large_arrays_are_mapped(tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", images=PIXELS, labels=LABELS)
    monkeypatch.setattr(storage, "MAP_BYTES", PIXELS.nbytes)
    assert not isinstance(open_source(tmp_path / "x.npz").images, np.memmap)
    monkeypatch.setattr(storage, "MAP_BYTES", PIXELS.nbytes - 1)
    assert isinstance(open_source(tmp_path / "x.npz").images, np.memmap)


@pytest.mark.parametrize("kind", ["first", "last", "float"])
def test_a_large_file_takes_no_memory(kind, tmp_path, monkeypatch):
    """Nor does what is done with it, though in an .npz a float does not even begin at a multiple of four bytes."""
    shape = {"first": (40_000, 3, 16, 16), "last": (40_000, 16, 16, 3), "float": (10_000, 3, 16, 16)}[kind]
    images = np.lib.format.open_memmap(
        tmp_path / "x.npy", "w+", np.float32 if kind == "float" else np.uint8, shape=shape
    )
    images[:] = RANDOM.uniform(-1, 1, shape) if kind == "float" else RANDOM.integers(0, 256, shape, np.uint8)
    np.savez(tmp_path / "xx.npz", before=np.zeros(3, np.uint8), images=images)
    del images
    monkeypatch.setattr(storage, "MAP_BYTES", 1 << 20)
    monkeypatch.setattr(storage, "_BLOCK_BYTES", 1 << 20)
    for name in ("x.npy", "xx.npz"):
        tracemalloc.start()
        source = open_source(tmp_path / name)
        dataset = ObservedDataset(source, corruption=corruptions.Identity(), sigma_obs=0.1, seed=0, simulate=True)
        data = ShuffledObservations(dataset, seed=0)
        for first in range(0, 64, 8):
            data(range(first, first + 8), range(first + 8, first + 16))
        estimate_sigma(source.images, max_images=64)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 14e6 < source.images.nbytes / 2
    if kind == "float":
        assert not source.images.flags.aligned


@pytest.mark.parametrize("name", [name for name in IN_PLACE if "." not in name or name.endswith((".npy", ".npz"))])
def test_a_file_that_was_cut_is_refused_when_it_is_opened(name, tmp_path, mapping):
    path = tmp_path / name
    IN_PLACE[name](path)
    content = path.read_bytes()
    for size in (len(content) - 1, len(content) // 2):
        path.write_bytes(content[:size])
        with pytest.raises(DataError, match=name) as caught:
            open_source(path)
        assert "\n" not in str(caught.value)


def test_a_header_that_does_not_fit_its_array_is_refused(tmp_path, mapping):
    np.save(tmp_path / "x.npy", FLOATS)
    array = (tmp_path / "x.npy").read_bytes()
    for content, what in ((array[:-4], "only"), (array + b"1", "more follow")):
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr("images.npy", content)
        with pytest.raises(DataError, match=rf"x.npz\[images\]: the header promises {FLOATS.nbytes} bytes .*{what}"):
            open_source(tmp_path / "x.npz")
    idx(PIXELS)(tmp_path / "x-idx4-ubyte")
    with (tmp_path / "x-idx4-ubyte").open("ab") as file:
        file.write(b"1")
    with pytest.raises(DataError, match="more follow"):
        open_source(tmp_path / "x-idx4-ubyte")


def test_floats_are_checked_block_by_block(tmp_path, mapping):
    for bad, message in (
        (np.nan, "image 17 holds NaN"),
        (-np.inf, "image 17 holds NaN"),
        (3, r"values -1 to 3, outside"),
    ):
        for dtype in (np.float32, np.float64):
            images = FLOATS.astype(dtype)
            images[2, 0, 0, 0] = -1
            images[17, 0, 3, 3] = images[20, 0, 0, 0] = bad
            np.save(tmp_path / "x.npy", images)
            with pytest.raises(DataError, match=f"x.npy: {message}"):
                open_source(tmp_path / "x.npy")


def test_masks_are_checked_block_by_block(tmp_path, mapping):
    mask = MASK.copy()
    mask[20, 0, 0, 0] = 2
    np.savez(tmp_path / "x.npz", images=FLOATS, mask=mask)
    with pytest.raises(DataError, match="more than two values"):
        open_source(tmp_path / "x.npz")
    box = np.ones_like(MASK)
    for i in range(N):
        box[i, :, i % 7 : i % 7 + 2, i % 5 : i % 5 + 2] = 0
    for right in (True, False):
        box[-1] = box[-2] if right else 1
        np.savez(tmp_path / "x.npz", images=FLOATS, mask=box)
        options = {"corruption": corruptions.BoxMask(size=2), "sigma_obs": 0.0, "seed": 0, "simulate": False}
        if right:
            ObservedDataset(open_source(tmp_path / "x.npz"), **options)
        else:
            with pytest.raises(DataError, match="not one square"):
                ObservedDataset(open_source(tmp_path / "x.npz"), **options)


def test_a_full_disk_is_an_error_that_says_what_to_do(tmp_path, mapping, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    np.save(tmp_path / "x.npy", FLOATS.astype(np.float16))
    with pytest.raises(DataError, match=r"x\.npy: .* GB are too many for .*temporary; let TMPDIR name"):
        open_source(tmp_path / "x.npy")


# Reading ahead


def dataset(path: Path, simulate: bool = True) -> ObservedDataset:
    """Images with masks, labels and noise levels of their own."""
    np.savez(path, images=PIXELS, mask=MASK, labels=LABELS, sigma_obs=np.linspace(0.1, 1, N))
    source = open_source(path)
    return ObservedDataset(
        source,
        corruption=corruptions.RandomMask(missing=float(1 - MASK.mean())),
        sigma_obs=NoiseLevels(highest=1.0, bank=source.sigma),
        seed=3,
        simulate=simulate,
    )


def order(data: ObservedDataset, **options) -> ShuffledObservations:
    return ShuffledObservations(data, seed=5, symmetries=(corruptions.HFLIP, corruptions.VFLIP), **options)


def assert_equal(found, expected) -> None:
    (a, labels), (b, same_labels) = found, expected
    for x, y in (
        (a.y, b.y),
        (a.operator.draw.mask, b.operator.draw.mask),
        (a.sigma_obs, b.sigma_obs),
        (labels, same_labels),
    ):
        assert torch.equal(x.cpu(), y.cpu())


@pytest.mark.parametrize("simulate", [True, False])
def test_reading_ahead_changes_no_bit(simulate, tmp_path):
    data = dataset(tmp_path / "x.npz", simulate)
    ahead, direct = order(data, prefetch=True), order(data, prefetch=False)
    for first in range(0, 4 * N, 5):  # over three ends of an epoch
        batch = range(first, first + 5)
        expected = data.observe(
            torch.cat([direct.permutation(e) for e in range(5)])[first : first + 5], channels_last=True
        )
        found = ahead(batch, range(first + 5, first + 10))
        assert_equal(found, direct(batch))
        assert torch.equal(found[1], expected[1]) and torch.equal(found[0].sigma_obs, expected[0].sigma_obs)
    assert ahead.ahead is not None and direct.ahead is None
    for batch in (range(40, 47), range(3), range(46, 69)):  # not what was announced, nor as many
        assert_equal(ahead(batch, range(1000)), direct(batch))
    assert_equal(ahead(range(3)), direct(range(3)))


def test_mapped_data_are_read_ahead_and_memory_is_not(tmp_path, request):
    assert not order(dataset(tmp_path / "x.npz")).prefetch
    request.getfixturevalue("mapping")
    data = dataset(tmp_path / "y.npz")
    assert order(data).prefetch
    assert_equal(order(data)(range(9)), order(data, prefetch=False)(range(9)))


def test_an_error_in_the_thread_surfaces_at_the_call(tmp_path, monkeypatch):
    data = dataset(tmp_path / "x.npz")
    read, calls = data.read, []

    def failing(indices, rows):
        calls.append(threading.current_thread())
        if len(calls) == 2:
            raise OSError("the disk is gone")
        read(indices, rows)

    monkeypatch.setattr(data, "read", failing)
    ahead, batches = order(data, prefetch=True), [range(4), range(4, 8), range(8, 12)]
    ahead(*batches[:2])
    with pytest.raises(OSError, match="the disk is gone"):
        ahead(*batches[1:])
    assert calls[0] is threading.main_thread() is not calls[1]
    assert_equal(ahead(*batches[1:]), order(data, prefetch=False)(batches[1]))


def test_an_interrupt_while_waiting_loses_nothing(tmp_path, monkeypatch):
    data = dataset(tmp_path / "x.npz")
    ahead, join = order(data, prefetch=True), threading.Thread.join

    def interrupted(self, timeout=None):
        monkeypatch.setattr(threading.Thread, "join", join)
        raise KeyboardInterrupt

    ahead(range(4), range(4, 8))
    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ahead(range(4, 8), range(8, 12))
    assert_equal(ahead(range(4, 8), range(8, 12)), order(data, prefetch=False)(range(4, 8)))


def test_no_thread_outlives_its_batch(tmp_path):
    before = set(threading.enumerate())
    ahead = order(dataset(tmp_path / "x.npz"), prefetch=True)
    for first in range(0, 60, 4):
        ahead(range(first, first + 4), range(first + 4, first + 8))
        assert len(set(threading.enumerate()) - before) <= 2  # a batch, and the next epoch's permutation
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()


def test_training_announces_what_it_asks_for_next(tmp_path, monkeypatch):
    asked = []

    class Recording(ShuffledObservations):
        def __call__(self, positions, then=None):
            asked.append((positions, then))
            return super().__call__(positions, then)

    monkeypatch.setattr(train, "ShuffledObservations", Recording)
    config = tiny.pretrain()
    training = replace(config.training, micro_batch=4, kimg=0.032)
    train.pretrain(replace(config, training=training), tmp_path / "run")
    assert len(asked) == 8 and [then for _, then in asked[:-1]] == [positions for positions, _ in asked[1:]]
    assert [i for positions, _ in asked for i in positions] == list(range(32))


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("kind", ["memory", "mapped"])
def test_a_gpu_is_never_waited_for(kind, tmp_path, request):
    if kind == "mapped":
        request.getfixturevalue("mapping")
    data = dataset(tmp_path / "x.npz")
    ahead, direct = order(data, device="cuda"), order(data, prefetch=False)
    assert ahead.prefetch
    ahead(range(4), range(4, 8))  # what is compiled, and tables that are made once
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = [ahead(range(i, i + 4), range(i + 4, i + 8)) for i in range(4, 2 * N, 4)]
    finally:
        torch.cuda.set_sync_debug_mode(before)
    for i, (observation, labels) in zip(range(4, 2 * N, 4), found, strict=True):
        expected, expected_labels = direct(range(i, i + 4))
        assert torch.equal(labels.cpu(), expected_labels)
        assert torch.equal(observation.operator.draw.mask.cpu(), expected.operator.draw.mask)
        assert torch.equal(observation.sigma_obs.cpu(), expected.sigma_obs)
        torch.testing.assert_close(observation.y.cpu(), expected.y, rtol=1e-5, atol=1e-5)
