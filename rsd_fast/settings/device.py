"""Where a run computes, and in which precision: what `auto` means on this machine."""

from pathlib import Path

import torch

from rsd_fast.config.training import PRECISIONS
from rsd_fast.errors import FieldError

DEVICES = ("auto", "cpu", "cuda")


def resolve_device(name: str | None) -> str:
    """ "cpu" or "cuda"; None and "auto" are the GPU where there is one. FieldError for one that is not there."""
    if name in (None, "auto"):
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in DEVICES:
        raise FieldError("device", f"expected {', '.join(DEVICES)}, got '{name}'")
    if name == "cuda" and not torch.cuda.is_available():
        raise FieldError("device", "no CUDA device is available; use --device cpu")
    return str(name)


def resolve_precision(name: str | None, device: str) -> str:
    """ "fp32", "tf32" or "bf16"; None and "auto" are bf16 where the device computes in it. FieldError for another name,
    and for tf32 on a CPU."""
    if name not in (None, "auto", *PRECISIONS):
        raise FieldError("precision", f"expected auto, {', '.join(PRECISIONS)}, got '{name}'")
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
