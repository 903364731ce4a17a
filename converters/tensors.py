"""A weight file as named lazy arrays, the same for every source.

A reader (``converters/<source>/reader.py``) turns a path into a ``TensorTable`` without the source's framework.
Names and shapes are known before any tensor byte is touched; bytes are read, usually from a memory map, on ``load``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class LazyTensor:
    """One tensor of a file, unread.

    Attributes:
        name: the source's own name.
        shape, dtype: as stored.
        load: returns the array (a read-only view of the file where possible).
        where: place in the file for error messages ("layer conv1_1 blob 0, offset 1234").
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    load: Callable[[], Array] = field(repr=False, compare=False)
    where: str = ""

    @property
    def nbytes(self) -> int:
        """Size of the array in bytes, computed with Python integers."""
        return self.dtype.itemsize * prod(self.shape)


class TensorTable(Mapping[str, LazyTensor]):
    """Ordered tensors of one file, with what else the file says.

    Args:
        path: the file.
        format: name of the file format ("caffemodel", "params", "h5", ...).
        tensors: in file order; names are unique.
        meta: anything else the source file tells (layer list, attributes), keyed by the reader.
        warnings: harmless oddities met while reading (unknown fields, empty blobs).
        close: releases the memory map.
    """

    def __init__(
        self,
        path: Path,
        format: str,
        tensors: Mapping[str, LazyTensor],
        *,
        meta: Mapping[str, Any] | None = None,
        warnings: tuple[str, ...] = (),
        close: Callable[[], None] | None = None,
    ) -> None:
        self.path = Path(path)
        self.format = format
        self.meta: dict[str, Any] = dict(meta or {})
        self.warnings = warnings
        self._tensors = dict(tensors)
        self._close = close

    def __getitem__(self, name: str) -> LazyTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file. Arrays loaded before stay valid."""
        if self._close is not None:
            self._close()
            self._close = None

    @property
    def nbytes(self) -> int:
        """Sum of the tensors' sizes in bytes."""
        return sum(t.nbytes for t in self.values())


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes as lower-case hex.

    Reads in large pieces: between them a thread waits for the interpreter lock, up to 5 ms each time.
    """
    digest = hashlib.sha256()
    piece = memoryview(bytearray(8 << 20))
    with open(path, "rb", buffering=0) as stream:
        while count := stream.readinto(piece):
            digest.update(piece[:count])
    return digest.hexdigest()
