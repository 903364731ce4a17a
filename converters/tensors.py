"""A weight file as named lazy arrays, the operations that change a layout, and the bijection to the reference's tensors.

A reader (``converters/<source>``) turns a path into a ``TensorTable`` without the source's framework: names and shapes are known before
any tensor byte is touched, and bytes are read, usually from a memory map, on ``load``.

Every operation knows the shape it makes and its exact inverse: ``op.inverse_for(x.shape).apply(op.apply(x))`` is ``x``, bit for bit. None
does arithmetic.

A ``TensorMapping`` is checked before any tensor byte is read, so that memory is bounded by the network and not by the file: each source
tensor is used once or dropped by a rule that says why, each reference tensor is filled once, and names, shapes and dtypes fit.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from ssdconv.errors import MappingError

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
Found = TypeVar("Found")


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
        found: what else opening the file found (layer list, attributes), in a class of the source's own.
        warnings: harmless oddities met while reading (unknown fields, empty blobs).
        unchanged: raises FormatError when the file was changed since it was opened.
        close: releases the memory map.
    """

    def __init__(
        self,
        path: Path,
        format: str,
        tensors: Mapping[str, LazyTensor],
        *,
        found: object = None,
        warnings: tuple[str, ...] = (),
        unchanged: Callable[[], None] = lambda: None,
        close: Callable[[], None] | None = None,
    ) -> None:
        self.path = Path(path)
        self.format = format
        self.warnings = warnings
        self.unchanged = unchanged
        self._found = found
        self._tensors = dict(tensors)
        self._close = close

    def found(self, kind: type[Found]) -> Found:
        """What opening found.

        Raises:
            TypeError: the table comes from a reader that finds something else.
        """
        if not isinstance(self._found, kind):
            raise TypeError(f"{self.path}: found {type(self._found).__name__}, not {kind.__name__}")
        return self._found

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


class Op(Protocol):
    """One step of a mapping entry."""

    def shape(self, shape: Shape) -> Shape:
        """Shape after the op; raises ValueError when the op cannot take ``shape``."""

    def apply(self, array: Array) -> Array:
        """The array after the op (a view where possible)."""

    def inverse_for(self, shape: Shape) -> Op:
        """The op that undoes this one on an input of ``shape``."""


@dataclass(frozen=True)
class Transpose:
    """Reorder axes: ``Transpose((3, 2, 0, 1))`` takes HWIO to OIHW."""

    order: tuple[int, ...]

    def shape(self, shape: Shape) -> Shape:
        if sorted(self.order) != list(range(len(shape))):
            raise ValueError(f"cannot transpose {shape} by {self.order}")
        return tuple(shape[i] for i in self.order)

    def apply(self, array: Array) -> Array:
        return array.transpose(self.order)

    def inverse_for(self, shape: Shape) -> Transpose:
        return Transpose(tuple(int(i) for i in np.argsort(self.order)))

    def __str__(self) -> str:
        return f"transpose{self.order}"


@dataclass(frozen=True)
class ToShape:
    """Give the same elements another shape, such as (1, 512, 1, 1) to (512,)."""

    to: Shape

    def shape(self, shape: Shape) -> Shape:
        count = 1
        for side in shape:
            count *= side
        wanted = 1
        for side in self.to:
            wanted *= side
        if count != wanted:
            raise ValueError(f"cannot reshape {shape} to {self.to}")
        return self.to

    def apply(self, array: Array) -> Array:
        return array.reshape(self.to)

    def inverse_for(self, shape: Shape) -> ToShape:
        return ToShape(shape)

    def __str__(self) -> str:
        return f"reshape{self.to}"


@dataclass(frozen=True)
class Take:
    """Reorder the slices along one axis: ``out[i] = in[order[i]]`` (anchors, loc coordinates, RGB/BGR)."""

    order: tuple[int, ...]
    axis: int = 0
    label: str = "reorder"

    def shape(self, shape: Shape) -> Shape:
        if self.axis >= len(shape) or sorted(self.order) != list(range(shape[self.axis])):
            raise ValueError(f"cannot {self.label} axis {self.axis} of {shape} with {len(self.order)} indices")
        return shape

    def apply(self, array: Array) -> Array:
        return np.take(array, self.order, axis=self.axis)

    def inverse_for(self, shape: Shape) -> Take:
        return Take(tuple(int(i) for i in np.argsort(self.order)), self.axis, self.label)

    def __str__(self) -> str:
        return f"{self.label}[axis {self.axis}]"


def flip_channels(channels: int = 3, axis: int = 1) -> Take:
    """RGB <-> BGR of a first convolution's input axis."""
    return Take(tuple(reversed(range(channels))), axis, "rgb<->bgr")


def permute_anchors(order: Sequence[int], values: int, axis: int = 0, inner: Sequence[int] | None = None) -> Take:
    """Reorder a head's output channels anchor by anchor, and the values within an anchor.

    Args:
        order: new anchor ``i`` is old anchor ``order[i]``.
        values: channels per anchor: 4 for loc, the class count for conf.
        inner: order of the values within an anchor ((1, 0, 3, 2) swaps dy,dx,dh,dw to dx,dy,dw,dh).
    """
    within = tuple(inner) if inner is not None else tuple(range(values))
    return Take(tuple(a * values + v for a in order for v in within), axis, "anchors")


def apply_all(ops: Sequence[Op], array: Array) -> Array:
    """The array after all ops in order."""
    for op in ops:
        array = op.apply(array)
    return array


def shape_after(ops: Sequence[Op], shape: Shape) -> Shape:
    """The shape after all ops in order; raises ValueError where an op does not fit."""
    for op in ops:
        shape = op.shape(shape)
    return shape


def inverse(ops: Sequence[Op], shape: Shape) -> tuple[Op, ...]:
    """The ops that undo ``ops`` on an input of ``shape``."""
    undo: list[Op] = []
    for op in ops:
        undo.append(op.inverse_for(shape))
        shape = op.shape(shape)
    return tuple(reversed(undo))


@dataclass(frozen=True)
class MappedTensor:
    """``target = ops(source)``; ``source_shape`` is what the network says the source tensor must have."""

    source: str
    target: str
    source_shape: Shape
    ops: tuple[Op, ...] = ()

    @property
    def target_shape(self) -> Shape:
        """Shape of the reference tensor that this entry fills."""
        return shape_after(self.ops, self.source_shape)


@dataclass(frozen=True)
class Drop:
    """A source tensor that the reference does not hold, and why that loses nothing."""

    source: str
    reason: str


@dataclass(frozen=True)
class TensorMapping:
    """Entries and drops of one (network, file) pair."""

    entries: tuple[MappedTensor, ...]
    drops: tuple[Drop, ...] = ()

    def __iter__(self) -> Iterator[MappedTensor]:
        return iter(self.entries)

    def check(self, source: Mapping[str, LazyTensor], target: Mapping[str, Shape], *, where: str = "") -> None:
        """Raise unless the mapping is a bijection that fits both sides.

        Args:
            source: the file's tensors.
            target: names and shapes of the reference's tensors.
            where: file name for the error message.

        Raises:
            MappingError: a tensor is missing, left over, filled twice, or of another shape or kind.
        """
        once(e.source for e in self.entries)
        once((e.target for e in self.entries), "reference tensor")
        wanted = [e.source for e in self.entries] + [d.source for d in self.drops]
        missing = [name for name in wanted if name not in source]
        extra = [name for name in source if name not in set(wanted)]
        if missing:
            _raise_missing(missing, extra or list(source), where)
        if extra:
            raise MappingError(
                f"tensor {extra[0]!r} {source[extra[0]].shape} has no place in the network"
                + (f" (nor have {len(extra) - 1} others)" if len(extra) > 1 else ""),
                where=where or None,
                hint=_nearest(extra[0], target) or "is this the right --network for the file?",
            )
        for entry in self.entries:
            tensor = source[entry.source]
            if tuple(tensor.shape) != entry.source_shape:
                raise MappingError(
                    f"tensor {entry.source!r} has another shape than the network",
                    where=where or None,
                    expected=f"{entry.source_shape} for {entry.target!r}",
                    got=tensor.shape,
                    hint="is this the right --network for the file?",
                )
            if tensor.dtype.kind != "f":
                raise MappingError(
                    f"tensor {entry.source!r} is not floating point", where=where or None, got=tensor.dtype
                )
            if entry.target not in target:
                raise MappingError(f"the reference has no tensor {entry.target!r}", hint=_nearest(entry.target, target))
            if entry.target_shape != tuple(target[entry.target]):
                raise MappingError(
                    f"{entry.source!r} does not fit {entry.target!r}",
                    expected=tuple(target[entry.target]),
                    got=entry.target_shape,
                )
        unfilled = [name for name in target if name not in {e.target for e in self.entries}]
        if unfilled:
            raise MappingError(
                f"reference tensor {unfilled[0]!r} is filled by nothing in the file",
                where=where or None,
                got=f"{len(unfilled)} unfilled",
            )

    def forward(self, source: Mapping[str, LazyTensor]) -> Iterator[tuple[MappedTensor, Array]]:
        """Reference tensors, one by one, in the reference's layout."""
        for entry in self.entries:
            yield entry, apply_all(entry.ops, source[entry.source].load())

    def backward(self, target: Mapping[str, Array]) -> Iterator[tuple[MappedTensor, Array]]:
        """Source tensors, one by one, from the reference's: the exact inverse of ``forward``."""
        for entry in self.entries:
            yield entry, apply_all(inverse(entry.ops, entry.source_shape), target[entry.target])


def once(names: Iterable[str], kind: str = "source tensor") -> None:
    """Raise MappingError when a name comes twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise MappingError(f"{kind} {name!r} is mapped twice")
        seen.add(name)


def _nearest(name: str, names: Iterable[str]) -> str | None:
    close = difflib.get_close_matches(name, list(names), 1, 0.5)
    return f"nearest name: {close[0]!r}" if close else None


def _raise_missing(missing: list[str], candidates: list[str], where: str) -> None:
    more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    raise MappingError(
        f"the file has no tensor {missing[0]!r}{more}",
        where=where or None,
        hint=_nearest(missing[0], candidates) or "is this the right --network for the file?",
    )
