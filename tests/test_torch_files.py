"""Tensors and arrays come out as they were saved, in every container; none is larger than what the file holds."""

import collections
import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rsd_fast.convert.torch_files import read
from rsd_fast.convert.unpickle import CheckpointError

from .test_unpickle import WRITERS, assert_refused, nested, read_back, written, zipped

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128, torch.bool]
DTYPES += [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64]
DTYPES += [torch.float8_e4m3fn, torch.float8_e5m2]


def tensors() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, generator=generator)
    return {
        "by dtype": {str(dtype): (10 * torch.rand(2, 3, generator=generator)).to(dtype) for dtype in DTYPES},
        "views": [base, base[1:3], base.t(), base[::2, ::3], base.view(-1)[5:]],
        "shapes": (torch.tensor(3.0), torch.empty(0), torch.empty(0, 5), torch.ones(1, 1, 2)),
        "parameters": collections.OrderedDict(w=torch.nn.Parameter(base.clone()), n=None),
        "size": torch.Size([2, 3]),
        "scalars": [1, -1, 255, 2**16, -(2**40), 2**200, True, False, None, 0.1, float("inf"), 1 + 2j, "é\n\\", ""],
        "containers": [(), (1,), (1, 2), (1, 2, 3, 4), [], {}, {1, 2}, frozenset("a"), {(1, "a"): slice(1, None, 2)}],
        "bytes": [b"", b"\xff\n", bytearray(b"ab"), b"long" * 100],
        "long": list(range(3000)),
        "default": collections.defaultdict(list, a=[1]),
    }


def arrays() -> list:
    a = np.arange(24.0).reshape(2, 3, 4)
    return [
        *(a, a.T, a[:, ::2], a.transpose(1, 0, 2), np.asfortranarray(a), np.array(2.0), np.ones((0, 3))),
        *(a.astype(dtype) for dtype in ("?", "i1", "u2", "i4", "u8", "f2", "f4", "c8")),
        *(np.float32(0.5), np.int64(-3), np.bool_(True), np.arange(500.0)),
    ]


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, torch.Tensor):
        assert type(b) is torch.Tensor and a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride()
        assert a.detach().contiguous().view(-1).view(torch.uint8).equal(b.contiguous().view(-1).view(torch.uint8))
    elif isinstance(a, (np.ndarray, np.generic)):
        assert type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and (a == b).all()
        assert np.ndim(b) == 0 or b.flags.writeable
    elif isinstance(a, dict):
        assert isinstance(b, dict) and list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert isinstance(b, type(a) if type(a) is not torch.Size else tuple) and len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert type(a) is type(b) and a == b


@pytest.mark.parametrize("writer", WRITERS)
def test_round_trip(tmp_path: Path, writer: str) -> None:
    value = {**tensors(), "arrays": arrays()}
    assert_same(value, read_back(tmp_path, written(value, writer)))


@pytest.mark.parametrize("writer", ["zip", "legacy"])
def test_a_storage_stays_shared(tmp_path: Path, writer: str) -> None:
    base = torch.zeros(5)
    first, second = read_back(tmp_path, written([base[:3], base[2:]], writer))
    first[2] = 7
    assert second[0] == 7


def test_a_storage_by_itself_is_flat(tmp_path: Path) -> None:
    (flat,) = read_back(tmp_path, written([torch.ones(2).untyped_storage()], "zip"))
    assert flat.view(torch.float32).tolist() == [1, 1]


@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_are_native(tmp_path: Path, protocol: int) -> None:
    array = read_back(tmp_path, pickle.dumps(np.arange(3, dtype=">f4"), protocol))
    assert array.dtype == np.float32 and array.tolist() == [0, 1, 2]


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def rebuilt(numel: int, offset: Any, size: Any, stride: Any) -> bytes:
    """A torch.save archive of one tensor over a storage of `numel` float32."""
    storage = f"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI{numel}\ntQ".encode()
    rest = b"".join(pickle.dumps(part, 1)[:-1] for part in (offset, size, stride, False, None))
    pickled = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + b"tR."
    return zipped({"data.pkl": pickled, "data/0": bytes(16)})


TENSORS = [
    *((4, 0, (5,), (1,)), (4, 1, (4,), (1,)), (4, -1, (2,), (1,)), (4, 0, (2,), (-1,)), (4, 0, (-1,), (1,))),
    *((4, 0, (2500000000,), (0,)), (4, 0, (2, 2), (4, 1)), (4, 0, (2**62, 2**62), (0, 0)), (4, 0, (1,), (2**70,))),
    *((4, 0, (2,), (1, 1)), (4, 0, (1,) * 9, (1,) * 9), (4, 0.0, (1,), (1,)), (4, True, (1,), (1,))),
    *((4, 5, (0,), (1,)), (4, 0, [1], (1,)), (4, 0, None, (1,)), (4, 0, (1, 2**61), (2**61, 1))),
    *((2500000000, 0, (2500000000,), (1,)), (3, 0, (3,), (1,)), (-4, 0, (1,), (1,))),
]


@pytest.mark.parametrize("tensor", TENSORS, ids=str)
def test_tensors_beyond_their_storage(tmp_path: Path, tensor: tuple) -> None:
    assert read_back(tmp_path, rebuilt(4, 1, (3,), (1,))).tolist() == [0, 0, 0]
    assert_refused(tmp_path, rebuilt(*tensor), "byte ")


def test_legacy_storages_beyond_the_file(tmp_path: Path) -> None:
    data = written(torch.ones(3), "legacy")
    huge = data.replace(b"K\x03Nt", b"J\x00\x00\x00\x7fNt")
    assert_refused(tmp_path, huge, "more than the file holds")
    assert_refused(tmp_path, data[:-20] + struct.pack("<q", 2**40) + data[-12:], "elements")
    assert_refused(tmp_path, data[:-20] + struct.pack("<q", -3) + data[-12:], "elements")
    assert_refused(tmp_path, nested(huge), "more than the file holds")
    assert_refused(tmp_path, data.replace(b"little_endian", b"middle_endian"), "big-endian")


def test_archives(tmp_path: Path) -> None:
    whole = members(written({"x": torch.ones(100)}, "zip"))
    assert read_back(tmp_path, zipped(whole))["x"].sum() == 100
    assert_refused(tmp_path, zipped(whole, zipfile.ZIP_DEFLATED), "compressed")
    assert_refused(tmp_path, zipped({**whole, "data/0": bytes(396)}), "storage '0': 400 bytes are wanted, it is 396")
    assert_refused(tmp_path, zipped({n: d for n, d in whole.items() if n != "data/0"}), "absent")
    assert_refused(tmp_path, zipped({**whole, "byteorder": b"big"}), "big-endian")
    assert_refused(tmp_path, zipped({**whole, "constants.pkl": b""}), "TorchScript")
    assert_refused(tmp_path, zipped({**whole, "code/x.py": b""}), "TorchScript")
    assert_refused(tmp_path, zipped({"readme": b""}), "no data.pkl")
    twice = zipped({**whole, "data/1": bytes(400)}).replace(b"x/data/1", b"x/data/0")
    assert_refused(tmp_path, twice, "two members of one name")
    flipped = zipped(whole).replace(b"\x00\x00\x80?" * 50, b"\x00\x00\x80@" * 50)
    assert_refused(tmp_path, flipped, "CRC")


def test_files_within_tensors(tmp_path: Path) -> None:
    data = pickle.dumps("deep", 2)
    for _ in range(2):
        data = nested(data)
        assert read_back(tmp_path, data) == "deep"
    assert_refused(tmp_path, nested(data), "files within tensors")
    assert read_back(tmp_path, nested(written(torch.ones(2), "zip"))).tolist() == [1, 1]


@pytest.mark.parametrize("writer", ["zip", "legacy", "pickle 2", "pickle 5"])
def test_truncated(tmp_path: Path, writer: str) -> None:
    data = written({"x": torch.ones(20), "y": np.ones(5)}, writer)
    for i in range(50):
        assert_refused(tmp_path, data[: i * (len(data) - 1) // 49])


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    assert_refused(tmp_path, b"", "empty")
    for page in (b"<!DOCTYPE html><html>", b"\n <HTML>", b"\xef\xbb\xbf<?xml version"):
        assert_refused(tmp_path, page, "web page")
    assert_refused(tmp_path, b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs pointer")
    for path, part in ((tmp_path, "file is wanted"), (tmp_path / "none", "no such file")):
        with pytest.raises(CheckpointError, match=part) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")
