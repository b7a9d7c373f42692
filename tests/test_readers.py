"""The registry of readers: what lists of sources say, and what a new kind takes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rsd_fast.data import IN_MEMORY, DataError, open_source, write_png_folder
from rsd_fast.data.readers import READERS, Reader, brief_kinds, kinds
from rsd_fast.data.rules import Contents, to_channels_first
from rsd_fast.errors import FieldError
from tests.command_line import ROOT, run_in_process
from tests.image_files import assert_refused, random_pixels


@pytest.fixture
def add(monkeypatch):
    """Registers a kind of source for the time of a test."""
    monkeypatch.setattr(READERS, "_records", dict(READERS))
    return lambda name, **fields: READERS.add(name, Reader(about=f"a .{name} file", brief=f".{name}", **fields))


def read_raw(path: Path) -> Contents:
    """8x8 images, byte by byte."""
    return Contents(to_channels_first(np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 8, 8), str(path)))


def test_a_new_kind_of_source_is_one_record(tmp_path, capsys, add):
    images = random_pixels(40, 8, 8)
    path = tmp_path / "micrographs.Raw"
    path.write_bytes(images.tobytes())
    assert_refused(path, f"{path}: not a source; a source is {kinds()}")
    add("raw", read=read_raw, suffixes=(".raw",))

    source = open_source(path)
    np.testing.assert_array_equal(source.images, images[:, None])
    assert source.name == "micrographs"
    assert_refused(tmp_path / "absent.raw", "absent.raw: no such file or folder", "a .raw file")
    code, out, error = run_in_process(
        capsys, "corrupt", "--data", path, "--sigma-obs", "0.1", "--out", tmp_path / "seen.npz"
    )
    assert code == 0, error
    assert len(open_source(tmp_path / "seen.npz", observations=True, sigma_obs_max=0.1)) == 40
    for command in ("pretrain", "corrupt"):
        _, out, _ = run_in_process(capsys, command, "--help")
        assert ".raw, " in " ".join(out.split())


def test_a_package_that_is_missing_is_named_with_its_extra(tmp_path, monkeypatch, add):
    add("tif3", read=read_raw, suffixes=(".tif3",), package="no_such_package", extra="microscopy")
    (tmp_path / "x.tif3").write_bytes(bytes(64))
    assert_refused(
        tmp_path / "x.tif3",
        f"{tmp_path / 'x.tif3'}: reading a .tif3 file needs no_such_package: pip install 'rsd-fast[microscopy]'",
    )
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "x.h5").write_bytes(bytes(64))
    assert_refused(tmp_path / "x.h5", "needs h5py: pip install 'rsd-fast[mri]'")
    with pytest.raises(ValueError, match="the name is taken"):
        add("zip", read=read_raw)


def test_a_folder_goes_to_the_reader_that_claims_it(tmp_path, add):
    write_png_folder(tmp_path / "pngs", random_pixels(3, 1, 8, 8))
    (tmp_path / "pngs" / "x.raw").write_bytes(bytes(64))
    assert len(open_source(tmp_path / "pngs")) == 3
    add("raw", read=lambda path: read_raw(path / "x.raw"), claims=lambda path: (path / "x.raw").exists())
    source = open_source(tmp_path / "pngs")
    assert len(source) == 1 and source.name == "pngs"


def test_a_bundled_name_comes_before_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_png_folder("digits", random_pixels(3, 1, 8, 8))
    assert len(open_source("digits")) == 1797
    assert len(open_source("./digits")) == len(open_source(Path("digits"))) == 3


def test_lists_name_every_kind_and_take_no_torch():
    for words in ("a folder of images", ".zip", ".npy", ".npz", "idx3-ubyte", "fastMRI .h5", "(digits)"):
        assert words in kinds()
    assert brief_kinds() == "folder, .npy, .npz, idx file, .h5, .zip, or a bundled set (digits)"
    code = "import sys, rsd_fast.data.readers; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT).strip() == "False"
    with pytest.raises(FieldError, match=r"data: unknown reader 'zap'.*did you mean 'zip'"):
        READERS["zap"]


def test_data_given_in_memory_cannot_be_opened_again():
    with pytest.raises(DataError, match=r"the data were given in memory; give them again .*resume=True.*, or a path"):
        open_source(IN_MEMORY)
