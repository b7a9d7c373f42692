"""Checkpoints are read as they were written, and nothing that a file says is executed, in any mutation of it."""

import argparse
import collections
import io
import os
import pickle
import struct
import subprocess
import sys
import time
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rsd_fast.convert.pickle_objects import MAX_LEVELS
from rsd_fast.convert.torch_files import read
from rsd_fast.convert.unpickle import CheckpointError, Node, load

"".encode("cp437")  # zipfile's, imported on first use

WRITERS: dict[str, Callable[[Any, io.BytesIO], None]] = {
    "zip": lambda value, file: torch.save(value, file),
    "legacy": lambda value, file: torch.save(value, file, _use_new_zipfile_serialization=False),
    **{f"pickle {n}": lambda value, file, n=n: pickle.dump(value, file, n) for n in range(6)},
}


def written(value: Any, writer: str) -> bytes:
    file = io.BytesIO()
    WRITERS[writer](value, file)
    return file.getvalue()


def read_back(folder: Path, data: bytes) -> Any:
    (folder / "x.pt").write_bytes(data)
    return read(folder / "x.pt")


@pytest.mark.parametrize("writer", WRITERS)
def test_modules_are_inert(tmp_path: Path, writer: str) -> None:
    layer = torch.nn.Linear(2, 3)
    options = argparse.Namespace(lr=0.1, kind=torch.nn.Linear, dtype=torch.float16, device=torch.device("cpu"))
    node, opt, space = read_back(tmp_path, written([layer, options, types.SimpleNamespace(a=1)], writer))
    assert isinstance(node, Node) and node.name == "torch.nn.modules.linear.Linear"
    assert all(node.state["_parameters"][name].equal(value) for name, value in layer.named_parameters())
    assert node.state["training"] is True
    assert opt.name == "argparse.Namespace" and opt.state["lr"] == 0.1
    assert opt.state["kind"].name == "torch.nn.modules.linear.Linear" and opt.state["kind"].args is None
    assert opt.state["dtype"].name == "torch.float16" and opt.state["device"].args == ("cpu",)
    assert space.name == "types.SimpleNamespace" and space.state == {"a": 1}


def edm(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Modules that pickle with their source, as those of the EDM family."""
    persistence, util = types.ModuleType("torch_utils.persistence"), types.ModuleType("dnnlib.util")

    class EasyDict(dict):
        pass

    class Persistent:
        def __init__(self, class_name: str, **state: Any):
            self.meta = EasyDict(type="class", version=6, module_src="import os\n" * 9, class_name=class_name)
            self.meta["state"] = state

        def __reduce_ex__(self, protocol: Any) -> tuple:
            return _reconstruct_persistent_obj, (self.meta,)

    def _reconstruct_persistent_obj(meta: Any) -> None:
        pytest.fail("was called")

    for module, member in ((persistence, _reconstruct_persistent_obj), (util, EasyDict)):
        member.__module__, member.__qualname__ = module.__name__, member.__name__
        setattr(module, member.__name__, member)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(sys.modules, module.__name__.split(".")[0], types.ModuleType("package"))
    weights = collections.OrderedDict(weight=torch.nn.Parameter(torch.arange(6.0).view(2, 3)), bias=None)
    inner = Persistent("SongUNet", _parameters=weights, _buffers={"f": torch.ones(4)}, _modules={})
    modules = collections.OrderedDict(model=inner)
    return {"ema": Persistent("EDMPrecond", _init_args=(32, 3), _init_kwargs={"label_dim": 0}, _modules=modules)}


@pytest.mark.parametrize("protocol", range(6))
def test_edm_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int) -> None:
    node = read_back(tmp_path, written(edm(monkeypatch), f"pickle {protocol}"))["ema"]
    assert node.name == "torch_utils.persistence._reconstruct_persistent_obj" and len(node.args) == 1
    assert type(node.args[0]) is dict and node.args[0]["class_name"] == "EDMPrecond"
    inner = node.args[0]["state"]["_modules"]["model"].args[0]
    assert inner["state"]["_parameters"]["weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert inner["module_src"].startswith("import os")


def test_texts_of_python_2() -> None:
    data = b"(S'a\\n\\x41'\nS'\\xff'\nU\x01bT\x02\x00\x00\x00cdI01\nL5L\nF1.5\nl."
    assert load(data) == ["a\nA", b"\xff", "b", "cd", True, 5, 1.5]


@pytest.fixture(autouse=True)
def _in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where `touch marker` would leave it


def assert_refused(folder: Path, data: bytes, *parts: str) -> None:
    """In less than a second, in one line that names the file and the parts, without a trace."""
    path = folder / "x.pt"
    path.write_bytes(data)
    files, modules, start = os.listdir(folder), set(sys.modules), time.process_time()
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert time.process_time() - start < 1
    assert os.listdir(folder) == files and set(sys.modules) == modules
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and message.isprintable() and len(message) < len(str(path)) + 500
    assert all(part in message for part in parts), message


def call(name: str, argument: str = "touch marker") -> bytes:
    module, _, function = name.rpartition(".")
    return f"c{module}\n{function}\n(V{argument}\ntR.".encode()


def nested(data: bytes) -> bytes:
    """As pickle writes a tensor's storage."""
    return b"ctorch.storage\n_load_from_bytes\nB" + struct.pack("<I", len(data)) + data + b"\x85R."


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(f"x/{name}", data)
    return file.getvalue()


UNSAFE = """
os.system posix.system nt.system subprocess.Popen builtins.eval builtins.exec builtins.getattr builtins.__import__
builtins.compile builtins.open builtins.type builtins.globals __builtin__.eval types.CodeType types.FunctionType
types.LambdaType marshal.loads torch.load torch.jit.load torch.jit._script.RecursiveScriptModule torch.hub.load
torch._utils._rebuild_sparse_tensor torch.nn.functional.linear numpy.load numpy.testing._private.utils.runstring
importlib.import_module runpy._run_code pickle.loads webbrowser.open socket.socket shutil.rmtree dnnlib.util.open_url
functools.partial operator.attrgetter copyreg._extension_registry torch_utils.custom_ops.get_plugin
"""


@pytest.mark.parametrize("name", UNSAFE.split())
def test_names_are_refused_when_met(tmp_path: Path, name: str) -> None:
    culprit = name.replace("__builtin__", "builtins")
    module, _, function = name.rpartition(".")
    assert_refused(tmp_path, call(name), culprit)
    assert_refused(tmp_path, b"\x80\x04" + text(module) + text(function) + b"\x93\x8c\x01a\x85R.", culprit)
    assert_refused(tmp_path, f"(V1\ni{module}\n{function}\n.".encode(), culprit)
    assert_refused(tmp_path, f"(c{module}\n{function}\nV1\no.".encode(), culprit)
    assert_refused(tmp_path, zipped({"data.pkl": call(name)}), culprit)
    assert_refused(tmp_path, nested(call(name)), culprit)


def test_names_in_disguise(tmp_path: Path) -> None:
    for name in ("os.system#.Linear", "os\u200b.system", "torch.nn.modules.x y", "a." * 200 + "Linear", ".Linear"):
        module, _, function = name.rpartition(".")
        assert_refused(tmp_path, f"c{module}\n{function}\n.".encode(), "names")


def test_an_allowed_name_is_not_looked_up(tmp_path: Path) -> None:
    before = set(sys.modules)
    for name in ("os.Linear", "antigravity.SongUNet", "torch.nn.modules.no_such.system", "torch.optim.os.system"):
        node = read_back(tmp_path, call(name))
        assert (node.name, node.args) == (name, ("touch marker",))
    assert set(sys.modules) == before and os.listdir(tmp_path) == ["x.pt"]


class Evil:
    def __reduce__(self) -> tuple:
        return os.system, ("touch marker",)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_real_exploit(tmp_path: Path, writer: str) -> None:
    assert_refused(tmp_path, written({"ema": Evil(), "x": torch.ones(2)}, writer), f"{os.system.__module__}.system")


CLAIMS = {
    **dict.fromkeys((b"\x8d", b"\x8e", b"\x96", b"\x95"), struct.pack("<Q", 10 * 2**30)),
    **dict.fromkeys((b"X", b"B"), struct.pack("<I", 2**32 - 1)),
    **dict.fromkeys((b"T", b"\x8b"), struct.pack("<i", 2**31 - 1)),
    **dict.fromkeys((b"U", b"C", b"\x8c", b"\x8a"), b"\xff"),
}


@pytest.mark.parametrize("opcode", CLAIMS)
def test_lengths_beyond_the_file(tmp_path: Path, opcode: bytes) -> None:
    assert_refused(tmp_path, opcode + CLAIMS[opcode] + b"x" * 240, "bytes")
    if opcode in (b"T", b"\x8b"):
        assert_refused(tmp_path, opcode + struct.pack("<i", -1) + b"x" * 240, "bytes")


BOMBS = {
    "laughs": b"]q\x00" + b"".join(b"(" + b"h%c" % i * 10 + b"lq%c" % (i + 1) for i in range(100)) + b".",
    "tuple laughs": b")q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(150)) + b".",
    "laughing key": b"})q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(150)) + b"K\x01s.",
    "deep marks": b"(" * 100_000 + b".",
    "deep lists": b"]" * 100_000 + b"a" * 99_999 + b".",
    "deep tuples": b")" + b"\x85" * 100_000 + b".",
    "deep dicts": b"}" + b"K\x01}" * 5_000 + b"s" * 5_000 + b".",
    "deep nodes": b")" + b"".join(b"\x85q\x000ca\nLinear\nh\x00R" for _ in range(5_000)) + b".",
    "recursive list": b"]q\x00h\x00a.",
    "recursive dict": b"}q\x00K\x01h\x00s.",
    "recursive tuple": b"]q\x00h\x00\x85a.",
    "recursive node": b"ca\nLinear\n)Rq\x00h\x00b.",
    "long memo index": b"]r\xff\xff\xff\x7fj\xff\xff\xff\xff.",
    "long put": b"]p" + b"9" * 10_000_000 + b"\n.",
    "long int": b"I" + b"9" * 10_000_000 + b"\n.",
    "long long": b"L" + b"9" * 10_000_000 + b"L\n.",
    "long float": b"F" + b"9" * 10_000_000 + b"\n.",
    "long long1": b"\x8b" + struct.pack("<i", 4000) + b"9" * 4000 + b".",
    "copies": b"C\xff" + b"x" * 255 + b"\x85q\x00" + b"cbuiltins\nbytearray\nq\x010" + b"h\x01h\x00R0" * 20_000 + b"N.",
    "a size as bytes": b"cbuiltins\nbytes\n\x8a\x05\x00\x00\x00\x00\x0f\x85R.",
    "a size as a list": b"cbuiltins\nlist\nJ\xff\xff\xff\x7f\x85R.",
    "a nest as text": b"cbuiltins\nstr\n]\x85R.",
    "an unhashable key": b"}]K\x01s.",
    "a colliding key": b"}\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x1fK\x01s.",
    "an unhashable member": b"\x8f(]\x90.",
    "a key that is a node": b"}ca\nLinear\nK\x01s.",
    "a member that is a list": b"(]\x91.",
    "a class that is built": b"ca\nLinear\n}b.",
    "a text that is called": b"Va\n)R.",
    "a node that is called": b"ca\nLinear\n)R)R.",
    "an underflow": b"a.",
    "an underflow below a mark": b"K\x01(0000.",
    "nothing": b".",
    "an extension": b"\x82\x01.",
    "a buffer": b"\x97.",
    "a protocol": b"\x80\x06N.",
    "a persistent id": b"Vx\nQ.",
    "no text": b"Sx\n.",
    "arrays of objects": pickle.dumps(np.array([None, 1]), 2),
    "texts in arrays": pickle.dumps(np.array(["a"]), 2),
    "a shape beyond its bytes": pickle.dumps(np.zeros(3), 2).replace(b"K\x03\x85", b"J\x00\x00\x00\x7f\x85"),
    "a negative shape": pickle.dumps(np.zeros(3), 2).replace(b"K\x03\x85", b"J\xff\xff\xff\xff\x85"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(tmp_path: Path, name: str) -> None:
    assert_refused(tmp_path, BOMBS[name], "byte ")


def test_what_comes_out_may_be_walked() -> None:
    nest = pickle.dumps(eval("[" * MAX_LEVELS + "]" * MAX_LEVELS), 2)
    assert str(load(nest)) == "[" * MAX_LEVELS + "]" * MAX_LEVELS
    shared = [1] * 1000
    assert load(pickle.dumps([shared] * 1000)) == [shared] * 1000


@pytest.mark.skipif(sys.platform != "linux", reason="limits its memory as Linux does")
def test_fuzz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"x": torch.ones(3), "y": torch.ones(2, 3).t(), "n": [1, (2.5, None)], "d": collections.OrderedDict(a={1})}
    seeds = [written(value, writer) for writer in ("zip", "legacy", "pickle 0", "pickle 2", "pickle 4")]
    seeds += [written([np.ones(3), np.float32(1), np.arange(4).reshape(2, 2).T], f"pickle {n}") for n in (2, 5)]
    seeds += [written(edm(monkeypatch), f"pickle {n}") for n in (2, 4)]
    seeds += [written(torch.nn.Linear(1, 2), "pickle 2"), *(written([Evil(), value], f"pickle {n}") for n in (0, 2, 4))]
    names = [f"{i}.seed" for i in range(len(seeds))]
    for name, data in zip(names, seeds, strict=True):
        (tmp_path / name).write_bytes(data)
    script = Path(__file__).with_name("fuzz_unpickle.py")  # a process of its own, as its guards cannot be taken off
    done = subprocess.run([sys.executable, script, "10000", "0"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(tmp_path)) == sorted([*names, "mutated"])
