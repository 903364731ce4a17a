"""Reading members of a zip archive, the container of .npz and of torch's .pth files.

Nothing is unpacked until it is asked for, and unpacking stops at the size that the directory declares (``zip_directory``).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssdconv.converters.opened import OpenedFile
from ssdconv.converters.zip_directory import Directory, Member
from ssdconv.errors import FormatError


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
