"""Where a Caffe net's raw loc and conf, its priors and its detection layer are.

First the part of the net that runs at test time, and what feeds it. Then which layer made the value that a layer reads: a blob name
stands for a new value each time a layer writes it (in-place layers do), also under another name of the same memory, so a value is known
by the layer that made it, as its index in the layer list, and its name; index -1 is the net's input. Nets that end before their boxes
get the layers of SSD's own deploy nets that turn raw loc and conf into detections.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from ssdconv.converters.caffe.net import CaffeLayer, CaffeNet, Shape, spec_of
from ssdconv.converters.caffe.rule import (
    Activation,
    Told,
    assumed,
    output_params,
    told_by_detection_output,
    told_by_loss,
)
from ssdconv.errors import FormatError
from ssdconv.ssd_ref.config import LayerSpec, Postprocess
from ssdconv.ssd_ref.evidence import RULE_ASSUMED, Notice
from ssdconv.ssd_ref.graph.operation import Memory, blob_names

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


VIEWS = frozenset({"Reshape", "Flatten", "Dropout", "Split"})
"""Types that leave values in their order, so that (N, P, C) can be read before them as well."""
ACTIVATIONS: dict[str, Activation] = {"Softmax": "softmax", "Sigmoid": "sigmoid"}
MAX_DEPTH = 16
"""Regrouping layers between class scores and their softmax, beyond which none is looked for."""
LOC_WORDS, CONF_WORDS = ("loc", "box", "reg"), ("conf", "cls", "class", "score", "prob")


Raw = tuple[Activation, Value, tuple[Value, ...], tuple[LayerSpec, ...], tuple[int, ...]]
"""Class outputs: their activation, the value before it, what that is made of, layers to add, indices of activations."""


@dataclass(frozen=True)
class Found:
    """The ends of a net.

    Attributes:
        loc, conf: raw values; ``conf`` is what ``added`` makes where that is not empty.
        priors: the joined PriorBox output, None where the net has none.
        ends: what a deploy net gives out.
        told: the detection rule.
        sources: the values that ``loc`` and ``conf`` (through ``added``) are made of.
        added: copies of the layers between a per-map softmax or sigmoid and conf, reading the values before it.
        activations: indices of the softmax or sigmoid layers taken out.
    """

    loc: Value
    conf: Value
    priors: Value | None
    ends: tuple[Value, ...]
    told: Told
    sources: tuple[Value, ...]
    added: tuple[LayerSpec, ...] = ()
    activations: tuple[int, ...] = ()


def find(wiring: Wiring, shapes: Callable[[], dict[str, Shape]], *, raw: bool = True) -> Found:
    """Find the ends through DetectionOutput, else MultiBoxLoss, else the net's outputs.

    Args:
        wiring: the net.
        shapes: gives blob shapes; called only when the outputs must be told apart by them.
        raw: look for class outputs before their softmax or sigmoid; False takes the scores as the net gives them.

    Raises:
        FormatError: no detection layer and no pair of outputs that look like loc and conf.
    """
    layers = wiring.layers
    for spec in layers:
        if not spec.bottoms or (not spec.tops and spec.type == "DetectionOutput"):
            raise FormatError("reads or writes no blob", where=f"layer {spec.name!r} ({spec.type})")
    for kind in ("DetectionOutput", "MultiBoxLoss"):
        indices = wiring.of_type(kind)
        if not indices:
            continue
        at = indices[0]
        bottoms = wiring.reads[at]
        if len(indices) > 1 or len(bottoms) != (3 if kind == "DetectionOutput" else 4):
            raise FormatError(
                f"{kind} layers of another detector than SSD",
                where=f"layer {layers[at].name!r} ({kind})",
                expected="one layer that reads loc, conf, priors" + (" and labels" if kind == "MultiBoxLoss" else ""),
                got=f"{len(indices)} layers, the first reads {', '.join(layers[at].bottoms)}",
            )
        loc, conf, priors = bottoms[:3]
        if kind == "MultiBoxLoss":
            # The loss has the softmax within.
            return _found(wiring, loc, _as_given(wiring, conf), priors, told_by_loss(layers[at]), (priors,))
        parts = _raw(wiring, conf) if raw else _as_given(wiring, conf)
        told = told_by_detection_output(layers[at], parts[0])
        return _found(wiring, loc, parts, priors, told, (Value(at, layers[at].tops[0]),))
    loc, conf, priors2 = _outputs(wiring, shapes())
    parts = _raw(wiring, conf) if raw else _as_given(wiring, conf)
    activation = parts[0]
    background = None if activation == "sigmoid" else 0
    rule = Postprocess(activation=activation, background=background)
    text = f"the background class is not told: {'none' if background is None else 'class 0'} is assumed"
    unsure = Notice(RULE_ASSUMED, text)
    ends = tuple(value for value in (loc, conf, priors2) if value is not None)
    return _found(wiring, loc, parts, priors2, Told(rule, 0, (assumed(rule), unsure)), ends)


def _found(wiring: Wiring, loc: Value, parts: Raw, priors: Value | None, told: Told, ends: tuple[Value, ...]) -> Found:
    loc = _peel(wiring, loc)
    _, conf, sources, added, activations = parts
    return Found(loc, conf, priors, ends, told, (loc, *sources), added, activations)


def _peel(wiring: Wiring, value: Value) -> Value:
    while value.maker != INPUT and wiring.layers[value.maker].type in VIEWS:
        value = wiring.reads[value.maker][0]
    return value


def _as_given(wiring: Wiring, conf: Value) -> Raw:
    conf = _peel(wiring, conf)
    return "none", conf, (conf,), (), ()


def _raw(wiring: Wiring, conf: Value) -> Raw:
    """Class outputs before softmax or sigmoid; as the net gives them where only some maps have one, or not the same."""
    conf = _peel(wiring, conf)
    added: list[LayerSpec] = []
    used: list[int] = []
    sources: list[Value] = []
    kinds: set[Activation] = set()
    mixed: list[Value] = []
    done: dict[Value, tuple[Value, bool]] = {}

    def strip(value: Value, depth: int = 0) -> tuple[Value, bool]:
        """``value`` with its activation taken out, and whether there was one."""
        if value not in done:
            done[value] = strip_new(value, depth)
        return done[value]

    def strip_new(value: Value, depth: int) -> tuple[Value, bool]:
        if value.maker == INPUT or depth > MAX_DEPTH:
            return value, False
        spec, reads = wiring.layers[value.maker], wiring.reads[value.maker]
        if spec.type in ACTIVATIONS:
            kinds.add(ACTIVATIONS[spec.type])
            used.append(value.maker)
            sources.append(reads[0])
            return reads[0], True
        if spec.type not in VIEWS | {"Permute", "Concat"}:
            return value, False
        parts = [strip(read, depth + 1) for read in reads]
        if not any(found for _, found in parts):
            return value, False
        if not all(found for _, found in parts) or len(kinds) > 1:
            mixed.append(value)
        top = f"{value.name}_raw"
        added.append(replace(spec, name=f"{spec.name}_raw", bottoms=tuple(part.name for part, _ in parts), tops=(top,)))
        return Value(value.maker, top), True

    raw, found = strip(conf)
    if mixed:
        return _as_given(wiring, conf)
    activation = kinds.pop() if found else "none"
    if not added:
        raw = _peel(wiring, raw)
        return activation, raw, (raw,), (), tuple(used)
    return activation, raw, tuple(sources), tuple(added), tuple(used)


def _outputs(wiring: Wiring, shapes: dict[str, Shape]) -> tuple[Value, Value, Value | None]:
    """loc, conf and priors among the outputs of a net without detection layer."""
    prior_side = wiring.after(wiring.of_type("PriorBox"))
    outputs = wiring.outputs()
    priors = next((v for v in outputs if v.maker in prior_side), None)
    plain = [v for v in outputs if v.maker not in prior_side and len(shapes.get(v.name, ())) in (2, 3)]
    pairs = [(a, b) for a in plain for b in plain if a != b and _fit(shapes[a.name], shapes[b.name])]
    if len(pairs) > 1:
        named = [(a, b) for a, b in pairs if _named(a, LOC_WORDS) or _named(b, CONF_WORDS)]
        pairs = [(a, b) for a, b in named if not _named(a, CONF_WORDS) and not _named(b, LOC_WORDS)]
    if len(pairs) != 1:
        listed = ", ".join(f"{v.name} {shapes.get(v.name, '(not computed)')}" for v in outputs[:8])
        raise FormatError(
            "no loc and conf outputs were found: the net has neither DetectionOutput nor MultiBoxLoss",
            expected="two outputs (N, priors, 4) and (N, priors, classes)",
            got=listed or "no outputs",
            hint="is this the definition of an SSD detector? A classifier's or a backbone's is not enough",
        )
    return (*pairs[0], priors)


def _fit(loc: Shape, conf: Shape) -> bool:
    if len(loc) == 3 and len(conf) == 3:
        return loc[2] == 4 and loc[1] == conf[1]
    count = prod(loc[1:])
    return len(loc) == len(conf) == 2 and count % 4 == 0 and prod(conf[1:]) % (count // 4) == 0


def _named(value: Value, words: tuple[str, ...]) -> bool:
    return any(word in value.name.lower() for word in words)


DATA_TYPES = frozenset(
    {"AnnotatedData", "Data", "DummyData", "HDF5Data", "ImageData", "Input", "MemoryData", "Python", "VideoData"}
    | {"WindowData"}
)
"""Layers without bottoms that bring images (and labels)."""


@dataclass(frozen=True)
class Selected:
    """A net reduced to its test phase.

    Attributes:
        wiring: its layers without data layers and without Caffe's own Splits.
        data: its data layers, those of the test phase first.
        inputs: input blobs with shapes where the net tells them, () where not.
        warnings: what was changed on the way.
    """

    wiring: Wiring
    data: tuple[CaffeLayer, ...]
    inputs: dict[str, Shape]
    warnings: tuple[str, ...]


def select(net: CaffeNet) -> Selected:
    """Reduce a deploy, train or test net to what runs at test time.

    MultiBoxLoss stays whatever its phase: it tells which blobs are loc, conf and priors.

    Raises:
        FormatError: two learned layers share a name.
    """
    data = tuple(layer for layer in net.layers if layer.type in DATA_TYPES and not layer.bottoms)
    kept = [
        layer for layer in net.layers if layer not in data and (layer.phase != "TRAIN" or layer.type == "MultiBoxLoss")
    ]
    warnings: list[str] = []
    specs = _unique([spec_of(layer) for layer in kept], warnings)
    if any(spec.type == "MultiBoxLoss" for spec in specs):
        specs = [_stored_statistics(spec, warnings) for spec in specs]
    inputs = dict(net.inputs)
    for layer in data:
        for top in layer.tops[:1]:
            inputs.setdefault(top, ())
    ordered = tuple(sorted(data, key=lambda layer: layer.phase == "TRAIN"))
    return Selected(Wiring(without_splits(specs)), ordered, inputs, tuple(warnings))


def _unique(specs: list[LayerSpec], warnings: list[str]) -> list[LayerSpec]:
    """Layers without learned values may repeat a name (Caffe allows it): later ones get a number."""
    seen: Counter[str] = Counter()
    taken = {spec.name for spec in specs}
    result = []
    for spec in specs:
        seen[spec.name] += 1
        if seen[spec.name] > 1 or not spec.name:
            if blob_names(spec):
                raise FormatError(
                    "two learned layers share a name, or have none", where=f"layer {spec.name!r} ({spec.type})"
                )
            stem, number = spec.name or spec.type, max(seen[spec.name], 2)
            while f"{stem}#{number}" in taken:
                number += 1
            warnings.append(f"a second layer named {spec.name!r} is called {stem}#{number}")
            taken.add(f"{stem}#{number}")
            spec = replace(spec, name=f"{stem}#{number}")
        result.append(spec)
    return result


def _stored_statistics(spec: LayerSpec, warnings: list[str]) -> LayerSpec:
    """A train net may ask for batch statistics; the trained net is run with the stored ones."""
    if spec.type != "BatchNorm" or spec.params.get("use_global_stats", True):
        return spec
    note = "this train net normalises by batch statistics; the stored ones are used, as in a deploy net"
    if note not in warnings:
        warnings.append(note)
    return replace(spec, params={k: v for k, v in spec.params.items() if k != "use_global_stats"})


def standard_tail(
    loc: str, conf: str, priors: str, num_classes: int, rule: Postprocess, taken: Iterable[str]
) -> tuple[LayerSpec, ...]:
    """Reshape to (N, P, C), softmax or sigmoid, Flatten and DetectionOutput, under the names that SSD gives them.

    Args:
        loc, conf, priors: blobs to read; ``conf`` before softmax.
        taken: layer and blob names that are in use; a name that is gets a number.
    """
    used = set(taken)

    def free(name: str) -> str:
        number = 2
        choice = name
        while choice in used:
            choice, number = f"{name}_{number}", number + 1
        used.add(choice)
        return choice

    def layer(name: str, kind: str, bottoms: tuple[str, ...], params: dict[str, object]) -> LayerSpec:
        name = free(name)
        return LayerSpec(name, kind, bottoms, (name,), params)

    tail = [layer("mbox_conf_reshape", "Reshape", (conf,), {"shape": {"dim": [0, -1, num_classes]}})]
    if rule.activation == "softmax":
        tail.append(layer("mbox_conf_softmax", "Softmax", tail[-1].tops, {"axis": 2}))
    elif rule.activation == "sigmoid":
        tail.append(layer("mbox_conf_sigmoid", "Sigmoid", tail[-1].tops, {}))
    tail.append(layer("mbox_conf_flatten", "Flatten", tail[-1].tops, {}))
    bottoms = (loc, *tail[-1].tops, priors)
    tail.append(layer("detection_out", "DetectionOutput", bottoms, output_params(num_classes, rule)))
    return tuple(tail)
