"""What is installed: metadata, the lazy package, and (slow) wheels with and without a compiler."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import rsd_fast

ROOT = Path(__file__).resolve().parents[1]


def test_metadata():
    metadata = importlib.metadata.metadata("rsd-fast")
    assert metadata["Version"] == rsd_fast.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    (script,) = importlib.metadata.distribution("rsd-fast").entry_points.select(group="console_scripts")
    assert (script.name, script.value) == ("rsd-fast", "rsd_fast.cli.main:main")


def test_import_loads_nothing_else():
    code = "import sys, rsd_fast; print(rsd_fast.__version__, *{'torch', 'numpy', 'triton'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "tests", capture_output=True, text=True, check=True)
    assert done.stdout.split() == [rsd_fast.__version__]


def test_lazy_names():
    assert rsd_fast.ops.Stream.SIGMA == 3
    assert set(rsd_fast.__all__) <= set(dir(rsd_fast))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = rsd_fast.nothing


@pytest.fixture
def tree(tmp_path):
    """A copy of what the build reads, so that nothing is written into the checkout."""
    tree = tmp_path / "tree"
    built = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd", "_native_skipped.txt")
    for name in ("rsd_fast", "kernels", "cli", "csrc"):
        shutil.copytree(ROOT / name, tree / name, ignore=built)
    for name in ("setup.py", "pyproject.toml", "CMakeLists.txt", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, tree / name)
    return tree


def wheel(tree, **environment):
    """(exit code, log, names in the wheel, note on the native part) of ``pip wheel`` with these variables."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("RSD_FAST_NATIVE", "RSD_FAST_CUDA", "CXX")}
    out = tree.parent / "wheels"
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-v",
        "--no-build-isolation",
        "--no-deps",
        "-w",
        str(out),
    ]
    done = subprocess.run(
        [*command, str(tree)],
        env={**inherited, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    names, note = [], ""
    for path in out.glob("*.whl"):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if "rsd_fast/_native_skipped.txt" in names:
                note = archive.read("rsd_fast/_native_skipped.txt").decode()
    return done.returncode, done.stdout, names, note


def has_native(names):
    return any(name.startswith("rsd_fast/_C.") for name in names)


PYTHON_FILES = (
    "rsd_fast/py.typed",
    "rsd_fast/ops/philox.py",
    "rsd_fast/kernels/philox.py",
    "rsd_fast/cli/__init__.py",
)
needs_compiler = pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")
needs_pybind11 = pytest.mark.skipif(not shutil.which("cmake"), reason="needs CMake")


@pytest.mark.slow
def test_wheel_without_native(tree):
    code, log, names, _ = wheel(tree, RSD_FAST_NATIVE="0")
    assert code == 0, log
    assert set(PYTHON_FILES) <= set(names) and not has_native(names)
    assert not any(name.split("/")[0] in ("kernels", "cli", "tests", "csrc") for name in names)
    (built,) = (tree.parent / "wheels").glob("*.whl")
    assert built.name.endswith("-py3-none-any.whl")


@pytest.mark.slow
@needs_compiler
@needs_pybind11
def test_wheel_with_native(tree):
    code, log, names, _ = wheel(tree, RSD_FAST_NATIVE="1", RSD_FAST_CUDA="0")
    assert code == 0, log
    assert set(PYTHON_FILES) <= set(names) and has_native(names)


@pytest.mark.slow
def test_wheel_without_a_compiler(tree):
    code, log, names, note = wheel(tree, CXX="/nonexistent/c++")
    assert code == 0, log
    assert set(PYTHON_FILES) <= set(names) and not has_native(names)
    assert log.count("rsd_fast._C could not be built") == 1
    assert note.strip(), "the reason is kept for `rsd-fast doctor`"


@pytest.mark.slow
def test_compiler_demanded_but_absent(tree):
    code, log, names, _ = wheel(tree, RSD_FAST_NATIVE="1", CXX="/nonexistent/c++")
    assert code != 0 and not names, log


@pytest.mark.slow
@needs_compiler
@needs_pybind11
def test_cuda_demanded_but_absent(tree):
    environment = {"RSD_FAST_CUDA": "1", "CUDACXX": "/nonexistent/nvcc"}
    code, log, names, _ = wheel(tree, RSD_FAST_NATIVE="1", **environment)
    assert code != 0 and not names, log


@pytest.mark.slow
def test_switch_of_no_known_value(tree):
    code, log, names, _ = wheel(tree, RSD_FAST_NATIVE="yes")
    assert code != 0 and "RSD_FAST_NATIVE: expected 0, 1 or auto, got 'yes'" in log and not names
