"""Fixtures for every test. Triton's kernels run in its interpreter where there is no GPU to run them on."""

import importlib.util
import os
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is imported

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined, so before rsd_fast.kernels is imported

from rsd_fast import ops
from rsd_fast.ops import _library

torch.set_num_threads(1)  # the tests' networks are too small to gain by more, and others may use the machine
_INFO = ops.native_info()
_HAS_GPU = torch.cuda.is_available()


@pytest.fixture(scope="session", autouse=True)
def feature_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing of the tests goes to the user's own cache, nor comes from there."""
    os.environ["RSD_FAST_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@dataclass(frozen=True)
class Backend:
    """One backend on one device; ``module.<op>`` is its code, whatever serves by default."""

    name: str
    device: str
    module: ModuleType | SimpleNamespace


def _present() -> list[tuple[str, str]]:
    names = [("reference", "cpu")] + [("reference", "cuda")] * _HAS_GPU
    if "compiler" in _INFO:
        names += [("native", "cpu")] + [("native", "cuda")] * (_HAS_GPU and _INFO["cuda"])
    if importlib.util.find_spec("triton"):
        names.append(("triton", "cuda" if _HAS_GPU else "cpu"))
    return names


@pytest.fixture(params=_present(), ids="-".join)
def backend(request) -> Backend:
    """Each backend present, on each device it serves."""
    name, device = request.param
    # The reference's functions take what the registered ones take, and more.
    module = ops.reference if name == "reference" else SimpleNamespace(**_library.kernels(name))
    return Backend(name, device, module)


def pytest_collection_modifyitems(items):
    if not _HAS_GPU:
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
