"""A pickle machine that executes nothing: no name in the file is looked up, imported or called.

It rebuilds containers and scalars itself; tensors and arrays come from the functions it is handed; every other
object is an inert `Node`. A name is checked against what a checkpoint of a network needs the moment it is met. What
a file can claim is bounded by what it holds: text and bytes by what is left of it, copies by a `Budget`; and what
comes out is free of cycles, not deep and, even with all that is shared repeated, not large: it may be walked,
compared and printed without care.
"""

import re
import struct
from collections.abc import Callable, Mapping
from typing import Any

from .pickle_objects import (
    DAMAGE,
    OBJECT,
    Budget,
    CheckpointError,
    Node,
    allowed_name,
    check_walkable,
    checked_key,
    containers,
    described,
    paired,
    weight,
)

__all__ = ["CheckpointError", "Machine", "Node", "load"]

PROTOCOL = 5  # the newest
MAX_STACK = 1_000_000
MAX_MARKS = 1_000
MAX_NUMBER = 1_024  # characters, or bytes of a binary integer: Python reads and prints long ones in quadratic time


def load(data: bytes | memoryview, *, find_persistent: Callable[[Any], Any] | None = None) -> Any:
    """The object in the pickle that data begins with, of containers, scalars and `Node`s."""
    return Machine(data, Budget.of(len(data)), find_persistent=find_persistent).load()


class Machine:
    """Reads the pickles in data, one after the other, from position on.

    functions: by allowed name, what is called for it; set_state(value, state): for what they return.
    find_persistent(id): the object that a persistent id stands for.
    """

    def __init__(
        self,
        data: bytes | memoryview,
        budget: Budget,
        *,
        functions: Mapping[str, Callable[..., Any]] | None = None,
        set_state: Callable[[Any, tuple], None] | None = None,
        find_persistent: Callable[[Any], Any] | None = None,
    ):
        self.data = memoryview(data)
        self.position = 0
        self.budget = budget
        self.functions = {
            "copyreg._reconstructor": self.reconstruct,
            **containers(budget),
            **(functions or {}),
        }
        self.set_state = set_state
        self.find_persistent = find_persistent
        self._clear()

    def _clear(self) -> None:
        self.stack: list = []
        self.marks: list[int] = []  # how high the stack was at each
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The next pickle's object. Raises CheckpointError, which names the byte of the opcode at fault."""
        at = self.position
        try:
            while True:
                at = self.position
                self.budget.step()
                if at == len(self.data):
                    raise CheckpointError("ends in the middle of a pickle")
                opcode = self.data[at]
                self.position += 1
                if opcode in _VALUES:
                    self.stack.append(_VALUES[opcode](self))
                elif opcode in _ACTIONS:
                    _ACTIONS[opcode](self)
                elif opcode == _STOP:
                    value = self.pop()
                    check_walkable(value)
                    return value
                else:
                    raise CheckpointError(f"{_REFUSED.get(opcode, 'no pickle')} (opcode {opcode:#04x})")
                if len(self.stack) > MAX_STACK:
                    raise CheckpointError(f"more than {MAX_STACK} values in one list, tuple or dict")
        except CheckpointError as error:
            raise CheckpointError(f"byte {at}: {error}") from None
        except DAMAGE as error:
            raise CheckpointError(f"byte {at}: {described(error)}") from None
        finally:
            self._clear()

    # What follows an opcode in the stream

    def take(self, size: int) -> memoryview:
        left = len(self.data) - self.position
        if not 0 <= size <= left:
            raise CheckpointError(f"{size} bytes are claimed where {left} are left")
        self.position += size
        return self.data[self.position - size : self.position]

    def number(self, format: str) -> Any:
        return struct.unpack(format, self.take(struct.calcsize(format)))[0]

    def counted(self, format: str) -> memoryview:
        return self.take(self.number(format))

    def text(self, format: str) -> str:
        return str(self.counted(format), "utf-8")

    def line(self) -> bytes:
        """Up to the next newline."""
        width = 256
        while True:
            piece = bytes(self.data[self.position : self.position + width])
            end = piece.find(b"\n")
            if end >= 0:
                self.position += end + 1
                return piece[:end]
            if len(piece) < width:
                raise CheckpointError("ends in the middle of a line")
            width *= 8

    def short_line(self) -> str:
        line = self.line()
        if len(line) > MAX_NUMBER:
            raise CheckpointError(f"a number or name of {len(line)} characters; at most {MAX_NUMBER} are read")
        return line.decode()

    def integer(self, format: str) -> int:
        size = self.number(format)
        if size > MAX_NUMBER:
            raise CheckpointError(f"an integer of {size} bytes; at most {MAX_NUMBER} are read")
        return int.from_bytes(self.take(size), "little", signed=True)

    def integer_line(self) -> int | bool:
        text = self.short_line()
        return text == "01" if text in ("00", "01") else int(text.removesuffix("L"))

    def protocol(self) -> None:
        protocol = self.number("<B")
        if protocol > PROTOCOL:
            raise CheckpointError(f"pickle protocol {protocol}; 0 to {PROTOCOL} are read")

    def frame(self) -> None:
        start = self.position + 8
        self.counted("<Q")  # its length is checked, its contents are read like any
        self.position = start

    # The stack and the memo

    def top(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise CheckpointError("takes a value where there is none")
        return self.stack[-1]

    def pop(self) -> Any:
        self.top()
        return self.stack.pop()

    def pop_several(self, count: int) -> tuple:
        return tuple([self.pop() for _ in range(count)][::-1])

    def mark(self) -> None:
        if len(self.marks) == MAX_MARKS:
            raise CheckpointError(f"more than {MAX_MARKS} marks within one another")
        self.marks.append(len(self.stack))

    def pop_marked(self) -> list:
        if not self.marks:
            raise CheckpointError("takes what follows a mark where there is none")
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    def pop_value_or_mark(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.pop()

    def put(self, index: int) -> None:
        self.memo[index] = self.top()

    def get(self, index: int) -> Any:
        if index not in self.memo:
            raise CheckpointError("takes from the memo what was never put there")
        return self.memo[index]

    def persistent(self, key: Any) -> Any:
        if self.find_persistent is None:
            raise CheckpointError("refers to an object outside of the pickle")
        return self.find_persistent(key)

    # Objects

    def new_set(self) -> set:
        self.budget.spend(OBJECT)
        return set()

    def name(self, module: Any, name: Any) -> Node:
        self.budget.spend(OBJECT)
        return Node(allowed_name(module, name))

    def call(self, callee: Any, args: Any, kwargs: Any = None) -> Any:
        """What the callee's name stands for: of functions the result, of all else a node."""
        if not (isinstance(callee, Node) and callee.args is None and type(args) is tuple):
            raise CheckpointError("calls what is no class or function")
        kwargs = {} if kwargs is None else kwargs
        if type(kwargs) is not dict or not all(type(key) is str for key in kwargs):
            raise CheckpointError("keyword arguments that are no dict of names")
        self.budget.spend(OBJECT)
        function = self.functions.get(callee.name)
        if function is None:
            return Node(callee.name, args, kwargs)
        if kwargs:
            raise CheckpointError(f"keyword arguments to {callee.name}")
        self.budget.spend(weight(args))
        return function(*args)

    def call_marked(self) -> Any:
        callee, *args = self.pop_marked() or [None]
        return self.call(callee, tuple(args))

    def reconstruct(self, callee: Node, base: Node, state: Any) -> Any:
        """copyreg's, by which protocols 0 and 1 make an object from one of its builtin base."""
        return self.call(callee, () if state is None else (state,))

    def append(self, values: list) -> None:
        target = self.top()
        if type(target) is not list and not _is_object(target):
            raise CheckpointError(f"appends to a {type(target).__name__}")
        (target if type(target) is list else target.items).extend(values)

    def set_items(self, values: list) -> None:
        target = self.top()
        if not isinstance(target, dict) and not _is_object(target):
            raise CheckpointError(f"sets items of a {type(target).__name__}")
        (target if isinstance(target, dict) else target.mapping).update(paired(values, self.budget))

    def add_items(self, values: list) -> None:
        target = self.top()
        if type(target) is not set:
            raise CheckpointError(f"adds members to a {type(target).__name__}")
        target.update([checked_key(value, self.budget) for value in values])

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if _is_object(target):
            target.state = state
        elif isinstance(target, dict):
            pass  # attributes, as a state_dict's _metadata, which no tensor depends on
        elif self.set_state is not None and type(state) is tuple:
            self.budget.spend(weight(state))
            self.set_state(target, state)
        else:
            raise CheckpointError(f"sets the state of a {type(target).__name__}")


def _is_object(value: Any) -> bool:
    return isinstance(value, Node) and value.args is not None


_ESCAPE = re.compile(rb"\\(x[0-9A-Fa-f]{2}|[\\'\"nrt])")  # all that Python 2's repr writes
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def _unescaped(match: re.Match[bytes]) -> bytes:
    code = match[1]
    return bytes([int(code[1:], 16)]) if len(code) == 3 else _ESCAPED.get(code, code)


def _quoted(line: bytes) -> str | bytes:
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise CheckpointError("a text without quotes")
    return _python2_text(_ESCAPE.sub(_unescaped, line[1:-1]))


def _python2_text(data: bytes) -> str | bytes:
    """What Python 2 called str: text, or else bytes."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


_STOP = ord(".")
_REFUSED = {
    **dict.fromkeys((0x82, 0x83, 0x84), "refers to an extension of Python"),
    **dict.fromkeys((0x97, 0x98), "refers to a buffer outside of the pickle"),
}
_VALUES: dict[int, Callable[[Machine], Any]] = {  # opcodes that push one value
    ord("N"): lambda m: None,
    0x88: lambda m: True,
    0x89: lambda m: False,
    ord("K"): lambda m: m.number("<B"),
    ord("M"): lambda m: m.number("<H"),
    ord("J"): lambda m: m.number("<i"),
    ord("G"): lambda m: m.number(">d"),
    0x8A: lambda m: m.integer("<B"),
    0x8B: lambda m: m.integer("<i"),
    ord("I"): Machine.integer_line,
    ord("L"): Machine.integer_line,
    ord("F"): lambda m: float(m.short_line()),
    ord("X"): lambda m: m.text("<I"),
    0x8C: lambda m: m.text("<B"),
    0x8D: lambda m: m.text("<Q"),
    ord("V"): lambda m: m.line().decode("raw-unicode-escape"),
    ord("S"): lambda m: _quoted(m.line()),
    ord("T"): lambda m: _python2_text(bytes(m.counted("<i"))),
    ord("U"): lambda m: _python2_text(bytes(m.counted("<B"))),
    ord("B"): lambda m: bytes(m.counted("<I")),
    ord("C"): lambda m: bytes(m.counted("<B")),
    0x8E: lambda m: bytes(m.counted("<Q")),
    0x96: lambda m: bytearray(m.counted("<Q")),
    ord(")"): lambda m: (),
    ord("]"): lambda m: [],
    ord("}"): lambda m: {},
    0x8F: Machine.new_set,
    ord("t"): lambda m: tuple(m.pop_marked()),
    0x85: lambda m: m.pop_several(1),
    0x86: lambda m: m.pop_several(2),
    0x87: lambda m: m.pop_several(3),
    ord("l"): Machine.pop_marked,
    ord("d"): lambda m: paired(m.pop_marked(), m.budget),
    0x91: lambda m: frozenset([checked_key(value, m.budget) for value in m.pop_marked()]),
    ord("2"): Machine.top,
    ord("g"): lambda m: m.get(int(m.short_line())),
    ord("h"): lambda m: m.get(m.number("<B")),
    ord("j"): lambda m: m.get(m.number("<I")),
    ord("P"): lambda m: m.persistent(m.short_line()),
    ord("Q"): lambda m: m.persistent(m.pop()),
    ord("c"): lambda m: m.name(m.short_line(), m.short_line()),
    0x93: lambda m: m.name(*m.pop_several(2)),
    ord("R"): lambda m: m.call(*m.pop_several(2)),
    0x81: lambda m: m.call(*m.pop_several(2)),
    0x92: lambda m: m.call(*m.pop_several(3)),
    ord("i"): lambda m: m.call(m.name(m.short_line(), m.short_line()), tuple(m.pop_marked())),
    ord("o"): Machine.call_marked,
}
_ACTIONS: dict[int, Callable[[Machine], None]] = {
    0x80: Machine.protocol,
    0x95: Machine.frame,
    ord("("): Machine.mark,
    ord("0"): Machine.pop_value_or_mark,
    ord("1"): lambda m: m.pop_marked().clear(),
    ord("a"): lambda m: m.append([m.pop()]),
    ord("e"): lambda m: m.append(m.pop_marked()),
    ord("s"): lambda m: m.set_items([*m.pop_several(2)]),
    ord("u"): lambda m: m.set_items(m.pop_marked()),
    0x90: lambda m: m.add_items(m.pop_marked()),
    ord("b"): Machine.build,
    ord("p"): lambda m: m.put(int(m.short_line())),
    ord("q"): lambda m: m.put(m.number("<B")),
    ord("r"): lambda m: m.put(m.number("<I")),
    0x94: lambda m: m.put(len(m.memo)),
}
