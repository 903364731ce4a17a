"""One open source file: its bytes, mapped or read, the check that nobody changed it meanwhile, and the members of a zip archive in it.

Zip archives (.npz, torch's .pth, .keras) are read here and not by ``zipfile``, because they come from strangers: ``zipfile`` reads a whole
directory before its size can be limited, takes bytes before the archive and two members of one name, and before Python 3.11.8 and 3.12.2
members that overlap. Every number is checked before it is used; also refused are encryption, compression other than deflate, absolute names
and "..". Nothing is unpacked until it is asked for, and unpacking stops at the size that the directory declares.
Layout: .ZIP File Format Specification 6.3.10 (APPNOTE.TXT), sections 4.3.7 to 4.3.16, zip64 included.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ssdconv.errors import FormatError, SsdconvError, UnsafeFileError
from ssdconv.ssd_ref.gate import open_input


class OpenedFile:
    """The bytes of a regular file, read-only: a memory map, or ``bytes`` where ``use_mmap`` is False.

    Arrays made from ``data`` keep it alive after ``close``.
    """

    def __init__(self, path: Path, *, use_mmap: bool = True) -> None:
        """Open ``path``.

        Raises:
            MissingError: there is no such file.
            FormatError: not a regular file, unreadable, or empty.
        """
        self.path = Path(path)
        self._map: mmap.mmap | None = None
        self._bytes: bytes | None = None
        with open_regular(self.path) as stream:
            self._stamp = _stamp(os.fstat(stream.fileno()))
            if use_mmap:
                self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            else:
                self._bytes = stream.read()

    @property
    def data(self) -> mmap.mmap | bytes:
        """The whole file.

        Raises:
            SsdconvError: the file was closed.
        """
        data = self._map if self._map is not None else self._bytes
        if data is None:
            raise SsdconvError("the file was closed before this tensor was read", where=str(self.path))
        return data

    def unchanged(self) -> None:
        """Raise unless the file still has the size and modification time that it had when opened.

        Reading a map of a file that was shortened kills the process (SIGBUS), so every load asks first.

        Raises:
            FormatError: the file was changed, replaced or removed.
        """
        try:
            now = _stamp(self.path.stat())
        except OSError as error:
            raise FormatError(f"the file went away while it was read: {error.strerror}", where=str(self.path)) from None
        if now != self._stamp:
            raise FormatError(
                "the file was changed while it was read",
                where=str(self.path),
                expected=f"{self._stamp[0]} bytes as when opened",
                got=f"{now[0]} bytes or another modification time",
                hint="wait until the download or copy is complete and run again",
            )

    def close(self) -> None:
        """Let go of the file; arrays that still look into it stay valid."""
        if self._map is not None:
            with suppress(BufferError):  # arrays still look into it: the last of them frees the map
                self._map.close()
        self._map = self._bytes = None


def open_regular(path: Path) -> BinaryIO:
    """The weight file opened for reading, by the gate (``ssd_ref.gate``).

    Raises:
        MissingError: there is no such file.
        FormatError: not a regular file, unreadable, or empty.
    """
    stream = open_input(path, "weights")
    if os.fstat(stream.fileno()).st_size == 0:
        stream.close()
        raise FormatError("the file is empty (0 bytes)", where=str(path), hint="download or copy it again")
    return stream


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ino


MAX_MEMBERS = 20_000
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_MAX32 = 0xFFFFFFFF
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_UTF8 = 0x800
STORED, DEFLATED = 0, 8


@dataclass(frozen=True, slots=True)
class Member:
    """One file of the archive: where its bytes lie and what the directory says about them."""

    name: str
    deflated: bool
    crc: int
    packed: int
    size: int
    header: int


class Directory:
    """The members of a zip file by name, in directory order, and where each one's bytes start.

    Args:
        data: the whole file.
        where: its name for messages.

    Raises:
        FormatError: not a zip file, or damaged.
        UnsafeFileError: made to harm or to hide: overlapping, encrypted, duplicate or absolute members.
    """

    def __init__(self, data: memoryview, where: str) -> None:
        self._data = data
        self.where = where
        self.members: dict[str, Member] = {}
        self.starts: dict[str, int] = {}
        self._directory()

    def _fail(self, what: str, offset: int, **facts: Any) -> FormatError:
        return FormatError(what, where=f"{self.where}, offset {offset}", **facts)

    def _directory(self) -> None:
        count, size, start, end = self._end()
        if count > MAX_MEMBERS:
            raise self._fail(
                "the archive has more members than any network has tensors",
                end,
                expected=f"<= {MAX_MEMBERS}",
                got=count,
            )
        if start + size != end:
            raise self._fail(
                "the archive's directory is not where its end record says; bytes are missing or were put before it",
                end,
                expected=f"a directory that ends at {end}",
                got=f"one of {size} bytes at {start}",
            )
        place = start
        for _ in range(count):
            place = self._entry(place, end)
        if place != end:
            raise self._fail("the archive's directory has bytes that belong to no member", place)
        self._lay_out(start)

    def _end(self) -> tuple[int, int, int, int]:
        """Members, size and offset of the directory, and where it must end."""
        data, total = self._data, len(self._data)
        tail = bytes(data[max(0, total - _END.size - 0xFFFF) :])
        found = tail.rfind(b"PK\5\6")
        while found >= 0:
            if len(tail) - found >= _END.size:
                fields = _END.unpack_from(tail, found)
                if found + _END.size + fields[7] == len(tail):
                    break
            found = tail.rfind(b"PK\5\6", 0, found)
        if found < 0:
            raise FormatError(
                "no end of a zip archive: the file is cut short, or is no zip archive",
                where=self.where,
                got=f"{total} bytes",
                hint="download or copy it again",
            )
        place = total - len(tail) + found
        _, disk, first, here, count, size, start, _ = fields
        if 0xFFFF in (disk, first, here, count) or _MAX32 in (size, start):
            place, (disk, first, here, count, size, start) = self._end64(place)
        elif place >= _LOCATOR.size and bytes(data[place - _LOCATOR.size :][:4]) == b"PK\6\7":
            place = self._end64(place)[0]  # torch writes both records always; the directory ends before the first
        if disk or first or here != count:
            raise self._fail("the archive is one part of several", place)
        return count, size, start, place

    def _end64(self, place: int) -> tuple[int, tuple[int, ...]]:
        at = place - _LOCATOR.size
        if at < 0 or bytes(self._data[at : at + 4]) != b"PK\6\7":
            raise self._fail("the archive's end record points to a zip64 record that is not there", place)
        _, _, offset, _ = _LOCATOR.unpack_from(self._data, at)
        if offset + _END64.size > at or bytes(self._data[offset : offset + 4]) != b"PK\6\6":
            raise self._fail("the archive's zip64 record is not where its locator says", at, got=offset)
        fields = _END64.unpack_from(self._data, offset)
        return offset, fields[4:10]

    def _entry(self, place: int, end: int) -> int:
        """Read one directory entry; returns where the next one starts."""
        if place + _CENTRAL.size > end or bytes(self._data[place : place + 4]) != b"PK\1\2":
            raise self._fail("the archive's directory is damaged", place)
        fields = _CENTRAL.unpack_from(self._data, place)
        _, _, _, flags, method, _, _, crc, packed, size, names, extras, comments, disk, _, _, header = fields
        after: int = place + _CENTRAL.size + names + extras + comments
        if after > end:
            raise self._fail("the archive's directory is damaged: an entry runs over its end", place)
        raw = bytes(self._data[place + _CENTRAL.size :][:names])
        extra = bytes(self._data[place + _CENTRAL.size + names :][:extras])
        name = self._name(raw, flags, place)
        size, packed, header = self._wide(extra, [size, packed, header], place)
        if flags & _ENCRYPTED:
            raise UnsafeFileError(f"member {name!r} is encrypted", where=f"{self.where}, offset {place}")
        if method not in (STORED, DEFLATED) or disk:
            raise self._fail(
                f"member {name!r} is compressed by an unknown method", place, expected="stored or deflated", got=method
            )
        if method == STORED and packed != size:
            raise self._fail(f"stored member {name!r} has two sizes", place, got=f"{packed} and {size}")
        if name in self.members:
            raise UnsafeFileError(f"two members are called {name!r}", where=f"{self.where}, offset {place}")
        if name.endswith("/") and not size:
            return after
        self.members[name] = Member(name, method == DEFLATED, crc, packed, size, header)
        return after

    def _name(self, raw: bytes, flags: int, place: int) -> str:
        try:
            name = raw.decode("utf-8" if flags & _UTF8 or raw.isascii() else "cp437")
        except UnicodeDecodeError:
            raise self._fail("a member's name is not text", place, got=repr(raw[:40])) from None
        if (
            not name
            or "\0" in name
            or "\\" in name
            or name.startswith("/")
            or ".." in name.split("/")
            or ":" in name[:2]
        ):
            raise UnsafeFileError(
                "a member's name leads out of the archive", where=f"{self.where}, offset {place}", got=repr(name[:80])
            )
        return name

    def _wide(self, extra: bytes, values: list[int], place: int) -> list[int]:
        """Sizes and offset, from the zip64 field where the directory has no room for them."""
        wide = [i for i, value in enumerate(values) if value == _MAX32]
        at = 0
        while wide and at + 4 <= len(extra):
            kind, length = struct.unpack_from("<2H", extra, at)
            if kind == 1:
                if length < 8 * len(wide) or at + 4 + length > len(extra):
                    break
                for k, i in enumerate(wide):
                    values[i] = struct.unpack_from("<Q", extra, at + 4 + 8 * k)[0]
                return values
            at += 4 + length
        if wide:
            raise self._fail("a member's zip64 sizes are missing", place)
        return values

    def _lay_out(self, directory: int) -> None:
        """Where each member's bytes start; none may reach into another or into the directory."""
        last = 0
        for member in sorted(self.members.values(), key=lambda m: m.header):
            at = member.header
            if at < last:
                raise UnsafeFileError(
                    f"member {member.name!r} lies within another one",
                    where=f"{self.where}, offset {at}",
                    hint="archives that expand without end are made this way",
                )
            if at + _LOCAL.size > directory or bytes(self._data[at : at + 4]) != b"PK\3\4":
                raise self._fail(f"member {member.name!r} is not where the directory says", at)
            _, _, flags, method, _, _, _, _, _, names, extras = _LOCAL.unpack_from(self._data, at)
            start = at + _LOCAL.size + names + extras
            last = start + member.packed
            if last > directory:
                raise self._fail(
                    f"member {member.name!r} runs into the archive's directory", at, got=f"{member.packed} bytes"
                )
            raw = bytes(self._data[at + _LOCAL.size :][:names])
            if self._name(raw, flags, at) != member.name or (method == DEFLATED) != member.deflated:
                raise UnsafeFileError(
                    f"member {member.name!r} is described in two ways", where=f"{self.where}, offset {at}"
                )
            self.starts[member.name] = start


class Archive:
    """An open zip file.

    Args:
        data: the whole file.
        where: its name for messages.
        check: called before each reading; raises when the file was changed since it was opened.

    Raises:
        FormatError, UnsafeFileError: see ``Directory``.
    """

    def __init__(self, data: Any, where: str, check: Callable[[], None] | None = None) -> None:
        self._data = memoryview(data)
        self.where = where
        self._check = check or (lambda: None)
        directory = Directory(self._data, where)
        self.members = directory.members
        self._starts = directory.starts

    def packed(self, member: Member) -> memoryview:
        """The member's bytes as they lie in the file."""
        self._check()
        start = self._starts[member.name]
        return self._data[start : start + member.packed]

    def head(self, member: Member, count: int) -> bytes:
        """The first ``count`` bytes of the member, fewer where it is shorter; nothing behind them is unpacked."""
        packed = self.packed(member)
        if not member.deflated:
            return bytes(packed[:count])
        out, feeder = b"", zlib.decompressobj(-15)
        try:
            for at in range(0, len(packed), 4096):
                out += feeder.decompress(packed[at : at + 4096], count - len(out))
                if len(out) >= count or feeder.eof:
                    break
        except zlib.error as error:
            raise FormatError(f"member {member.name!r} is damaged: {error}", where=self.where) from None
        return out

    def read(self, member: Member) -> memoryview:
        """All bytes of the member, checked against its CRC-32; a view of the file where it is stored.

        Raises:
            FormatError: damaged, or of another size than declared.
        """
        packed = self.packed(member)
        data = memoryview(self._inflate(member, packed)) if member.deflated else packed
        if len(data) != member.size:
            raise FormatError(
                f"member {member.name!r} has another size than declared",
                where=self.where,
                expected=f"{member.size} bytes",
                got=f"{len(data)} or more" if len(data) > member.size else len(data),
            )
        if zlib.crc32(data) != member.crc:
            raise FormatError(
                f"member {member.name!r} is damaged: its CRC-32 is wrong",
                where=self.where,
                hint="download or copy the file again",
            )
        return data

    def _inflate(self, member: Member, packed: memoryview) -> bytearray:
        """Unpack to at most one byte more than declared."""
        out, feeder = bytearray(), zlib.decompressobj(-15)
        try:
            for at in range(0, len(packed), 1 << 16):
                piece = packed[at : at + (1 << 16)]
                while piece and len(out) <= member.size:
                    out += feeder.decompress(piece, min(1 << 22, member.size + 1 - len(out)))
                    piece = memoryview(feeder.unconsumed_tail)
                if feeder.eof or len(out) > member.size:
                    break
            while not feeder.eof and len(out) <= member.size:  # output may wait behind the last input
                more = feeder.decompress(b"", min(1 << 22, member.size + 1 - len(out)))
                if not more:
                    break
                out += more
        except zlib.error as error:
            raise FormatError(f"member {member.name!r} is damaged: {error}", where=self.where) from None
        return out


def open_archive(path: Path) -> tuple[OpenedFile, Archive]:
    """Map a file and read its directory; close the first of the two when done.

    Raises:
        MissingError, FormatError, UnsafeFileError: see ``OpenedFile`` and ``Archive``.
    """
    file = OpenedFile(path)
    try:
        return file, Archive(file.data, str(path), file.unchanged)
    except BaseException:
        file.close()
        raise
