"""A pickle reader that cannot run code: plain values, and calls of the functions it is given.

A pickle is a program for a small stack machine (the opcodes are documented in Python's `pickletools`). This machine
knows only the opcodes that tensors in dictionaries need. Globals are looked up in a table and never imported; calling
anything but a function of that table is refused, as are unhashable or nested dictionary keys. Time and memory are
linear in the pickle's length.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from wingbeat.formats.lazy import FormatError

HIGHEST_PROTOCOL = 5
_MARK = object()


@dataclass(frozen=True)
class Call:
    """A global that may be called: `apply` gets the pickled arguments, which it must check."""

    apply: Callable[..., Any]


def unpickle(data: bytes, allowed: Mapping[str, Any], persistent: Callable[[Any], Any]) -> tuple[Any, int]:
    """The value of the pickle that ``data`` begins with, and where it ends.

    `allowed` maps `module.name` to a Call or to an inert value; `persistent` resolves persistent ids. Raises
    FormatError for anything that is damaged or not allowed.
    """
    try:
        machine = _Machine(data, allowed, persistent)
        return machine.run(), machine.position
    except (IndexError, struct.error, UnicodeDecodeError, TypeError) as error:
        raise FormatError("the pickle inside is damaged: download the file again") from error


class _Machine:
    def __init__(self, data: bytes, allowed: Mapping[str, Any], persistent: Callable[[Any], Any]) -> None:
        self.data = data
        self.position = 0
        self.allowed = allowed
        self.persistent = persistent
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        while (code := self.take(1)) != b".":
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise FormatError(f"the pickle inside uses opcode {code!r}, which no tensor file needs: refused")
            operation(self)
        return self.pop()

    def take(self, count: int) -> bytes:
        piece = self.data[self.position : self.position + count]
        if len(piece) != count:
            raise FormatError("the pickle inside ends too early: the file is damaged, download it again")
        self.position += count
        return piece

    def number(self, code: str) -> int:
        """The next number, as `struct` writes it."""
        return struct.unpack("<" + code, self.take(struct.calcsize(code)))[0]

    def line(self) -> str:
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise FormatError("the pickle inside ends too early: the file is damaged, download it again")
        return self.take(end + 1 - self.position)[:-1].decode()

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise IndexError
        return value

    def pop_to_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:  # runs out of the stack, as IndexError, when there is none
            at -= 1
            if at < 0:
                raise IndexError
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def top(self, kind: type) -> Any:
        value = self.stack[-1]
        if not isinstance(value, kind):
            raise TypeError
        return value

    def protocol(self) -> None:
        found = self.number("B")
        if found > HIGHEST_PROTOCOL:
            raise FormatError(f"the pickle inside has protocol {found}; {HIGHEST_PROTOCOL} is the highest known")

    def frame(self) -> None:
        """A length for readers that buffer; this one has all the data."""
        self.take(8)

    def find(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if full not in self.allowed:
            raise FormatError(
                f"the file asks to load {full[:200]!r}, which is not a plain tensor: refused, since such files can run"
                " code. Save only the weights: torch.save(model.state_dict(), path)"
            )
        self.push(self.allowed[full])

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise TypeError
        self.find(module, name)

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Call) or not isinstance(arguments, tuple):
            raise FormatError("the file asks to call something that is not a tensor constructor: refused")
        self.push(function.apply(*arguments))

    def build(self) -> None:
        """An object's extra attributes, such as the `_metadata` of a state_dict: nothing needs them."""
        self.pop()
        self.top(dict)

    def set_items(self, items: list[Any]) -> None:
        target = self.top(dict)
        if len(items) % 2:
            raise IndexError
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int | float | None):  # hashing a deeply nested tuple would recurse
                raise FormatError(f"the file has a dictionary key of type {type(key).__name__}: refused")
            target[key] = value

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def append(self) -> None:
        value = self.pop()
        self.top(list).append(value)

    def appends(self) -> None:
        items = self.pop_to_mark()
        self.top(list).extend(items)

    def tuple_of(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    def remember(self, index: int) -> None:
        self.memo[index] = self.top(object)

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise IndexError
        self.push(self.memo[index])


_OPERATIONS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": _Machine.protocol,
    b"\x95": _Machine.frame,
    b"(": lambda m: m.push(_MARK),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"J": lambda m: m.push(m.number("i")),
    b"K": lambda m: m.push(m.number("B")),
    b"M": lambda m: m.push(m.number("H")),
    b"\x8a": lambda m: m.push(int.from_bytes(m.take(m.number("B")), "little", signed=True)),
    b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    b"X": lambda m: m.push(m.take(m.number("I")).decode()),
    b"\x8c": lambda m: m.push(m.take(m.number("B")).decode()),
    b"]": lambda m: m.push([]),
    b"}": lambda m: m.push({}),
    b")": lambda m: m.push(()),
    b"t": lambda m: m.push(tuple(m.pop_to_mark())),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"a": _Machine.append,
    b"e": _Machine.appends,
    b"s": _Machine.set_item,
    b"u": lambda m: m.set_items(m.pop_to_mark()),
    b"q": lambda m: m.remember(m.number("B")),
    b"r": lambda m: m.remember(m.number("I")),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"h": lambda m: m.recall(m.number("B")),
    b"j": lambda m: m.recall(m.number("I")),
    b"c": lambda m: m.find(m.line(), m.line()),
    b"\x93": _Machine.stack_global,
    b"Q": lambda m: m.push(m.persistent(m.pop())),
    b"R": _Machine.reduce,
    b"b": _Machine.build,
}
