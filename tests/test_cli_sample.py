"""Sampling from the command line that does not come to its end: it stops soon and leaves nothing."""

import errno
import time
from zipfile import ZipFile

import pytest
from PIL import Image

from rsd_fast.sampler import Sampler
from tests.command_line import run_in_process
from tests.test_sampler import saved


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    """A checkpoint of a small generator."""
    return saved(tmp_path_factory.mktemp("runs"), "plain", "generator")


@pytest.mark.parametrize("out", ["folder", "file.npz"])
def test_sampling_onto_a_full_disk_stops_soon_and_leaves_nothing(generator, tmp_path, capsys, monkeypatch, out):
    drawn = []
    draw = Sampler.draw

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / out))

    def slowly(self, index, seed):
        drawn.append(len(index))
        time.sleep(0.01)
        return draw(self, index, seed)

    monkeypatch.setattr(Sampler, "draw", slowly)
    if out == "folder":
        monkeypatch.setattr(Image.Image, "save", full)
    else:
        opened = ZipFile.open
        monkeypatch.setattr(ZipFile, "open", lambda *a, **k: no_space(opened(*a, **k), full))
    arguments = ["sample", "--run", generator, "--out", tmp_path / out, "--num", 400, "--batch", 2]
    code, _, error = run_in_process(capsys, *arguments)
    assert code == 1 and error == f"Error: {tmp_path / out}: No space left on device\n"
    assert len(drawn) < 20 and list(tmp_path.iterdir()) == []


def no_space(member, full):
    """An archive's member whose header still finds room."""
    header = member.write

    def write(data):
        return full() if isinstance(data, memoryview) else header(data)

    member.write = write
    return member


@pytest.mark.parametrize("out", ["folder", "file.npz"])
def test_interrupted_sampling_leaves_nothing(generator, tmp_path, capsys, monkeypatch, out):
    drawn = []
    draw = Sampler.draw

    def interrupted(self, index, seed):
        drawn.append(index)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return draw(self, index, seed)

    monkeypatch.setattr(Sampler, "draw", interrupted)
    arguments = ["sample", "--run", generator, "--out", tmp_path / out, "--num", 40, "--batch", 2]
    code, _, error = run_in_process(capsys, *arguments)
    assert code == 1 and error.strip() == "Error: interrupted"
    assert list(tmp_path.iterdir()) == []
