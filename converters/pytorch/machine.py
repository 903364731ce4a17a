"""A pickle read as data: the pickle machine of protocols 0 to 5 without the power to run anything.

Python's unpickler imports what a file names and calls it. This machine does neither: a global stays a ``Global`` (two names), a call stays a
``PickledCall`` (what would be called, with which arguments), and only plain containers, text, numbers and bytes become Python objects. Steps,
depth, text and bytes are bounded by the input's own size and the limits below. A stream names every global that it can reach, because names
are kept when an opcode reads them, whatever happens to them later. Opcodes: CPython's Lib/pickletools.py.

It reads what ``torch.load(weights_only=True)`` refuses, which most training checkpoints are (whole-file tar archives, NumPy scalars, unknown
containers beside the weights), tells everything that a hostile file would call, gives names and shapes before any tensor byte, and needs
no torch. Our own checkpoints, which need none of that to be computed with, are loaded by ``torch.load``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
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
class PickledCall:
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
        for _ in range(MAX_STEPS):
            place = self.at
            code = self.byte()
            if code == 0x2E:
                return Result(self.pop(), tuple(self.globals), self.at)
            action = OPCODES.get(code)
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


MAX_KEY = 1 << 31
MAX_DIGITS = 1000
"""Decimal digits, or bytes, of one integer."""


def _keep(machine: Machine, index: int) -> None:
    machine.memo[index] = machine.top()


def _set_items(machine: Machine, pairs: list[Any]) -> None:
    target = machine.top()
    into = target.items if isinstance(target, PickledCall) else target
    if len(pairs) % 2 or not isinstance(into, dict):
        raise TypeError
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        into[_key(key)] = value


def _key(key: Any) -> Any:
    """A dict's key; anything but text and numbers (whose hash could recurse without bound) only by its type.

    Large integers, which can be chosen to collide so that filling a dict takes hours, become text (old optimizers count by id).
    """
    if isinstance(key, int) and not -MAX_KEY <= key <= MAX_KEY:
        return f"<int {key}>"
    return key if isinstance(key, str | bytes | int | float | None | Global) else f"<{type(key).__name__}>"


def _extend(machine: Machine, values: list[Any]) -> None:
    target = machine.top()
    if isinstance(target, PickledCall):
        target.values.extend(values)
    elif isinstance(target, set):
        target.update(_key(v) for v in values)
    elif isinstance(target, list):
        target.extend(values)
    else:
        raise TypeError


def _build(machine: Machine) -> None:
    state = machine.pop()
    target = machine.top()
    if isinstance(target, PickledCall):
        target.state.append(state)
    elif not isinstance(target, Global | Persistent):
        raise TypeError


def _reduce(machine: Machine) -> None:
    args = machine.pop()
    machine.push(PickledCall(machine.pop(), args))


def _new_object_keywords(machine: Machine) -> None:
    keywords, args, kind = machine.pop(), machine.pop(), machine.pop()
    machine.push(PickledCall(kind, args, [keywords]))


def _instance(machine: Machine) -> None:
    kind = machine.name(machine.line(), machine.line())
    machine.push(PickledCall(kind, tuple(machine.marked())))


def _object(machine: Machine) -> None:
    args = machine.marked()
    machine.push(PickledCall(args[0], tuple(args[1:])))


def _stack_global(machine: Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.push(machine.name(module, name))


def _integer(text: str) -> Any:
    if text in ("00", "01"):
        return text == "01"
    if len(text) > MAX_DIGITS:
        raise ValueError
    return int(text.removesuffix("L"))


def _quoted(text: str) -> str:
    """Protocol 0's quoted text, escapes left as they are: only names are of interest."""
    if len(text) < 2 or text[0] not in "'\"" or text[-1] != text[0]:
        raise ValueError
    return text[1:-1]


def _long(machine: Machine, count: int) -> int:
    if count > MAX_DIGITS:
        raise ValueError
    return int.from_bytes(machine.bytes(count), "little", signed=True)


def _pop_any(machine: Machine) -> None:
    if not machine.stack:
        raise IndexError
    machine.stack.pop()


def _text_of(machine: Machine, form: str) -> str:
    return machine.bytes(machine.number(form)).decode("utf-8", "surrogatepass")


def _old_text(machine: Machine, form: str) -> str:
    return machine.bytes(machine.number(form)).decode("latin-1")


def _tuple(machine: Machine, count: int) -> None:
    machine.push(tuple(reversed([machine.pop() for _ in range(count)])))


def _extension(machine: Machine, code: int) -> None:
    machine.push(machine.name("copyreg", f"extension {code}"))


def _pairs(machine: Machine) -> dict[Any, Any]:
    """The dict above the mark."""
    values = machine.marked()
    machine.push({})
    _set_items(machine, values)
    made: dict[Any, Any] = machine.pop()
    return made


def _unused(machine: Machine) -> None:
    """Opcodes that change nothing here."""


Action = Callable[[Machine], Any]

OPCODES: dict[int, Action] = {
    ord(code): action
    for code, action in {
        "(": lambda m: m.push(MARK),
        "0": _pop_any,
        "1": lambda m: m.marked(),
        "2": lambda m: m.push(m.top()),
        "F": lambda m: m.push(float(m.line())),
        "I": lambda m: m.push(_integer(m.line())),
        "J": lambda m: m.push(m.number("<i")),
        "K": lambda m: m.push(m.byte()),
        "L": lambda m: m.push(_integer(m.line())),
        "M": lambda m: m.push(m.number("<H")),
        "N": lambda m: m.push(None),
        "P": lambda m: m.push(Persistent(m.line())),
        "Q": lambda m: m.push(Persistent(m.pop())),
        "R": _reduce,
        "S": lambda m: m.push(_quoted(m.line())),
        "T": lambda m: m.push(_old_text(m, "<i")),
        "U": lambda m: m.push(_old_text(m, "<B")),
        "V": lambda m: m.push(m.line()),
        "X": lambda m: m.push(_text_of(m, "<I")),
        "a": lambda m: _extend(m, [m.pop()]),
        "b": _build,
        "c": lambda m: m.push(m.name(m.line(), m.line())),
        "d": lambda m: m.push(_pairs(m)),
        "e": lambda m: _extend(m, m.marked()),
        "g": lambda m: m.push(m.memo[_integer(m.line())]),
        "h": lambda m: m.push(m.memo[m.byte()]),
        "i": _instance,
        "j": lambda m: m.push(m.memo[m.number("<I")]),
        "l": lambda m: m.push(m.marked()),
        "o": _object,
        "p": lambda m: _keep(m, _integer(m.line())),
        "q": lambda m: _keep(m, m.byte()),
        "r": lambda m: _keep(m, m.number("<I")),
        "s": lambda m: _set_items(m, [m.pop(), m.pop()][::-1]),
        "t": lambda m: m.push(tuple(m.marked())),
        "u": lambda m: _set_items(m, m.marked()),
        "}": lambda m: m.push({}),
        "]": lambda m: m.push([]),
        ")": lambda m: m.push(()),
        "G": lambda m: m.push(m.number(">d")),
        "B": lambda m: m.push(m.bytes(m.number("<I"))),
        "C": lambda m: m.push(m.bytes(m.byte())),
        "\x80": lambda m: m.byte(),
        "\x81": _reduce,
        "\x82": lambda m: _extension(m, m.byte()),
        "\x83": lambda m: _extension(m, m.number("<H")),
        "\x84": lambda m: _extension(m, m.number("<i")),
        "\x85": lambda m: _tuple(m, 1),
        "\x86": lambda m: _tuple(m, 2),
        "\x87": lambda m: _tuple(m, 3),
        "\x88": lambda m: m.push(True),
        "\x89": lambda m: m.push(False),
        "\x8a": lambda m: m.push(_long(m, m.byte())),
        "\x8b": lambda m: m.push(_long(m, m.number("<i"))),
        "\x8c": lambda m: m.push(_text_of(m, "<B")),
        "\x8d": lambda m: m.push(_text_of(m, "<Q")),
        "\x8e": lambda m: m.push(m.bytes(m.number("<Q"))),
        "\x8f": lambda m: m.push(set()),
        "\x90": lambda m: _extend(m, m.marked()),
        "\x91": lambda m: m.push(frozenset(_key(v) for v in m.marked())),
        "\x92": _new_object_keywords,
        "\x93": _stack_global,
        "\x94": lambda m: _keep(m, len(m.memo)),
        "\x95": lambda m: m.bytes(8),
        "\x96": lambda m: m.push(m.bytes(m.number("<Q"))),
        "\x97": lambda m: m.push(m.name("pickle", "out-of-band buffer")),
        "\x98": _unused,
    }.items()
}
"""Opcode -> what it does here; 0x2E (STOP) is the machine's own."""
