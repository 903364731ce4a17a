"""A checked bijection between a source's tensors and the reference's.

Each source tensor is used once or dropped by a rule that says why; each reference tensor is filled once. Names, shapes
and dtypes are checked before any tensor byte is read, so that memory is bounded by the network and not by the file.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ssdconv.converters.ops import Op, apply_all, inverse, shape_after
from ssdconv.converters.tensors import Array, LazyTensor
from ssdconv.errors import MappingError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Entry:
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

    entries: tuple[Entry, ...]
    drops: tuple[Drop, ...] = ()

    def __iter__(self) -> Iterator[Entry]:
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

    def forward(self, source: Mapping[str, LazyTensor]) -> Iterator[tuple[Entry, Array]]:
        """Reference tensors, one by one, in the reference's layout."""
        for entry in self.entries:
            yield entry, apply_all(entry.ops, source[entry.source].load())

    def backward(self, target: Mapping[str, Array]) -> Iterator[tuple[Entry, Array]]:
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
