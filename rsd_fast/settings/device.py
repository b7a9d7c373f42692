"""Where to compute, and in which precision, where the user leaves it open."""

from pathlib import Path

import torch

from rsd_fast.errors import FieldError


def resolve_device(name: str | None) -> str:
    """cpu or cuda; None and `auto` mean cuda where there is one. FieldError for a CUDA device that is not there."""
    if name in (None, "auto"):
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise FieldError("device", "no CUDA device is available; use --device cpu")
    return str(name)


def resolve_precision(name: str | None, device: str) -> str:
    """fp32, tf32 or bf16; None and `auto` mean bf16 where the device multiplies it itself, else fp32."""
    if name == "tf32" and device != "cuda":
        raise FieldError("precision", "tf32 is a mode of NVIDIA GPUs; use fp32 or bf16")
    if name not in (None, "auto"):
        return str(name)
    if device == "cuda":
        return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp32"
    return "bf16" if cpu_has_bf16() else "fp32"


def cpu_has_bf16() -> bool:
    """Does the processor multiply bfloat16 itself? Emulated, it is many times slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)
