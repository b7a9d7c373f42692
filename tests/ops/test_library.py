"""Who serves an op on which device: what is chosen, forced, and filled up by a second choice."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rsd_fast import ops
from rsd_fast.ops import _library


def test_every_reference_has_a_public_function_of_its_name():
    assert {"blur_adjoint", "observe_perturb", "uniform"} <= set(dir(ops.reference))
    for name in dir(ops.reference):
        assert getattr(ops.reference, name).__module__ == getattr(ops, name).__module__
    with pytest.raises(AttributeError, match="has no public op 'sharpen'"):
        ops.reference.sharpen  # noqa: B018


def test_backend_choice(monkeypatch):
    built, built_for_cpu = SimpleNamespace(build={"cuda": True}), SimpleNamespace(build={"cuda": False})

    def choose(forced, native, triton=True, interpret=False):
        monkeypatch.setenv("RSD_FAST_BACKEND", forced)
        monkeypatch.setenv("TRITON_INTERPRET", "1" if interpret else "0")
        monkeypatch.setattr(_library, "_C", native)
        monkeypatch.setattr(_library, "_HAS_TRITON", triton)
        return tuple(_library._choose().values())

    assert choose("", built) == ("native", "native")
    assert choose("", built_for_cpu) == ("native", "triton")
    assert choose("", built_for_cpu, triton=False) == ("native", "reference")
    assert choose("", None) == ("reference", "triton")
    assert choose("", None, triton=False) == ("reference", "reference")
    assert choose("", None, interpret=True) == ("reference", "triton")
    assert choose("reference", built) == ("reference", "reference")
    assert choose("triton", built) == ("reference", "triton")
    assert choose("triton", built, interpret=True) == ("triton", "triton")
    with pytest.raises(RuntimeError, match=r"RSD_FAST_BACKEND=native: .*RSD_FAST_NATIVE=1"):
        choose("native", None)
    with pytest.raises(RuntimeError, match=r"RSD_FAST_BACKEND=triton: .*pip install 'triton>="):
        choose("triton", built, triton=False)
    with pytest.raises(ValueError, match="RSD_FAST_BACKEND: expected native, triton or reference, got 'fast'"):
        choose("fast", built)


def test_native_that_cannot_be_loaded(monkeypatch):
    def fail(name):
        raise ImportError("wrong ELF class")

    monkeypatch.setattr(_library.importlib, "import_module", fail)
    with pytest.warns(UserWarning, match="cannot be loaded.*wrong ELF class"):
        module, state = _library._load_native()
    assert module is None and "wrong ELF class" in state


def _python(code, **environment):
    """Run code in a new process; what it printed, from JSON."""
    kept = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "RSD_FAST_BACKEND")}
    here = Path(__file__).parent  # from the checkout's root its rsd_fast would hide an installed one
    done = subprocess.run(
        [sys.executable, "-c", code], env={**kept, **environment}, cwd=here, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


DISPATCH = """
import json, torch
from rsd_fast import ops
sample = torch.arange(3)
print(json.dumps([ops.backends()["randn"]["cpu"], ops.randn((3, 5), 8, sample, 1, 2).tolist(),
                  ops.philox(8, sample, 0, 1, 2).long().tolist()]))
"""


@pytest.mark.parametrize("forced", ["native", "triton", "reference"])
def test_forced_backend_serves(forced):
    if forced == "native" and "compiler" not in ops.native_info():
        pytest.skip("rsd_fast._C is not built")
    if forced == "triton":
        pytest.importorskip("triton")
    served, normal, word = _python(DISPATCH, RSD_FAST_BACKEND=forced, TRITON_INTERPRET="1")
    sample = torch.arange(3)
    assert served == forced
    assert torch.equal(torch.tensor(normal), ops.reference.randn((3, 5), 8, sample, 1, 2))
    assert word == ops.reference.philox(8, sample, 0, 1, 2).long().tolist()


def _serving(monkeypatch, forced, native, triton):
    """{op: {device: backend}} after registering an op that native has for the CPU alone, and one it has for both."""
    monkeypatch.setenv("RSD_FAST_BACKEND", forced)
    monkeypatch.setattr(_library, "_C", native)
    monkeypatch.setattr(_library, "_HAS_TRITON", triton)
    monkeypatch.setattr(_library, "CHOICE", _library._choose())
    monkeypatch.setattr(_library, "SECOND_CHOICE", _library._choose_second())
    ops_ = ("partial", "complete")
    monkeypatch.setattr(_library, "_OPS", {op: _library._Op(print, print, None) for op in ops_})
    registered = []
    monkeypatch.setattr(torch.library, "impl", lambda op, device: lambda f: registered.append((op, device)))
    loaded = []
    monkeypatch.setattr(_library, "kernels", loaded.append)
    _library.load_kernels()
    for backend in loaded:
        devices = {"partial": ("cpu",), "complete": _library.DEVICES} if backend == "native" else {}
        for op in ops_:
            _library.implement(op, backend, devices.get(op, _library.DEVICES))(lambda: None)
    assert len(set(registered)) == len(registered)  # nobody registers over another
    return _library.backends()


def test_triton_serves_cuda_where_native_has_no_kernel(monkeypatch):
    built, built_for_cpu = SimpleNamespace(build={"cuda": True}), SimpleNamespace(build={"cuda": False})
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    native, partial = {"cpu": "native", "cuda": "native"}, {"cpu": "native", "cuda": "triton"}
    fallback = {"cpu": "native", "cuda": "reference"}
    nothing = dict.fromkeys(_library.DEVICES, "reference")
    assert _serving(monkeypatch, "", built, True) == {"complete": native, "partial": partial}
    assert _serving(monkeypatch, "", built, False) == {"complete": native, "partial": fallback}
    assert _serving(monkeypatch, "", built_for_cpu, True) == {"complete": partial, "partial": partial}
    assert _serving(monkeypatch, "native", built, True) == {"complete": native, "partial": fallback}
    assert _serving(monkeypatch, "reference", built, True) == {"complete": nothing, "partial": nothing}
    only_cuda = {"cpu": "reference", "cuda": "triton"}
    assert _serving(monkeypatch, "triton", built, True) == {"complete": only_cuda, "partial": only_cuda}
