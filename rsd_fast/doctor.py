"""What is installed and what serves what: the facts that a bug report, or a slow run, needs."""

import platform
import sys
from importlib import metadata
from typing import Any

import torch

from . import __version__, ops

PACKAGES = ("torch", "triton", "numpy", "pillow", "safetensors", "scikit-learn", "click")


def report() -> dict[str, Any]:
    """{"versions", "devices", "native", "ops"}: JSON values only; "ops" is {op: {device: backend}}."""
    return {
        "versions": {
            "rsd-fast": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
        },
        "devices": {
            "cpu": f"{platform.machine()}, {torch.get_num_threads()} threads, "
            f"{torch.backends.cpu.get_cpu_capability()}",
            **{
                f"cuda:{i}": torch.cuda.get_device_name(i)
                for i in range(torch.cuda.device_count())
                if torch.cuda.is_available()
            },
        },
        "platform": f"{platform.platform()}, {sys.executable}",
        "native": ops.native_info(),
        "ops": ops.backends(),
    }


def table(facts: dict[str, Any]) -> str:
    """The report for a person."""
    lines = []
    for title in ("versions", "devices", "native"):
        lines += [title, *(f"  {name:<20} {value}" for name, value in facts[title].items()), ""]
    devices = sorted({device for served in facts["ops"].values() for device in served})
    lines.append(f"{'op':<34}" + "".join(f"{device:<12}" for device in devices))
    for op, served in facts["ops"].items():
        lines.append(f"  {op:<32}" + "".join(f"{served[device]:<12}" for device in devices))
    return "\n".join(lines)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
