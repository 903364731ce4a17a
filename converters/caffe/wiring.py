"""Which layer made the value that a layer reads: Caffe's blob names, resolved in file order.

A blob name stands for a new value each time a layer writes it (in-place layers do), also under another name of the same
memory. A value is known by the layer that made it, as its index in the layer list, and its name; index -1 is the net's input.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from ssdconv.errors import FormatError
from ssdconv.ssd_ref.caffe_layers.memory import Memory
from ssdconv.ssd_ref.config import LayerSpec

INPUT = -1


@dataclass(frozen=True)
class Value:
    """The blob ``name`` as layer number ``maker`` wrote it.

    ``namer`` is the layer that has the name as a top, where ``maker`` wrote to the same memory under another name.
    """

    maker: int
    name: str
    namer: int = field(default=INPUT, compare=False)


class Wiring:
    """Layers in file order with the values that they read.

    Attributes:
        layers: the layers.
        reads: per layer, the values of its bottoms.
    """

    def __init__(self, layers: Iterable[LayerSpec]) -> None:
        self.layers = tuple(layers)
        self.reads: list[tuple[Value, ...]] = []
        writers: dict[str, int] = {}
        namers: dict[str, int] = {}
        memory = Memory()
        for index, spec in enumerate(self.layers):
            self.reads.append(
                tuple(Value(writers.get(name, INPUT), name, namers.get(name, INPUT)) for name in spec.bottoms)
            )
            writers.update(dict.fromkeys((*spec.tops, *memory.run(spec)), index))
            namers.update(dict.fromkeys(spec.tops, index))

    def of_type(self, kind: str) -> list[int]:
        """Indices of the layers of a type."""
        return [i for i, spec in enumerate(self.layers) if spec.type == kind]

    def needed(self, values: Iterable[Value]) -> set[int]:
        """Indices of all layers that ``values`` depend on."""
        found: set[int] = set()
        todo = [index for value in values for index in (value.maker, value.namer)]
        while todo:
            index = todo.pop()
            if index != INPUT and index not in found:
                found.add(index)
                todo.extend(i for value in self.reads[index] for i in (value.maker, value.namer))
        return found

    def after(self, sources: Iterable[int]) -> set[int]:
        """Indices of ``sources`` and of all layers that depend on them."""
        found = set(sources)
        for index, values in enumerate(self.reads):
            if any(value.maker in found for value in values):
                found.add(index)
        return found

    def outputs(self) -> list[Value]:
        """Values that no layer reads, in order."""
        read = {value for values in self.reads for value in values}
        made = [Value(i, top) for i, spec in enumerate(self.layers) for top in spec.tops]
        return [value for value in made if value not in read]

    def check_order(
        self, order: Sequence[int], ends: Iterable[Value] = (), *, skip: frozenset[str] = frozenset()
    ) -> None:
        """Raise unless every layer still reads its own values when only ``order`` is run.

        Args:
            order: indices of layers, in their new order.
            ends: values that must be current when all have run.
            skip: layer types that read shapes only.
        """
        writers: dict[str, int] = {}
        memory = Memory()
        for index in order:
            spec = self.layers[index]
            wrong = [v for v in self.reads[index] if writers.get(v.name, INPUT) != v.maker]
            if wrong and spec.type not in skip:
                raise _overwritten(wrong[0], f"layer {spec.name!r}")
            writers.update(dict.fromkeys((*spec.tops, *memory.run(spec)), index))
        for value in ends:
            if writers.get(value.name, INPUT) != value.maker:
                raise _overwritten(value, "network outputs")


def _overwritten(value: Value, where: str) -> FormatError:
    return FormatError(
        f"blob {value.name!r} is overwritten in place before it is read as an output",
        where=where,
        hint="give the in-place layer a top of its own in the prototxt",
    )


def without_splits(layers: Iterable[LayerSpec]) -> tuple[LayerSpec, ...]:
    """The layers with Split layers taken out and their tops read under the name of what was split, which is the same memory.

    Caffe adds Splits when it loads a net, and writes them into weight files. A Split stays where a layer overwrites one of
    its tops in place, and where another layer gives its bottom's name away while a top is still to be read.
    """
    steps = tuple(layers)
    keep: set[int] = set()
    while True:
        result, conflicts = _rename(steps, keep)
        if not conflicts:
            return result
        keep |= conflicts


def _rename(steps: Sequence[LayerSpec], keep: set[int]) -> tuple[tuple[LayerSpec, ...], set[int]]:
    made: dict[str, int] = {}  # how often a blob was made anew, not counting work in place
    alias: dict[str, tuple[str, int, int]] = {}  # top of a Split -> what it is, which one of that name, the Split
    result, conflicts = [], set()
    for index, spec in enumerate(steps):
        bottoms = []
        for position, name in enumerate(spec.bottoms):
            if name in alias:
                original, number, split = alias[name]
                if made.get(original, 0) != number or spec.tops[position : position + 1] == (name,):
                    conflicts.add(split)
                name = original
            bottoms.append(name)
        for position, top in enumerate(spec.tops):
            alias.pop(top, None)
            made[top] = made.get(top, 0) + (spec.bottoms[position : position + 1] != (top,))
        if spec.type == "Split" and index not in keep and len(bottoms) == 1 and bottoms[0] not in spec.tops:
            for top in spec.tops:
                alias[top] = (bottoms[0], made.get(bottoms[0], 0), index)
        else:
            result.append(replace(spec, bottoms=tuple(bottoms)))
    return tuple(result), conflicts
