"""Checksums of files, computed in one pass or while they arrive."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ALGORITHMS = {"sha256": 64, "sha1": 40, "md5": 32}
"""Algorithm -> hexadecimal digits of a whole value."""
BLOCK = 1 << 20
BUFFERS = 4


@dataclass(frozen=True)
class Expected:
    """What a file must be; all None where nobody published anything.

    Attributes:
        size: bytes.
        algorithm: a key of ``ALGORITHMS``.
        value: hexadecimal digest in lower case, or its beginning.
    """

    size: int | None = None
    algorithm: str | None = None
    value: str | None = None

    @property
    def vouched(self) -> bool:
        """Whether a whole checksum is known, so that no wrong byte can pass."""
        return self.algorithm is not None and len(self.value or "") == ALGORITHMS[self.algorithm]

    def problem(self, size: int, digests: dict[str, str]) -> str | None:
        """What is wrong with a file of that size and those digests; None where it fits."""
        if self.size is not None and size != self.size:
            return f"it has {size} bytes instead of {self.size}"
        if self.algorithm is not None and not digests[self.algorithm].startswith(self.value or ""):
            return f"its {self.algorithm} is {digests[self.algorithm]}, not {self.value}"
        return None

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The algorithms to compute: always sha256, and the one that the checksum is in."""
        return tuple({"sha256": None, self.algorithm or "sha256": None})


class Hashing:
    """Digests computed in a thread of their own, so that receiving and hashing overlap.

    The few buffers go round: ``room`` gives a free one, ``update`` takes it back when it is full. A slow hash slows the
    receiver down.
    """

    def __init__(self, algorithms: Iterable[str]) -> None:
        self._hashes = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
        self._free: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[tuple[bytearray | bytes, int] | None] = queue.SimpleQueue()
        self._left, self._ended = BUFFERS, False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (job := self._full.get()) is not None:
            block, size = job
            with memoryview(block)[:size] as view:
                for running in self._hashes.values():
                    running.update(view)
            if isinstance(block, bytearray):
                self._free.put(block)

    def room(self) -> bytearray:
        """A buffer of ``BLOCK`` bytes to fill; waits until one is free."""
        if self._left:
            self._left -= 1
            return bytearray(BLOCK)
        return self._free.get()

    def update(self, block: bytearray | bytes, size: int) -> None:
        """Append the first ``size`` bytes of ``block``; a buffer from ``room`` belongs to the thread again."""
        self._full.put((block, size))

    def end(self) -> None:
        """Say that nothing more comes; ``finish`` then only waits."""
        if not self._ended:
            self._ended = True
            self._full.put(None)

    def finish(self) -> dict[str, str]:
        """Algorithm -> hexadecimal digest of everything so far; nothing can be appended afterwards."""
        self.end()
        self._thread.join()
        return {name: running.hexdigest() for name, running in self._hashes.items()}


def digests(path: Path, algorithms: Iterable[str] = ("sha256",)) -> dict[str, str]:
    """Algorithm -> hexadecimal digest of a file."""
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            for running in hashes.values():
                running.update(block)
    return {name: running.hexdigest() for name, running in hashes.items()}


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    return digests(path)["sha256"]
