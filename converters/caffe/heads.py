"""Where a Caffe net's raw loc and conf, its priors and its detection layer are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

from ssdconv.converters.caffe.net import Shape
from ssdconv.converters.caffe.rule import Activation, Told, assumed, told_by_detection_output, told_by_loss
from ssdconv.converters.caffe.wiring import INPUT, Value, Wiring
from ssdconv.errors import FormatError
from ssdconv.ssd_ref.config import DetectRule, LayerSpec
from ssdconv.ssd_ref.evidence import RULE_ASSUMED, Notice

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
    rule = DetectRule(activation=activation, background=background)
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
