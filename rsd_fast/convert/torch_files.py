"""Published checkpoints: what container a file is, and the storages, tensors and arrays in it.

A torch.save archive is a zip of a pickle and a member for each storage. A torch.save file of before 1.6 is a stream of
pickles with the storages after them, and the same in a bytes argument is how a tensor is written by pickle itself.
"""

import io
import math
import mmap
import os
import re
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
import torch
from torch import Tensor

from .pickle_objects import DAMAGE, DTYPES, OBJECT, STORAGES, Budget, CheckpointError, Node, described
from .unpickle import Machine

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
MAX_DIMS = 8
MAX_NESTED = 2  # files within tensors within files

_DTYPES = {f"torch.{name}": getattr(torch, name) for name in DTYPES}
_ZIP = b"PK\x03\x04"
_OTHER_FILES = {
    rb"version https://git-lfs": "a git-lfs pointer; fetch the file itself with git lfs pull",
    rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype|html|head|\?xml)": "a web page, as of a download that failed",
}


def read(path: str | os.PathLike) -> Any:
    """The object in a checkpoint file: containers, scalars, texts, torch.Tensor, np.ndarray and inert `Node`s.

    Nothing in the file is executed. Tensors are on the CPU and share storages as they did; parameters are plain
    tensors, a storage by itself is a flat tensor, and the attributes of dicts are dropped. Raises CheckpointError.
    """
    try:
        return _read(path)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    except DAMAGE as error:
        raise CheckpointError(f"{path}: {described(error)}") from None


def _read(path: str | os.PathLike) -> Any:
    if not os.path.isfile(path):
        raise CheckpointError("a checkpoint file is wanted" if os.path.exists(path) else "no such file")
    with open(path, "rb") as file:
        head, size = file.read(512), os.fstat(file.fileno()).st_size
        if not head:
            raise CheckpointError("empty")
        for pattern, what in _OTHER_FILES.items():
            if re.match(pattern, head):
                raise CheckpointError(f"{what}; no checkpoint")
        budget = Budget.of(size)
        if head.startswith(_ZIP):
            return _read_zip(file, size, budget)
        return _read_stream(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), budget)


def _machine(data: Any, budget: Budget, depth: int) -> Machine:
    from_bytes = {"torch.storage._load_from_bytes": partial(_from_bytes, budget, depth + 1)}
    return Machine(data, budget, functions=_FUNCTIONS | from_bytes, set_state=_set_array)


def _from_bytes(budget: Budget, depth: int, data: Any) -> Any:
    if type(data) is not bytes or not data:
        raise CheckpointError(f"a tensor in a {type(data).__name__}; its bytes are wanted")
    if depth > MAX_NESTED:
        raise CheckpointError(f"files within tensors within files, more than {MAX_NESTED} levels of them")
    budget.spend(4 * OBJECT)  # a machine takes longer than its few bytes
    if data.startswith(_ZIP):
        return _read_zip(io.BytesIO(data), len(data), budget, depth)
    return _read_stream(data, budget, depth)


def _read_stream(data: bytes | mmap.mmap, budget: Budget, depth: int = 0) -> Any:
    """A plain pickle, or torch.save's stream of them."""
    machine = _machine(data, budget, depth)
    value = machine.load()
    if not _is(value, MAGIC):
        return value
    protocol, system = machine.load(), machine.load()
    if not _is(protocol, PROTOCOL) or type(system) is not dict or system.get("little_endian") is not True:
        raise CheckpointError(f"a torch.save file not of protocol {PROTOCOL}, or of a big-endian machine")
    storages: dict[str, tuple[bytearray, int]] = {}  # with the bytes of an element
    tensors: dict[str, Tensor] = {}
    left = len(data)

    def storage(key: str, numel: int, itemsize: int) -> Tensor:
        nonlocal left
        if key not in storages:  # it comes after the pickle that refers to it, and is filled then
            left -= numel * itemsize
            if left < 0:
                raise CheckpointError(f"storage {key!a}: {numel} elements are claimed, more than the file holds")
            storages[key] = bytearray(numel * itemsize), itemsize
            tensors[key] = _flat(storages[key][0])
        return tensors[key]

    machine.find_persistent = partial(_persistent, storage)
    value = machine.load()
    machine.find_persistent = None
    keys = machine.load()
    if type(keys) is not list or not all(type(key) is str for key in keys) or sorted(keys) != sorted(storages):
        raise CheckpointError("the storages that follow are not those of the tensors")
    for key in keys:
        contents, itemsize = storages[key]
        numel = machine.number("<q")  # in elements of the type by which it was first referred to
        if numel * itemsize != len(contents):
            raise CheckpointError(f"storage {key!a}: {numel} elements; {len(contents) // itemsize} are wanted")
        memoryview(contents)[:] = machine.take(len(contents))
    return value


def _read_zip(file: BinaryIO, size: int, budget: Budget, depth: int = 0) -> Any:
    """torch.save's archive."""
    try:
        archive = ZipFile(file)
    except BadZipFile as error:
        raise CheckpointError(f"a zip archive that is truncated or damaged ({error})") from None
    with archive:
        members = {info.filename: info for info in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise CheckpointError("a zip archive with two members of one name")
        roots = [name.removesuffix("data.pkl") for name in members if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if any(re.match(r"[^/]+/(constants\.pkl|code/)", name) for name in members):
            raise CheckpointError("a TorchScript archive, which is a program; a state dict is wanted")
        if len(roots) != 1:
            raise CheckpointError("a zip archive that torch.save did not write: it has no data.pkl, or several")
        for name, info in members.items():
            if info.compress_type != ZIP_STORED or info.compress_size != info.file_size:
                raise CheckpointError(f"{name!a} is compressed, which torch.save never does")
        if sum(info.file_size for info in members.values()) > size:
            raise CheckpointError("its members are claimed to be larger than the file")
        if f"{roots[0]}byteorder" in members and archive.read(f"{roots[0]}byteorder").strip() != b"little":
            raise CheckpointError("of a big-endian machine")
        tensors: dict[str, Tensor] = {}

        def storage(key: str, numel: int, itemsize: int) -> Tensor:
            info = members.get(f"{roots[0]}data/{key}")
            if info is None or info.file_size != numel * itemsize:
                there = "absent" if info is None else f"{info.file_size} bytes"
                raise CheckpointError(f"storage {key!a}: {numel * itemsize} bytes are wanted, it is {there}")
            if key not in tensors:
                tensors[key] = _flat(bytearray(archive.read(info)))
            return tensors[key]

        machine = _machine(archive.read(f"{roots[0]}data.pkl"), budget, depth)
        machine.find_persistent = partial(_persistent, storage)
        return machine.load()


def _flat(storage: bytearray) -> Tensor:
    # torch refuses to make a tensor of no bytes.
    return torch.frombuffer(storage, dtype=torch.uint8) if storage else torch.empty(0, dtype=torch.uint8)


def _persistent(storage: Callable[[str, int, int], Tensor], key: Any) -> Any:
    """What torch.save refers to: ("storage", type, key, location, numel), older with a view, or ("module", class, ...).

    A storage is the flat tensor of its elements. storage(key, numel, itemsize): its bytes.
    """
    if type(key) is tuple and len(key) == 4 and _is(key[0], "module"):
        return key[1]
    if type(key) is not tuple or len(key) not in (5, 6) or not _is(key[0], "storage"):
        raise CheckpointError("a persistent id that is no storage's")
    if len(key) == 6 and key[5] is not None:
        raise CheckpointError("a storage that is a view of another")
    kind, name, numel = key[1], key[2], key[4]
    dtype = STORAGES.get(kind.name.rpartition(".")[2]) if isinstance(kind, Node) and kind.args is None else None
    if dtype is None or type(name) is not str or not _is_count(numel):
        raise CheckpointError("a storage without a type, a name or a size")
    element = _DTYPES[f"torch.{dtype}"]
    flat = storage(name, numel, element.itemsize)
    if flat.numel() != numel * element.itemsize:
        raise CheckpointError(f"storage {name!a}: {numel} elements of {dtype} in {flat.numel()} bytes")
    return flat.view(element)


def _is(value: Any, *expected: str | int) -> bool:
    """Equal to one of them; nothing is asked of an array or a tensor, which would compare its elements."""
    return type(value) in (str, int) and value in expected


def _is_count(*values: Any) -> bool:
    return all(type(value) is int and 0 <= value < 2**60 for value in values)


def _tensor(flat: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    if not (isinstance(flat, Tensor) and type(size) is tuple and type(stride) is tuple and len(size) == len(stride)):
        raise CheckpointError("a tensor without a storage, size or stride")
    if len(size) > MAX_DIMS or not _is_count(offset, *size, *stride):
        raise CheckpointError(f"a tensor's size or stride; at most {MAX_DIMS} counts are wanted")
    numel = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if numel else offset - 1
    if max(numel, last + 1) > flat.numel():
        raise CheckpointError(f"a tensor of {numel} elements, up to number {last}, in a storage of {flat.numel()}")
    if not numel:
        return torch.empty_strided(size, stride, dtype=flat.dtype)
    return flat.as_strided(size, stride, offset)


def _tensor_v2(
    flat: Any, offset: Any, size: Any, stride: Any, grad: Any = False, hooks: Any = None, metadata: Any = None
) -> Tensor:
    if not (metadata is None or (type(metadata) is dict and not metadata)):
        raise CheckpointError("a tensor that is a conjugate or negative view")
    return _tensor(flat, offset, size, stride)


def _tensor_v3(flat: Any, offset: Any, size: Any, stride: Any, *others: Any) -> Tensor:
    """A tensor of a type that has no storage type: its storage is of bytes. others: grad, hooks, dtype, metadata."""
    grad, hooks, dtype, *metadata = others
    if not isinstance(flat, Tensor) or flat.dtype != torch.uint8 or not isinstance(dtype, Node):
        raise CheckpointError("a tensor without a storage of bytes or a dtype")
    element = _DTYPES.get(dtype.name)
    if element is None or flat.numel() % element.itemsize:
        raise CheckpointError(f"{dtype.name} in a storage of {flat.numel()} bytes")
    return _tensor_v2(flat.view(element), offset, size, stride, grad, hooks, *metadata)


def _parameter(data: Any, grad: Any, hooks: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise CheckpointError(f"a parameter of a {type(data).__name__}")
    return data


def _size(size: Any = ()) -> tuple[int, ...]:
    if type(size) is not tuple or not _is_count(*size):
        raise CheckpointError("a torch.Size of what are no counts")
    return size


def _dtype(node: Any) -> np.dtype:
    """The dtype of a numpy.dtype's node: its code is the first argument, its byte order the second of its state."""
    if isinstance(node, Node) and node.name == "numpy.dtype" and node.args and not node.kwargs:
        code, state = node.args[0], (3, "") if node.state is None else node.state
        order = state[1] if type(state) is tuple and len(state) > 1 else None
        if type(code) is str and _is(order, "", "<", ">", "|", "="):
            if re.fullmatch(r"[<>|=]?[biufc]\d{1,2}|\?", code):
                return np.dtype(code).newbyteorder(order) if order else np.dtype(code)
            raise CheckpointError(f"an array of {code[:50]!a}; one of numbers is wanted")
    raise CheckpointError("an array without a dtype")


def _contents(data: Any, dtype: np.dtype, shape: Any) -> bytes:
    """A private copy of an array's bytes, which must be just as many as its shape claims."""
    data = data.encode() if type(data) is str else data  # as Python 2 wrote them, where they happen to be text
    if not isinstance(data, (bytes, bytearray)) or type(shape) is not tuple or not _is_count(*shape):
        raise CheckpointError("an array without bytes or a shape")
    if len(shape) > MAX_DIMS or len(data) != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(f"an array of {dtype} with {len(shape)} dimensions in {len(data)} bytes")
    return bytes(memoryview(data))


def _array(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    dtype = _dtype(dtype)
    array = np.frombuffer(bytearray(_contents(data, dtype, shape)), dtype)
    if not _is(order, "C", "F", "K") or not (axes is None or _is_count(*axes)):
        raise CheckpointError("an array without an order")
    array = array.astype(dtype.newbyteorder("="), copy=False).reshape(shape, order="F" if order == "F" else "C")
    return array if axes is None else array.transpose(axes)


def _scalar(dtype: Any, data: Any) -> Any:
    dtype = _dtype(dtype)
    return np.frombuffer(_contents(data, dtype, (1,)), dtype)[0]


def _empty_array(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """What `_set_array` is to fill."""
    if not isinstance(kind, Node) or kind.name != "numpy.ndarray":
        raise CheckpointError("an array of a class of its own")
    return np.empty(0, np.uint8)


def _set_array(target: Any, state: tuple) -> None:
    if not isinstance(target, np.ndarray) or len(state) not in (4, 5):
        raise CheckpointError(f"sets the state of a {type(target).__name__}")
    shape, dtype, fortran, data = state[-4:]
    dtype = _dtype(dtype)
    checked: Any = (1, shape, dtype, fortran is True, _contents(data, dtype, shape))
    target.__setstate__(checked)  # numpy's, in place as others may refer to it; it keeps the bytes, no one else's


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _size,
    "numpy.core.multiarray._reconstruct": _empty_array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _array,
}
