"""One open source file: its bytes, mapped or read, and the check that nobody changed it meanwhile."""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from ssdconv.errors import FormatError, SsdconvError
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
