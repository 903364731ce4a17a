"""``torch.save`` before torch 0.1.12: a tar archive of ``sys_info``, ``pickle``, ``storages`` and ``tensors``.

Facts: ``legacy_load`` of torch/serialization.py. torch itself reads such files only by unpickling them without restraint.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Any

from ssdconv.converters.pytorch.allowed import DTYPES, is_storage, refuse_code
from ssdconv.converters.pytorch.containers import Content, Storage, View, item_size
from ssdconv.converters.pytorch.machine import Global, Machine
from ssdconv.errors import FormatError

PARTS = ("pickle", "storages", "tensors")
_BLOCK = 512
MAX_PARTS = 10_000


def from_tar(data: Any, where: str, check: Callable[[], None]) -> Content:
    """Read the tar format.

    Raises:
        FormatError: not of this format, damaged, or cut short.
        UnsafeFileError: a pickle names code.
    """
    parts = tar_members(memoryview(data), where)
    missing = [name for name in PARTS if name not in parts]
    if missing:
        raise FormatError(
            "a tar archive, but not one of torch's",
            where=where,
            expected=f"members {', '.join(PARTS)}",
            got=", ".join(list(parts)[:5]) or "none",
            hint="unpack it first, if a weight file is in it",
        )
    storages = _Reader(parts["storages"], f"{where}, member storages").storages(check)
    views = _Reader(parts["tensors"], f"{where}, member tensors").tensors(storages)
    saved = Machine(parts["pickle"], where=f"{where}, member pickle").run()
    refuse_code(saved.globals, where)
    return Content("torch tar", saved.value, {**storages, **views})


def tar_members(data: memoryview, where: str) -> dict[str, memoryview]:
    """Regular files of a tar archive by name, without a leading ``./``.

    Raises:
        FormatError: damaged.
    """
    found: dict[str, memoryview] = {}
    at = 0
    while at + _BLOCK <= len(data) and any(data[at : at + _BLOCK]):
        head = bytes(data[at : at + _BLOCK])
        digits = head[124:136].rstrip(b"\0 ").lstrip(b" ")
        total = sum(head[:148]) + sum(head[156:]) + 8 * 32
        if not digits.isdigit() or head[148:156].strip(b"\0 ") != b"%06o" % total or len(found) > MAX_PARTS:
            raise FormatError("the tar archive is damaged", where=f"{where}, offset {at}")
        size = int(digits, 8) if not set(digits) & set(b"89") else -1
        start = at + _BLOCK
        if size < 0 or start + size > len(data):
            raise FormatError(
                "the tar archive is cut short", where=f"{where}, offset {at}", got=f"a member of {size} bytes"
            )
        if head[156:157] in (b"0", b"\0"):
            name = head[:100].split(b"\0")[0].decode("utf-8", "backslashreplace").removeprefix("./")
            if name in found:
                raise FormatError(f"two members are called {name!r}", where=f"{where}, offset {at}")
            found[name] = data[start : start + size]
        at = start + -(-size // _BLOCK) * _BLOCK
    return found


class _Reader:
    """Pickles and numbers one behind the other."""

    def __init__(self, data: memoryview, where: str) -> None:
        self.data = data
        self.where = where
        self.at = 0

    def pickle(self) -> Any:
        """The next pickle's value."""
        result = Machine(self.data, self.at, self.where).run()
        refuse_code(result.globals, self.where)
        self.at = result.end
        return result.value

    def count(self) -> int:
        """The next pickle, a number of things."""
        value = self.pickle()
        if type(value) is not int or not 0 <= value <= MAX_PARTS * 10:
            raise self.damaged()
        return value

    def numbers(self, form: str) -> tuple[int, ...]:
        """Fixed-size integers."""
        size = struct.calcsize(form)
        if self.at + size > len(self.data):
            raise self.damaged()
        self.at += size
        return struct.unpack_from(form, self.data, self.at - size)

    def damaged(self) -> FormatError:
        """An error that names the place."""
        return FormatError("damaged or cut short", where=f"{self.where}, offset {self.at}")

    def storages(self, check: Callable[[], None]) -> dict[str, Storage]:
        """Every storage by key, and the parts of storages that have keys of their own."""
        found: dict[str, Storage] = {}
        for _ in range(self.count()):
            about = self.pickle()
            if (
                not isinstance(about, tuple)
                or len(about) != 3
                or not isinstance(about[2], Global)
                or not is_storage(about[2])
            ):
                raise self.damaged()
            dtype = DTYPES[about[2].name]
            (count,) = self.numbers("<q")
            end = self.at + count * item_size(dtype)
            if count < 0 or end > len(self.data):
                raise self.damaged()
            found[str(about[0])] = Storage(dtype, count, partial(_part, self.data, self.at, end, check))
            self.at = end
        views = self.pickle()
        for view in views if isinstance(views, list) else []:
            if not isinstance(view, tuple) or len(view) != 4 or str(view[1]) not in found:
                raise self.damaged()
            root, offset, count = found[str(view[1])], view[2], view[3]
            if type(offset) is not int or type(count) is not int or not 0 <= offset <= offset + count <= root.count:
                raise self.damaged()
            size = item_size(root.dtype)
            found[str(view[0])] = Storage(
                root.dtype, count, partial(_within, root, offset * size, (offset + count) * size)
            )
        return found

    def tensors(self, storages: dict[str, Storage]) -> dict[str, View]:
        """Every tensor by key."""
        found: dict[str, View] = {}
        for _ in range(self.count()):
            about = self.pickle()
            if not isinstance(about, tuple) or len(about) != 3 or str(about[1]) not in storages:
                raise self.damaged()
            (sides, _) = self.numbers("<ii")
            if not 0 <= sides <= 32:
                raise self.damaged()
            size, stride, (offset,) = self.numbers(f"<{sides}q"), self.numbers(f"<{sides}q"), self.numbers("<q")
            if min((*size, *stride, offset)) < 0:
                raise self.damaged()
            found[str(about[0])] = View(storages[str(about[1])], offset, size, stride)
        return found


def _part(data: memoryview, start: int, end: int, check: Callable[[], None]) -> memoryview:
    check()
    return data[start:end]


def _within(root: Storage, start: int, end: int) -> memoryview:
    return root.load()[start:end]
