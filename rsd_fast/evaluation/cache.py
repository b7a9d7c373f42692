"""What was computed of images once, on disk: features of references for ever, of samples until they are evaluated.

The folder is that of RSD_FAST_CACHE, else rsd-fast in XDG_CACHE_HOME or ~/.cache. It may be deleted at any time; what
is unfinished, or left by a killed process, is deleted by itself after a month.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from rsd_fast import files, processes

Tensors = dict[str, Tensor]


def folder() -> Path:
    own = os.environ.get("RSD_FAST_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rsd-fast"


FORMAT = 1  # of what is kept, and of how images become features: to be raised where that changes
MONTH = 30 * 24 * 3600.0


def key(**what: Any) -> str:
    """SHA-256 of all that decides a result, which JSON can hold."""
    return hashlib.sha256(json.dumps({"format": FORMAT, **what}, sort_keys=True).encode()).hexdigest()


def digest(*arrays: np.ndarray | None) -> str:
    """SHA-256 of arrays: shape, dtype and contents."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(b"none" if array is None else f"{array.dtype.str}{array.shape}".encode())
        for part in () if array is None else (array[i : i + 1024] for i in range(0, len(array), 1024)):
            sha.update(np.ascontiguousarray(part).data)
    return sha.hexdigest()


def file_digest(path: str | os.PathLike) -> str:
    """SHA-256 of a file."""
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def load(path: Path) -> Tensors | None:
    """None where there is no such file, or a broken one."""
    try:
        return safetensors.torch.load_file(path)
    except (OSError, SafetensorError):
        return None


def save(path: Path, tensors: Tensors) -> None:
    """Where it cannot be written, a warning says so, and all goes on."""
    try:
        with files.atomic_file(path) as temporary:
            safetensors.torch.save_file({name: t.contiguous() for name, t in tensors.items()}, temporary)
    except (OSError, SafetensorError) as error:
        warnings.warn(f"{path.parent}: features are not kept there ({error}); set RSD_FAST_CACHE", stacklevel=2)


def remembered(name: str | None, compute: Callable[[], Tensors]) -> Tensors:
    """What was saved under `name`, or compute(), saved then; None: computed, and not saved."""
    if name is None:
        return compute()
    path = folder() / "references" / f"{name}.safetensors"
    saved = load(path)
    if processes.least(saved is not None) and saved is not None:  # all processes have it
        return saved
    computed = compute()
    if processes.rank() == 0:
        save(path, computed)
        Partial(name).remove()
    return computed


class Partial:
    """Rows [n, ...] of some tensors, in blocks as they come, so that a killed process's are not computed again."""

    def __init__(self, name: str) -> None:
        self.folder = folder() / "unfinished" / name
        for old in [*folder().glob("unfinished/*"), *folder().glob(f"references/{files.TEMPORARY_PREFIX}*")]:
            with contextlib.suppress(OSError):
                if time.time() - old.stat().st_mtime > MONTH:
                    shutil.rmtree(old) if old.is_dir() else old.unlink()

    def blocks(self) -> list[Tensors]:
        """What is there from row 0 on without a gap."""
        blocks: list[Tensors] = []
        rows = 0
        while (block := load(self.folder / f"{rows}.safetensors")) is not None:
            blocks.append(block)
            rows += len(next(iter(block.values())))
        return blocks

    def add(self, first: int, block: Tensors) -> None:
        save(self.folder / f"{first}.safetensors", block)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
