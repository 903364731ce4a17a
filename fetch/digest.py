"""Checksums of files, and what a file must be."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ALGORITHMS = {"sha256": 64, "sha1": 40, "md5": 32}
"""Algorithm -> hexadecimal digits of a whole value."""
BLOCK = 1 << 20


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
