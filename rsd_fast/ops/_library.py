"""Who serves which op on which device: decided once, at import.

Every op has a PyTorch reference, registered as its default on every device. Before it comes, per device, the
native extension ``rsd_fast._C`` where it is built, else (on "cuda", AMD's devices included) Triton. The
environment variable RSD_FAST_BACKEND=native|triton|reference forces one and fails where that one is absent.
Triton serves "cpu" only where it is forced under TRITON_INTERPRET=1, which is for testing.
"""

import functools
import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

DEVICES = ("cpu", "cuda")
Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def _load_native() -> tuple[Any, str]:
    """The module ``rsd_fast._C``, or None, and where it stands in words."""
    try:
        module = importlib.import_module("rsd_fast._C")
    except ModuleNotFoundError:
        skipped = Path(__file__).parents[1] / "_native_skipped.txt"
        reason = skipped.read_text().strip() if skipped.exists() else "installed with RSD_FAST_NATIVE=0"
        return None, f"not built: {reason}"
    except ImportError as error:
        warnings.warn(f"rsd_fast._C cannot be loaded, PyTorch code serves instead: {error}", stacklevel=2)
        return None, f"built, but cannot be loaded: {error}"
    return module, "built for " + ("cpu and cuda" if module.build["cuda"] else "cpu")


def _choose() -> dict[str, str]:
    """{device: backend} under RSD_FAST_BACKEND; RuntimeError where the backend it names is absent."""
    forced = os.environ.get("RSD_FAST_BACKEND", "")
    if forced not in ("", "native", "triton", "reference"):
        raise ValueError(f"RSD_FAST_BACKEND: expected native, triton or reference, got {forced!r}")
    native_cuda = _C is not None and _C.build["cuda"]
    if forced == "native":
        if _C is None:
            raise RuntimeError(
                f"RSD_FAST_BACKEND=native: rsd_fast._C is {_C_STATE}; "
                "install with RSD_FAST_NATIVE=1 to build it or to see why it does not build"
            )
        if not native_cuda and torch.cuda.is_available():
            raise RuntimeError(
                "RSD_FAST_BACKEND=native: rsd_fast._C is built without CUDA; "
                "install with RSD_FAST_CUDA=1, which needs nvcc"
            )
    if forced == "triton" and not _HAS_TRITON:
        raise RuntimeError("RSD_FAST_BACKEND=triton: Triton is not installed; pip install triton")

    choice = dict.fromkeys(DEVICES, "reference")
    if forced in ("", "triton") and _HAS_TRITON:
        choice["cuda"] = "triton"
        if forced and os.environ.get("TRITON_INTERPRET") == "1":
            choice["cpu"] = "triton"
    if forced in ("", "native") and _C is not None:
        choice["cpu"] = "native"
        if native_cuda:
            choice["cuda"] = "native"
    return choice


_C, _C_STATE = _load_native()
_HAS_TRITON = importlib.util.find_spec("triton") is not None
CHOICE = _choose()
_TABLE: dict[str, dict[str, str]] = {}


def define(op: str, schema: str, reference: Callable[..., Any]) -> None:
    """Define ``rsd_fast::op`` with ``reference`` as its code on every device that nothing else serves."""
    torch.library.define(f"rsd_fast::{op}", schema)
    torch.library.impl(f"rsd_fast::{op}", "default")(reference)
    _TABLE[op] = dict.fromkeys(DEVICES, "reference")


def implement(op: str, backend: str) -> Callable[[Kernel], Kernel]:
    """Decorator: register a function as ``rsd_fast::op`` on each device that ``backend`` is chosen for."""

    def register(function: Kernel) -> Kernel:
        for device in DEVICES:
            if CHOICE[device] == backend:
                torch.library.impl(f"rsd_fast::{op}", device)(function)
                _TABLE[op][device] = backend
        return function

    return register


def load_kernels() -> None:
    """Register the kernels of the chosen backends; called once, when every op is defined."""
    for backend in ("native", "triton"):
        if backend in CHOICE.values():
            importlib.import_module(f"{__package__}._{backend}")


def backends() -> dict[str, dict[str, str]]:
    """{op: {device: backend}}: what serves each op on "cpu" and on "cuda"."""
    return {op: dict(devices) for op, devices in sorted(_TABLE.items())}


@functools.cache
def native_info() -> dict[str, Any]:
    """How the optional backends stand: for people, and for ``rsd-fast doctor``.

    Keys: native and triton (in words, with the reason where absent), forced (RSD_FAST_BACKEND or None) and,
    where the extension is built, its compiler, flags, cuda (bool), cuda_compiler and cuda_architectures.
    """
    return {
        "native": _C_STATE,
        "triton": "installed" if _HAS_TRITON else "not installed",
        "forced": os.environ.get("RSD_FAST_BACKEND") or None,
        **(_C.build if _C is not None else {}),
    }
