"""What a checkpoint may name, and what its contents become: containers, scalars and inert `Node`s."""

import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from zipfile import BadZipFile

MAX_OPCODES = 2_000_000  # all streams of a file together; a network of a thousand tensors takes some 100,000
MAX_LEVELS = 200  # a module within another adds five
MAX_VALUES = 10_000_000
MAX_KEY = 16  # scalars in a tuple that is a key
MAX_NAME = 200  # characters
OBJECT = 256  # bytes that a node, a set or an array takes by itself

STORAGES = {  # by their names in pickles, the names of their dtypes
    **{"DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16"},
    **{"LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8"},
    **{"ByteStorage": "uint8", "BoolStorage": "bool", "UntypedStorage": "uint8", "_UntypedStorage": "uint8"},
    **{"ComplexDoubleStorage": "complex128", "ComplexFloatStorage": "complex64"},
}
DTYPES = {*STORAGES.values(), "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"}

_NAMES = {
    *(f"torch{part}.{name}" for part in ("", ".cuda", ".storage") for name in STORAGES),
    *(f"torch.{name}" for name in DTYPES),
    *(f"torch.{name}" for name in ("Size", "device", "Tensor", "nn.parameter.Parameter")),
    *(f"torch.storage.{name}" for name in ("TypedStorage", "_load_from_bytes")),
    *(f"torch._utils._rebuild_{name}" for name in ("tensor", "tensor_v2", "tensor_v3", "parameter")),
    *("numpy.core.multiarray._reconstruct", "numpy.core.multiarray.scalar", "numpy.core.numeric._frombuffer"),
    *("numpy.ndarray", "numpy.dtype", "_codecs.encode", "copyreg._reconstructor"),
    *("collections.OrderedDict", "collections.defaultdict", "dnnlib.util.EasyDict", "dnnlib.EasyDict"),
    *("argparse.Namespace", "types.SimpleNamespace"),
    *(f"builtins.{name}" for name in ("set", "frozenset", "dict", "list", "tuple", "slice", "object", "NoneType")),
    *(f"builtins.{name}" for name in ("int", "float", "bool", "complex", "str", "bytes", "bytearray")),
}
_PACKAGES = ("torch.nn.modules.", "torch.optim.", "torch_utils.persistence.", "torch_utils.misc.")
# The classes of published networks and losses, in whatever module their authors keep them.
MODULE_CLASSES = frozenset(
    (
        *("EDMPrecond", "VPPrecond", "VEPrecond", "iDDPMPrecond", "SiD_EDMPrecond", "SongUNet", "DhariwalUNet"),
        *("UNetBlock", "Conv2d", "GatedConv2d", "GroupNorm", "Linear", "PositionalEmbedding", "FourierEmbedding"),
        *("EDMLoss", "VPLoss", "VELoss", "SiD_EDMLoss", "AmbientLoss", "AugmentPipe"),
    )
)
_RENAMED = {"__builtin__.": "builtins.", "copy_reg.": "copyreg.", "numpy._core.": "numpy.core."}  # Python 2; numpy 2
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)

# What Python, numpy, torch and zipfile raise on a damaged file.
DAMAGE = (
    *(ValueError, LookupError, ArithmeticError, RuntimeError, TypeError, EOFError, BufferError, MemoryError),
    *(struct.error, BadZipFile),
)


class CheckpointError(ValueError):
    """A checkpoint that is refused or damaged; one line."""


def described(error: BaseException) -> str:
    """One line on an error raised by damage."""
    if isinstance(error, MemoryError):
        return "needs more memory than there is"
    return f"damaged ({type(error).__name__}: {(str(error).splitlines() or ['no more is known'])[0][:200]})"


@dataclass(eq=False, slots=True)
class Node:
    """An object of a class, or the result of a function, that was not called: its name and what it was given.

    args is None for the name by itself, as of a class that an attribute holds.
    """

    name: str
    args: tuple | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    state: Any = None
    items: list = field(default_factory=list)
    mapping: dict = field(default_factory=dict)


@dataclass
class Budget:
    """What one file, with all that is nested in it, may still cost: opcodes, and bytes of objects and of copies.

    Opcodes of a few bytes each make objects, and copies of what the memo holds, without end.
    """

    bytes: int
    opcodes: int = MAX_OPCODES

    @classmethod
    def of(cls, size: int) -> "Budget":
        """For a file of `size` bytes. Protocol 2 copies a tensor twice; small files have room for their overhead."""
        return cls(8 * size + 2**20)

    def spend(self, size: int) -> None:
        self.bytes -= size
        if self.bytes < 0:
            raise CheckpointError("its contents are copied, or objects made, many times over, as in no checkpoint")

    def step(self) -> None:
        self.opcodes -= 1
        if self.opcodes < 0:
            raise CheckpointError(f"more than {MAX_OPCODES} opcodes")


def weight(values: tuple) -> int:
    """What a copy of each of the values takes, in bytes."""
    texts = sum(len(value) for value in values if isinstance(value, (str, bytes, bytearray)))
    return texts + 8 * sum(len(value) for value in values if isinstance(value, (list, tuple, dict, set, frozenset)))


def allowed_name(module: Any, name: Any) -> str:
    """The full name, as Python 3 and numpy 1 spell it; CheckpointError if a checkpoint has no need of it."""
    full = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "."
    for old, new in _RENAMED.items():
        if full.startswith(old):
            full = new + full.removeprefix(old)
    dotted = len(full) <= MAX_NAME and _DOTTED.fullmatch(full)
    if not dotted or not (full in _NAMES or full.startswith(_PACKAGES) or full.rpartition(".")[2] in MODULE_CLASSES):
        raise CheckpointError(
            f"names {full if dotted else ascii(full[:MAX_NAME])}, which no checkpoint of a network needs"
        )
    return full


_SCALARS = (str, int, float, bool, bytes, type(None))


def checked_key(value: Any, budget: Budget) -> Any:
    """value, a key or member: only what takes no more than a moment to hash and compare."""
    if type(value) is tuple and len(value) <= MAX_KEY and all(type(part) in _SCALARS for part in value):
        budget.spend(1024)  # tuples can be made to collide, whereupon each costs as much as all before it
    elif type(value) not in _SCALARS or (type(value) is int and abs(value) >= 2**60):  # smaller ones never collide
        raise CheckpointError(f"a {type(value).__name__} as a key; a text, a number or a flat tuple of them is wanted")
    return value


def paired(values: list, budget: Budget) -> dict:
    """The dict of alternating keys and values."""
    if len(values) % 2:
        raise CheckpointError("a key without a value")
    return {checked_key(key, budget): value for key, value in zip(values[::2], values[1::2], strict=True)}


def containers(budget: Budget) -> dict[str, Callable[..., Any]]:
    """By name, what makes the builtin types and the dicts; each takes built values and only the forms pickles have."""

    def sequence(values: Iterable = ()) -> Iterable:
        if type(values) not in (list, tuple, set, frozenset, dict):
            raise CheckpointError(f"the members of a {type(values).__name__}")
        return values

    def members(values: Iterable = ()) -> list:
        return [checked_key(value, budget) for value in sequence(values)]

    def mapping(values: Any = ()) -> dict:
        if isinstance(values, dict):
            return dict(values)
        pairs = list(sequence(values))
        if not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
            raise CheckpointError("a dict of what is not pairs")
        return {checked_key(key, budget): value for key, value in pairs}

    def default_mapping(factory: Any = None, values: Any = ()) -> dict:
        return mapping(values)

    def encoded(text: Any = b"", encoding: Any = "latin1") -> bytes:
        """Bytes, of which protocols 0 to 2 make Latin-1 text."""
        if isinstance(text, (bytes, bytearray)):
            return bytes(text)
        if type(text) is not str or type(encoding) is not str or encoding not in ("latin1", "latin-1"):
            raise CheckpointError("bytes of what is no Latin-1 text")
        return text.encode("latin1")

    def of(kind: Callable[..., Any], *types: type) -> Callable[..., Any]:
        def made(*args: Any) -> Any:
            if not all(type(arg) in types for arg in args):
                raise CheckpointError(f"{', '.join(type(arg).__name__ for arg in args)} for a {kind.__name__}")
            return kind(*args)

        return made

    numbers = (int, float, bool)
    return {
        "builtins.set": lambda *args: set(members(*args)),
        "builtins.frozenset": lambda *args: frozenset(members(*args)),
        "builtins.list": lambda *args: list(sequence(*args)),
        "builtins.tuple": lambda *args: tuple(sequence(*args)),
        "builtins.dict": mapping,
        "collections.OrderedDict": lambda *args: OrderedDict(mapping(*args)),
        "collections.defaultdict": default_mapping,
        "dnnlib.util.EasyDict": mapping,
        "dnnlib.EasyDict": mapping,
        "builtins.int": of(int, *numbers),
        "builtins.float": of(float, *numbers),
        "builtins.bool": of(bool, *numbers),
        "builtins.complex": of(complex, *numbers),
        "builtins.str": of(str, str),
        "builtins.slice": of(slice, int, type(None)),
        "builtins.bytes": encoded,
        "builtins.bytearray": lambda *args: bytearray(encoded(*args)),
        "_codecs.encode": encoded,
    }


def _parts(value: Any) -> list:
    if isinstance(value, Node):
        return [value.args, value.kwargs, value.state, value.items, value.mapping]
    return list(value.values()) if isinstance(value, dict) else list(value)


def check_walkable(root: Any) -> None:
    """CheckpointError if root contains itself, nests too deep, or is too large once all that is shared is repeated."""
    nested = (list, tuple, dict, Node)
    measured: dict[int, tuple[int, int]] = {}  # by id, the levels and the values within
    entered: set[int] = set()
    todo = [root] if isinstance(root, nested) else []
    while todo:
        value = todo[-1]
        if id(value) in measured:
            todo.pop()
            continue
        parts = _parts(value)
        inner = [part for part in parts if isinstance(part, nested) and (type(part) is Node or part)]
        if id(value) in entered:  # its parts have been measured
            todo.pop()
            entered.discard(id(value))
            levels = 1 + max((measured[id(part)][0] for part in inner), default=0)
            values = 1 + len(parts) + sum(measured[id(part)][1] for part in inner)
            if levels > MAX_LEVELS or values > MAX_VALUES:
                raise CheckpointError(f"nests deeper than {MAX_LEVELS} levels or unfolds to over {MAX_VALUES} values")
            measured[id(value)] = levels, values
        else:
            entered.add(id(value))
            if any(id(part) in entered for part in inner):
                raise CheckpointError("an object that contains itself")
            todo.extend(part for part in inner if id(part) not in measured)
