"""A pickle read as data: the pickle machine of protocols 0 to 5 without the power to run anything.

Python's unpickler imports what a file names and calls it. This machine does neither: a global stays a ``Global`` (two names),
a call stays a ``Call`` (what would be called, with which arguments), and only plain containers, text, numbers and bytes become
Python objects. Steps, depth, text and bytes are bounded by the input's own size and the limits below.
Opcodes: CPython's Lib/pickletools.py. A stream names every global that it can reach, because names are kept when an opcode
reads them, whatever happens to them later.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

from ssdconv.errors import FormatError

MAX_BYTES = 32 * 1024 * 1024
"""Bytes of one pickle that are read; an SSD's state dict takes about 10 kB."""
MAX_STEPS = 500_000
"""Opcodes of one pickle; an SSD's state dict takes about 3,000, with an optimizer 10,000."""
MAX_DEPTH = 10_000
"""Values on the machine's stack."""


@dataclass(frozen=True)
class Global:
    """Something that the pickle names and an unpickler would import."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Call:
    """A call that an unpickler would make, with what would be set on its result afterwards."""

    target: Any
    args: Any
    state: list[Any] = field(default_factory=list)
    items: dict[Any, Any] = field(default_factory=dict)
    values: list[Any] = field(default_factory=list)


@dataclass(eq=False)
class Persistent:
    """A reference to data outside the pickle (torch: a storage)."""

    key: Any


@dataclass(eq=False)
class Result:
    """What one pickle holds.

    Attributes:
        value: the object on top when it stopped; ``Global``, ``Call`` and ``Persistent`` stand for what was not built.
        globals: everything named, in order of appearance, without repeats.
        end: offset behind the pickle.
    """

    value: Any
    globals: tuple[Global, ...]
    end: int


class _Mark:
    """A place on the stack."""


MARK = _Mark()


class Machine:
    """One pickle in ``data`` from ``start`` on.

    Args:
        data: a whole file, or the pickle itself.
        where: file name for messages.
    """

    def __init__(self, data: Any, start: int = 0, where: str = "") -> None:
        self.data = memoryview(data)
        self.at = start
        self.limit = min(len(self.data), start + MAX_BYTES)
        self.where = where
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.globals: dict[Global, None] = {}

    def run(self) -> Result:
        """Read to the end of the pickle.

        Raises:
            FormatError: damaged, cut short, or larger than any network's.
        """
        from ssdconv.converters.pytorch.opcodes import OPCODES as opcodes  # noqa: N811 - they need this module's classes

        for _ in range(MAX_STEPS):
            place = self.at
            code = self.byte()
            if code == 0x2E:
                return Result(self.pop(), tuple(self.globals), self.at)
            action = opcodes.get(code)
            if action is None:
                raise self.fail(f"no pickle: unknown opcode {code:#04x}", place)
            try:
                action(self)
            except (
                TypeError,
                ValueError,
                IndexError,
                KeyError,
                AttributeError,
                RecursionError,
                OverflowError,
            ) as error:
                raise self.fail(f"damaged pickle: {type(error).__name__} at opcode {code:#04x}", place) from None
            if len(self.stack) > MAX_DEPTH:
                raise self.fail("the pickle nests deeper than any network's", place)
        raise self.fail("the pickle has more steps than any network's", self.at)

    def fail(self, what: str, offset: int) -> FormatError:
        """An error that names the place."""
        return FormatError(what, where=f"{self.where}, offset {offset}")

    def byte(self) -> int:
        """The next byte."""
        if self.at >= self.limit:
            raise self.fail("the pickle is cut short, or larger than any network's", self.at)
        self.at += 1
        return self.data[self.at - 1]

    def bytes(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        if count < 0 or self.at + count > self.limit:
            raise self.fail(f"the pickle is cut short: {count} bytes were promised", self.at)
        self.at += count
        return bytes(self.data[self.at - count : self.at])

    def number(self, form: str) -> Any:
        """The next number in ``struct``'s form."""
        return struct.unpack(form, self.bytes(struct.calcsize(form)))[0]

    def line(self) -> str:
        """The next line of a text opcode."""
        for step in (256, 4096, 65536):
            chunk = bytes(self.data[self.at : min(self.at + step, self.limit)])
            end = chunk.find(b"\n")
            if end >= 0:
                self.at += end + 1
                return chunk[:end].decode("utf-8", "backslashreplace")
        raise self.fail("a line of the pickle has no end", self.at)

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Take the top value."""
        if not self.stack or self.stack[-1] is MARK:
            raise self.fail("damaged pickle: nothing on the stack", self.at)
        return self.stack.pop()

    def top(self) -> Any:
        """The top value, which stays."""
        if not self.stack or self.stack[-1] is MARK:
            raise self.fail("damaged pickle: nothing on the stack", self.at)
        return self.stack[-1]

    def marked(self) -> list[Any]:
        """Everything above the last mark."""
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is MARK:
                taken = self.stack[index + 1 :]
                del self.stack[index:]
                return taken
        raise self.fail("damaged pickle: no mark on the stack", self.at)

    def name(self, module: Any, name: Any) -> Global:
        """Keep a global that the pickle names."""
        found = Global(word(module), word(name))
        self.globals[found] = None
        return found


def word(value: Any) -> str:
    """A module's or attribute's name as text, whatever the pickle put there."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value if isinstance(value, str) else f"<{type(value).__name__}>"
