"""A file that is still arriving: ``NAME.part`` with its bytes, ``NAME.part.json`` with what is needed to go on.

A part left by a process that died is continued only when a whole checksum will judge the finished file; where nobody
published one, nothing vouches for the bytes that lie there, and they are dropped.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path
from typing import IO

from ssdconv.errors import OutputError
from ssdconv.fetch.digest import Expected, digests
from ssdconv.ssd_ref.files import open_here, sync_folder

HINT = "check the folder, its permissions and the free space; run it again to go on where it stopped"


class Part:
    """The bytes so far.

    Args:
        target: what the file will be called.
        expected: what it must be.

    Attributes:
        size: bytes so far.
        url, validator: where they come from, and the ETag or date that they had there.
        old: some of them were there before this process began.
    """

    def __init__(self, target: Path, expected: Expected) -> None:
        self.target = target
        self.path = target.with_name(target.name + ".part")
        self._about = target.with_name(target.name + ".part.json")
        self._algorithms = expected.algorithms
        self._stream: IO[bytes] | None = None
        self.size = 0
        self.url = ""
        self.validator: str | None = None
        self.old = False
        if expected.vouched:
            self._adopt(expected)

    def _adopt(self, expected: Expected) -> None:
        try:
            about = json.loads(self._about.read_text())
            url, validator = str(about["url"]), about["validator"]
            status = self.path.lstat()
        except (OSError, ValueError, KeyError, TypeError):
            return
        size = status.st_size
        if not stat.S_ISREG(status.st_mode) or size == 0 or (expected.size is not None and size > expected.size):
            return
        self.url, self.validator, self.size = url, validator if isinstance(validator, str) else None, size
        self.old = True

    def restart(self, url: str, validator: str | None) -> None:
        """Forget all bytes; what follows comes from ``url``."""
        self.close()
        self.size, self.url, self.validator, self.old = 0, url, validator, False
        try:
            for path in (self.path, self._about):
                path.unlink(missing_ok=True)  # never old bytes beside the new address, never through a link
            with self._about.open("x") as about:
                about.write(json.dumps({"url": url, "validator": validator}))
            self._stream = self.path.open("xb", buffering=0)
        except OSError as error:
            raise self._failed(error) from error

    def go_on(self) -> None:
        """Open for appending."""
        if self._stream is not None:
            return
        try:
            stream = open_here(self.path, os.O_RDWR)
            if os.fstat(stream.fileno()).st_size != self.size:
                stream.close()
                raise OSError(5, "the part changed its size")
            stream.seek(self.size)
        except OSError as error:
            raise self._failed(error) from error
        self._stream = stream

    def write(self, block: memoryview | bytes) -> None:
        """Append ``block``.

        Raises:
            OutputError: disk full and the like; what arrived on the disk stays and is counted.
        """
        assert self._stream is not None
        left = memoryview(block)
        while len(left):
            try:
                # A full disk first takes less than it was given, and only then refuses.
                count = self._stream.write(left)
            except OSError as error:
                raise self._failed(error) from error
            left = left[count:]
            self.size += count

    def digests(self) -> dict[str, str]:
        """Algorithm -> digest of what lies on the disk, read back from it; ends the writing.

        Raises:
            OutputError: it cannot be synced or read, or is not as long as what was written.
        """
        assert self._stream is not None
        try:
            os.fsync(self._stream.fileno())
            there = os.fstat(self._stream.fileno()).st_size
            if there != self.size:
                raise OSError(5, f"{there} of {self.size} bytes are on the disk")
            return digests(self.path, self._algorithms)
        except OSError as error:
            raise self._failed(error) from error

    def keep(self) -> None:
        """Give the finished file its name; after ``digests``."""
        try:
            self.close()
            self.path.replace(self.target)
        except OSError as error:
            raise self._failed(error) from error
        self._about.unlink(missing_ok=True)
        sync_folder(self.target.parent)

    def drop(self) -> None:
        """Remove the bytes."""
        self.close()
        self.size, self.validator, self.url, self.old = 0, None, "", False
        for path in (self.path, self._about):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file; the bytes stay."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            with contextlib.suppress(OSError):
                stream.close()

    def _failed(self, error: OSError) -> OutputError:
        self.close()
        return OutputError(f"cannot write the file: {error.strerror or error}", where=str(self.path), hint=HINT)
