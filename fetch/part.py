"""A file that is still arriving: ``NAME.part`` with its bytes, ``NAME.part.json`` with what is needed to go on.

A part left by a process that died is continued only when a whole checksum will judge the finished file; where nobody
published one, nothing vouches for the bytes that lie there, and they are dropped.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path
from typing import IO

from ssdconv.errors import OutputError
from ssdconv.fetch.digest import BLOCK, Expected, Hashing

FLUSH = 32 << 20
"""Bytes after which the disk is asked to catch up, in a thread, so that the last sync is short."""
HINT = "check the folder, its permissions and the free space; run it again to go on where it stopped"


class Part:
    """The bytes so far, with their running digests.

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
        self._hashing: Hashing | None = None
        self._stream: IO[bytes] | None = None
        self._flushing: threading.Thread | None = None
        self._flushed = 0
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
            size = self.path.stat().st_size
        except (OSError, ValueError, KeyError, TypeError):
            return
        if size == 0 or (expected.size is not None and size > expected.size):
            return
        self.url, self.validator, self.size = url, validator if isinstance(validator, str) else None, size
        self.old = True

    def restart(self, url: str, validator: str | None) -> None:
        """Forget all bytes; what follows comes from ``url``."""
        self.close()
        self.size, self.url, self.validator, self.old = 0, url, validator, False
        self._hashing = Hashing(self._algorithms)
        try:
            self.path.unlink(missing_ok=True)  # never old bytes beside the new address
            self._about.write_text(json.dumps({"url": url, "validator": validator}))
            self._stream = self.path.open("wb", buffering=0)
        except OSError as error:
            raise self._failed(error) from error

    def go_on(self) -> None:
        """Open for appending; digests of what is there already are computed first where they are not running."""
        if self._stream is not None:
            return
        hashing = Hashing(self._algorithms)
        try:
            stream = self.path.open("r+b", buffering=0)
            left = self.size
            while left:
                block = hashing.room()
                with memoryview(block)[: min(BLOCK, left)] as view:
                    count = stream.readinto(view)
                if not count:
                    break
                hashing.update(block, count)
                left -= count
            if left:
                raise OSError(5, "the part became shorter")
            stream.seek(self.size)
        except OSError as error:
            raise self._failed(error) from error
        self._hashing, self._stream = hashing, stream

    def room(self) -> bytearray:
        """A buffer to fill and give to ``write``."""
        assert self._hashing is not None
        return self._hashing.room()

    def write(self, block: bytearray | bytes, size: int) -> None:
        """Append the first ``size`` bytes of ``block``, which is not to be touched afterwards.

        Raises:
            OutputError: disk full and the like; the bytes before stay.
        """
        assert self._stream is not None and self._hashing is not None
        try:
            with memoryview(block)[:size] as view:
                self._stream.write(view)
        except OSError as error:
            raise self._failed(error) from error
        self._hashing.update(block, size)
        self.size += size
        if self.size - self._flushed >= FLUSH and (self._flushing is None or not self._flushing.is_alive()):
            self._flushed = self.size
            self._flushing = threading.Thread(target=_flush, args=(self._stream.fileno(),), daemon=True)
            self._flushing.start()

    def digests(self) -> dict[str, str]:
        """Algorithm -> digest of all bytes, which are on the disk for sure then; ends the writing."""
        assert self._hashing is not None and self._stream is not None
        self._hashing.end()
        try:
            os.fsync(self._stream.fileno())  # while the last blocks are hashed
        except OSError as error:
            raise self._failed(error) from error
        found = self._hashing.finish()
        self._hashing = None
        return found

    def keep(self) -> None:
        """Give the finished file its name; after ``digests``."""
        try:
            self.close()
            self.path.replace(self.target)
        except OSError as error:
            raise self._failed(error) from error
        self._about.unlink(missing_ok=True)
        if hasattr(os, "O_DIRECTORY"):
            folder = os.open(self.target.parent, os.O_RDONLY | os.O_DIRECTORY)
            with contextlib.suppress(OSError):  # some network file systems cannot; the rename itself has happened
                os.fsync(folder)
            os.close(folder)

    def drop(self) -> None:
        """Remove the bytes."""
        self.close()
        self.size, self.validator, self.url, self.old = 0, None, "", False
        for path in (self.path, self._about):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Flush and let go of the file; the bytes stay."""
        if self._hashing is not None:
            self._hashing.finish()
            self._hashing = None
        if self._flushing is not None:
            self._flushing.join()
            self._flushing, self._flushed = None, 0
        if self._stream is not None:
            stream, self._stream = self._stream, None
            with contextlib.suppress(OSError):
                stream.close()

    def _failed(self, error: OSError) -> OutputError:
        self.close()
        return OutputError(f"cannot write the file: {error.strerror or error}", where=str(self.path), hint=HINT)


def _flush(handle: int) -> None:
    with contextlib.suppress(OSError):  # the last sync tells
        os.fsync(handle)
