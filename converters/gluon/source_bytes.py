"""The bytes of an open file, mapped or read, that notice when the file changes."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from ssdconv.errors import FormatError


class SourceBytes:
    """The open file behind the tensors; refuses to serve a file that shrank under its memory map."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._stamp = self._state()
        self._buffer: mmap.mmap | bytes | None = None
        self._mapped = False

    def _state(self) -> tuple[int, int]:
        state = os.fstat(self._descriptor)
        return state.st_size, state.st_mtime_ns

    def open(self, use_mmap: bool) -> None:
        if self._stamp[0] < 32:
            raise FormatError("too short for a .params list", where=str(self.path), got=f"{self._stamp[0]} bytes")
        try:
            if use_mmap:
                self._buffer = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
                self._mapped = True
            else:
                self._buffer = self.path.read_bytes()
        except (OSError, ValueError) as error:
            raise FormatError(f"cannot be read: {error}", where=str(self.path)) from None

    def view(self) -> memoryview:
        """The file's bytes, read-only; raises FormatError when the file was closed or changed since it was opened."""
        if self._buffer is None:
            raise FormatError("the file was closed before its tensors were read", where=str(self.path))
        if self._mapped and self._state() != self._stamp:
            raise FormatError("the file changed while it was being read", where=str(self.path))
        return memoryview(self._buffer)

    def unchanged(self) -> bool:
        """Whether the open file is as it was when it was opened."""
        return self._descriptor < 0 or self._state() == self._stamp

    def close(self) -> None:
        """Let go of the file; arrays keep the memory map alive as long as they need it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._buffer = None
