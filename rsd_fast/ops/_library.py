"""Who serves which op on which device: decided once, at import.

Every op has a PyTorch reference, registered as its default on every device. Before it comes, per device, the
native extension ``rsd_fast._C`` where it is built, else (on "cuda", AMD's devices included) Triton; where the
extension is built for "cuda", Triton still serves the ops that it has no CUDA kernel for. The environment variable
RSD_FAST_BACKEND=native|triton|reference forces one, leaves the rest to the reference, and fails where it is absent.
Triton serves "cpu" only where it is forced under TRITON_INTERPRET=1, which is for testing.
"""

import functools
import importlib
import importlib.util
import os
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from types import ModuleType
from typing import Any, TypeVar

import torch

from rsd_fast import _checkout

DEVICES = ("cpu", "cuda")
OLDEST_TRITON = (3, 3)
Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def _load_native() -> tuple[Any, str]:
    """The module ``rsd_fast._C``, or None, and where it stands in words."""
    try:
        module = importlib.import_module("rsd_fast._C")
    except ModuleNotFoundError:
        return None, f"not built: {_why_not_built()}"
    except ImportError as error:
        if os.environ.get("RSD_FAST_ISA"):  # which names none that this processor has
            raise
        warnings.warn(f"rsd_fast._C cannot be loaded, PyTorch code serves instead: {error}", stacklevel=2)
        return None, f"built, but cannot be loaded: {error}"
    return module, "built for " + ("cpu and cuda" if module.build["cuda"] else "cpu")


def _why_not_built() -> str:
    skipped = _checkout.PACKAGE / "_native_skipped.txt"
    if skipped.exists():
        return skipped.read_text().strip()
    if _checkout.is_checkout():
        return (
            f"this is the checkout {_checkout.ROOT}; `pip install -e .` builds the extension in it, and a package that "
            "is installed elsewhere is found from another folder"
        )
    return "installed with RSD_FAST_NATIVE=0"


def _find_triton() -> str:
    """ "installed", or why Triton does not serve."""
    if importlib.util.find_spec("triton") is None:
        return "not installed"
    for package in ("triton", "pytorch-triton-rocm"):
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
        if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST_TRITON:
            return f"too old: {version}, and kernels take tuples, which came with {'.'.join(map(str, OLDEST_TRITON))}"
    return "installed"


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
        oldest = ".".join(map(str, OLDEST_TRITON))
        raise RuntimeError(f"RSD_FAST_BACKEND=triton: Triton is {_TRITON_STATE}; pip install 'triton>={oldest}'")

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


def _choose_second() -> dict[str, str]:
    """{device: backend} for ops that the device's chosen backend lacks."""
    unforced = not os.environ.get("RSD_FAST_BACKEND")
    return {"cuda": "triton"} if unforced and _HAS_TRITON and CHOICE["cuda"] == "native" else {}


_C, _C_STATE = _load_native()
_TRITON_STATE = _find_triton()
_HAS_TRITON = _TRITON_STATE == "installed"
CHOICE = _choose()
SECOND_CHOICE = _choose_second()


@dataclass
class _Op:
    """What is registered of an op. Every function here takes the few objects that `unpack` makes of its arguments."""

    reference: Callable[..., Any]
    check: Callable[..., None]
    unpack: Callable[..., tuple[Any, ...]] | None
    served: dict[str, str] = field(default_factory=lambda: dict.fromkeys(DEVICES, "reference"))  # {device: backend}
    kernels: dict[str, Callable[..., Any]] = field(default_factory=dict)  # {backend: its code}

    def flat(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with the arguments of the schema instead of the objects."""
        unpack = self.unpack
        if unpack is None:
            return function
        return functools.wraps(function)(lambda *arguments: function(*unpack(*arguments)))

    def checked(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with the arguments of the schema, which are checked first."""
        check = self.check

        @functools.wraps(function)
        def checked(*arguments: Any) -> Any:
            check(*arguments)
            return function(*arguments)

        return self.flat(checked)


_OPS: dict[str, _Op] = {}


def define(
    op: str,
    schema: str,
    reference: Callable[..., Any],
    check: Callable[..., None],
    unpack: Callable[..., tuple[Any, ...]] | None = None,
) -> None:
    """Define ``rsd_fast::op`` with ``reference`` as its code on every device that nothing else serves.

    ``check`` takes the op's arguments and raises TypeError or ValueError; it comes before every backend's code and the
    fake, so that ``torch.ops.rsd_fast.op`` is as safe as the public function. ``unpack`` makes few objects of the many
    arguments of a schema; then these are what ``check``, ``reference``, every backend's code and the fake take.
    """
    torch.library.define(f"rsd_fast::{op}", schema)
    _OPS[op] = _Op(reference, check, unpack)
    torch.library.impl(f"rsd_fast::{op}", "default")(_OPS[op].checked(reference))


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Each op's reference in plain PyTorch, for programs that are to run without this library."""
    return {getattr(torch.ops.rsd_fast, name).default: op.flat(op.reference) for name, op in _OPS.items()}


def implement(op: str, backend: str, devices: Sequence[str] = DEVICES) -> Callable[[Kernel], Kernel]:
    """Decorator: register a function as ``rsd_fast::op`` on each of ``devices`` that ``backend`` is chosen for.

    A second choice comes after the first: where that has registered its own, this one does not.
    """

    def register(function: Kernel) -> Kernel:
        record = _OPS[op]
        record.kernels[backend] = record.checked(function)
        for device in devices:
            vacant = record.served[device] == "reference"
            if CHOICE[device] == backend or (SECOND_CHOICE.get(device) == backend and vacant):
                torch.library.impl(f"rsd_fast::{op}", device)(record.kernels[backend])
                record.served[device] = backend
        return function

    return register


def fake(op: str) -> Callable[[Kernel], Kernel]:
    """Decorator: register the function that gives the outputs' shapes, dtypes and strides."""

    def register(function: Kernel) -> Kernel:
        torch.library.register_fake(f"rsd_fast::{op}")(_OPS[op].checked(function))
        return function

    return register


def differentiable(
    op: str, backward: Callable[..., Any], setup_context: Callable[..., None], arguments: Sequence[int]
) -> None:
    """Register the gradient of an op in those of its arguments; one asked for in another raises instead of being 0."""

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        for i, needed in enumerate(ctx.needs_input_grad):
            if needed and i not in arguments:
                raise ValueError(f"rsd_fast::{op} has no gradient in its argument {i}; detach it")
        setup_context(ctx, inputs, output)

    torch.library.register_autograd(f"rsd_fast::{op}", backward, setup_context=setup)


def not_differentiable(*ops: str) -> None:
    """Let these raise where a gradient is asked for in an argument."""
    for op in ops:
        differentiable(op, lambda ctx, *grads: None, lambda ctx, inputs, output: None, ())


def differentiable_once(*backward_ops: str) -> None:
    """Let these raise where they would be differentiated: without it a second derivative would silently be 0."""
    for op in backward_ops:

        def backward(ctx: Any, *grads: Any, op: str = op) -> None:
            raise RuntimeError(f"rsd_fast::{op.removesuffix('_backward')} is differentiable once")

        torch.library.register_autograd(f"rsd_fast::{op}", backward)


def modules() -> list[ModuleType]:
    """The files of this package that define ops."""
    return [importlib.import_module(name) for name in dict.fromkeys(op.reference.__module__ for op in _OPS.values())]


def kernels(backend: str) -> dict[str, Callable[..., Any]]:
    """{op: its code on a backend}: the ops of ``blur.py`` have theirs in ``native/blur.py`` and ``triton/blur.py``."""
    for module in modules():
        package, _, name = module.__name__.rpartition(".")
        importlib.import_module(f"{package}.{backend}.{name}")
    return {name: op.kernels[backend] for name, op in _OPS.items() if backend in op.kernels}


def load_kernels() -> None:
    """Register the kernels of the chosen backends; called once, when every op is defined."""
    for backend in ("native", "triton"):
        if backend in (*CHOICE.values(), *SECOND_CHOICE.values()):
            kernels(backend)


def backends() -> dict[str, dict[str, str]]:
    """{op: {device: backend}}: what serves each op on "cpu" and on "cuda"."""
    return {name: dict(op.served) for name, op in sorted(_OPS.items())}


@functools.cache
def native_info() -> dict[str, Any]:
    """How the optional backends stand: for people, and for ``rsd-fast doctor``.

    Keys: native and triton (in words, with the reason where absent), forced (RSD_FAST_BACKEND or None) and,
    where the extension is built, its compiler, flags, cuda (bool), cuda_compiler and cuda_architectures.
    """
    return {
        "native": _C_STATE,
        "triton": _TRITON_STATE,
        "forced": os.environ.get("RSD_FAST_BACKEND") or None,
        **(_C.build if _C is not None else {}),
    }
