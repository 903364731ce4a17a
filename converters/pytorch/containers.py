"""The three file formats of ``torch.save``: zip (torch 1.6 on), several pickles in a row (0.1.12 to 1.5), tar (before).

Facts: torch/serialization.py. Each format gives one pickled object, whose storages lie elsewhere in the file, and where
each storage lies. Pickles are read by ``machine``, which runs nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ssdconv.converters.opened import Archive
from ssdconv.converters.pytorch.allowed import DTYPES, is_storage, refuse_code
from ssdconv.converters.pytorch.machine import MAX_BYTES, Global, Machine, Persistent, Result
from ssdconv.errors import FormatError

MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The first pickle of the middle format, behind its protocol opcode."""
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C


@dataclass(frozen=True)
class Storage:
    """One flat array of the file.

    Attributes:
        dtype: NumPy's word for the elements, or "bfloat16".
        count: number of elements.
        load: its bytes, checked where the format has a checksum.
    """

    dtype: str
    count: int
    load: Callable[[], memoryview] = field(repr=False)


@dataclass(frozen=True)
class View:
    """A tensor of the tar format: part of a storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Content:
    """What a file holds.

    Attributes:
        format: "torch zip", "torch legacy" or "torch tar".
        value: the saved object, as ``machine`` gives it.
        storages: persistent key -> storage, or a whole tensor in the tar format.
    """

    format: str
    value: Any
    storages: Mapping[Any, Storage | View]


def item_size(dtype: str) -> int:
    """Bytes per element."""
    return 2 if dtype == "bfloat16" else int(dtype[2:])


def from_zip(archive: Archive) -> Content:
    """The zip format: ``<name>/data.pkl`` and one stored member ``<name>/data/<key>`` per storage.

    Raises:
        FormatError: not such an archive, or damaged.
        UnsafeFileError: its pickle names code.
    """
    found = [name for name in archive.members if name.endswith("/data.pkl") or name == "data.pkl"]
    if len(found) != 1:
        raise FormatError(
            "a zip archive, but not one of torch's", where=archive.where, expected="one member data.pkl", got=len(found)
        )
    base = found[0].removesuffix("data.pkl")
    member = archive.members[found[0]]
    if member.size > MAX_BYTES:
        raise FormatError(
            "the pickle is larger than any network's", where=archive.where, expected=f"<= {MAX_BYTES}", got=member.size
        )
    where = f"{archive.where}, member {found[0]}"
    result = Machine(archive.read(member), where=where).run()
    refuse_code(result.globals, archive.where)
    big = (
        f"{base}byteorder" in archive.members and archive.head(archive.members[f"{base}byteorder"], 8).strip() == b"big"
    )
    storages: dict[Any, Storage | View] = {}
    for key, dtype, count in _storage_keys(result.value, where):
        data = archive.members.get(f"{base}data/{key}")
        if data is None or data.size != count * item_size(dtype):
            raise FormatError(
                f"storage {key!r} is missing or has another size than its tensors say",
                where=archive.where,
                expected=f"{count * item_size(dtype)} bytes in {base}data/{key}",
                got="no such member" if data is None else data.size,
            )
        storages[key] = Storage(_ordered(dtype, big), count, partial(archive.read, data))
    return Content("torch zip", result.value, storages)


def from_pickles(data: Any, where: str, check: Callable[[], None]) -> Content:
    """The middle format: five pickles (magic number, version, system, object, storage keys), then the storages.

    Raises:
        FormatError: damaged or cut short.
        UnsafeFileError: a pickle names code.
    """
    view = memoryview(data)
    parts: list[Result] = []
    for _ in range(5):
        parts.append(Machine(view, parts[-1].end if parts else 0, where).run())
        refuse_code(parts[-1].globals, where)
    magic, _, system, saved, keys = (part.value for part in parts)
    if magic != _MAGIC_NUMBER or not isinstance(keys, list):
        raise FormatError("not a file of torch.save", where=where)
    big = isinstance(system, dict) and system.get("little_endian") is False
    declared = {key: (dtype, count) for key, dtype, count in _storage_keys(saved, where)}
    storages: dict[Any, Storage | View] = {}
    at = parts[-1].end
    for key in keys:
        count, at = _count(view, at, where)
        # A storage that no tensor uses has no declared type; torch writes none such.
        dtype, wanted = declared.get(str(key), ("", -1))
        end = at + count * item_size(dtype) if dtype else -1
        if count != wanted or end > len(view):
            raise FormatError(
                f"storage {str(key)!r} is cut short or has another size than its tensors say",
                where=f"{where}, offset {at}",
                expected=f"{wanted} elements of {dtype or 'a known type'}",
                got=f"{count} elements and {len(view) - at} bytes left",
            )
        storages[str(key)] = Storage(_ordered(dtype, big), count, partial(_slice, view, at, end, check))
        at = end
    missing = [key for key in declared if key not in storages]
    if missing or at != len(view):
        what = f"storage {missing[0]!r} is missing" if missing else f"{len(view) - at} bytes too many"
        raise FormatError(f"damaged file: {what}", where=f"{where}, offset {at}")
    return Content("torch legacy", saved, storages)


def _slice(view: memoryview, start: int, end: int, check: Callable[[], None]) -> memoryview:
    check()
    return view[start:end]


def _count(view: memoryview, at: int, where: str) -> tuple[int, int]:
    """A storage's element count (int64) and where its elements start."""
    if at + 8 > len(view):
        raise FormatError("the file is cut short: a storage is missing", where=f"{where}, offset {at}")
    count = struct.unpack_from("<q", view, at)[0]
    if count < 0:
        raise FormatError("a storage has a negative size", where=f"{where}, offset {at}", got=count)
    return count, at + 8


def _ordered(dtype: str, big: bool) -> str:
    return dtype.replace("<", ">") if big else dtype


def _storage_keys(root: Any, where: str) -> list[tuple[str, str, int]]:
    """(key, dtype, elements) of every storage that the object refers to; equal keys once."""
    from ssdconv.converters.pytorch.walk import persistent

    found: dict[str, tuple[str, int]] = {}
    for item in persistent(root):
        key, dtype, count = storage_id(item, where)
        if found.setdefault(key, (dtype, count)) != (dtype, count):
            raise FormatError(f"storage {key!r} is declared in two ways", where=where)
    return [(key, dtype, count) for key, (dtype, count) in found.items()]


def storage_id(item: Persistent, where: str) -> tuple[str, str, int]:
    """(key, dtype, elements) of ``("storage", class, key, location, elements, …)``.

    Raises:
        FormatError: not of this form.
    """
    key = item.key
    if (
        isinstance(key, tuple)
        and len(key) >= 5
        and key[0] in ("storage", b"storage")
        and isinstance(key[1], Global)
        and is_storage(key[1])
        and isinstance(key[2], str | int)
        and isinstance(key[4], int)
        and key[4] >= 0
        and (len(key) == 5 or key[5] is None or view_offset(item) >= 0)
    ):
        return str(key[2]), DTYPES[key[1].name], key[4]
    raise FormatError("a tensor refers to a storage in an unknown way", where=where, got=repr(type(key)))


def view_offset(item: Persistent) -> int:
    """Elements of the storage before the part that a reference means (torch before 0.4), -1 where that is damaged."""
    part = item.key[5] if isinstance(item.key, tuple) and len(item.key) > 5 else None
    if part is None:
        return 0
    fits = isinstance(part, tuple) and len(part) == 3 and isinstance(part[1], int)
    return part[1] if fits else -1
