"""A Keras functional model's own text (``model_config`` of .h5, ``config.json`` of .keras) as calls of layers, in order of execution.

Keras 2 writes a layer's inputs as ``[[["conv1", 0, 0, {}]]]``, Keras 3 as objects that hold a ``keras_history``; both are read. Models
within models are opened up (their layers are called ``outer/inner``), wrappers that do not compute are seen through. Nothing is ever
executed: a Lambda's byte code stays text.

A Lambda's ``config.function`` is ``[marshalled byte code, defaults, closure]``. ssd_keras' Lambdas keep the mean, the deviation and the order
of channels in their closures, so these are stated in the file. What stands in the byte code alone (``z[..., ::-1]``, ``z / 127.5 - 1``) is
taken by the layer's name and the constants found in the code's bytes, and said to be assumed. A Lambda that is none of these is an error
until the user says what it does (``--set lambda.NAME=…``).
"""

from __future__ import annotations

import base64
import binascii
import heapq
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ssdconv.errors import FormatError, UsageError
from ssdconv.ssd_ref.evidence import Basis, Claim

MODELS = ("Model", "Functional", "Sequential")
WRAPPERS = ("PruneLowMagnitude",)
"""Wrappers around one layer that compute nothing once training is over (tfmot's pruning keeps its masks beside the weights)."""
MAX_LAYERS, MAX_DEPTH = 20_000, 8

Ref = tuple[str, int, int]
"""Layer, number of its call, number of the output."""


@dataclass(frozen=True)
class LayerCall:
    """One call of one layer.

    Attributes:
        name: of the value that it makes; the layer's name, with ``@1`` and so on for further calls of the same layer.
        kind: Keras' class, without a package before ``>``.
        config: the layer's own parameters.
        inputs: names of the values read.
        owner: the layer that holds the weights, outer models first.
    """

    name: str
    kind: str
    config: Mapping[str, Any]
    inputs: tuple[str, ...]
    owner: tuple[str, ...]

    @property
    def where(self) -> str:
        """The place for messages."""
        return f"layer {self.name!r} ({self.kind})"

    def fail(self, what: str, *, expected: object = None, got: object = None, hint: str | None = None) -> FormatError:
        """An error that names the layer, for the caller to raise."""
        return FormatError(what, where=self.where, expected=expected, got=got, hint=hint)


@dataclass(frozen=True)
class KerasModel:
    """A whole model: its calls in order of execution, and the values that it gives."""

    name: str
    calls: tuple[LayerCall, ...]
    outputs: tuple[str, ...]
    by_name: Mapping[str, LayerCall] = field(default_factory=dict, compare=False)

    def maker(self, value: str) -> LayerCall:
        """The call that makes a value."""
        return self.by_name[value]


def parse(text: str | bytes, where: str) -> KerasModel:
    """Read a model's text.

    Raises:
        FormatError: not the text of a functional model, layers that form a circle, or more of them than any network has.
    """
    try:
        root = json.loads(text)
    except (ValueError, RecursionError):
        raise FormatError("the model's description is not JSON", where=where) from None
    kind = _kind(root) if isinstance(root, dict) else ""
    if kind not in MODELS or not isinstance(root.get("config"), dict | list):
        raise FormatError(
            "the model's description is of no functional model",
            where=where,
            expected=f"class {' or '.join(MODELS)}",
            got=kind or type(root).__name__,
        )
    builder = _Builder(where)
    try:
        outputs = builder.expand(root, "", (), None, 0)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise FormatError(f"the model's description is damaged: {type(error).__name__} {error}", where=where) from None
    config = root["config"]
    name = str(config.get("name", "")) if isinstance(config, dict) else ""
    return KerasModel(name, tuple(builder.calls), tuple(outputs), {call.name: call for call in builder.calls})


def _kind(entry: Mapping[str, Any]) -> str:
    return str(entry.get("class_name", "")).rsplit(">", 1)[-1]


class _Builder:
    def __init__(self, where: str) -> None:
        self.where = where
        self.calls: list[LayerCall] = []

    def expand(
        self, model: Mapping[str, Any], prefix: str, owner: tuple[str, ...], given: Sequence[str] | None, depth: int
    ) -> list[str]:
        """Add a model's calls; returns the names of its outputs. ``given``: values for its inputs, None for the whole model."""
        if depth > MAX_DEPTH:
            raise FormatError("models are nested too deeply", where=f"{self.where}, model {prefix!r}")
        config = model["config"]
        layers, nodes, inputs, outputs = _tables(config, _kind(model))
        if len(self.calls) + len(layers) > MAX_LAYERS:
            raise FormatError("more layers than any network has", where=self.where, expected=f"<= {MAX_LAYERS}")
        values: dict[Ref, str] = {}
        for layer, number in self._ordered(layers, nodes, outputs):
            entry = layers[layer]
            kind, own = _kind(entry), dict(entry.get("config") or {})
            value = f"{prefix}{layer}" + (f"@{number}" if number else "")
            reads = tuple(values[ref] for ref in nodes[layer][number])
            if kind == "InputLayer" and given is not None:
                values[(layer, number, 0)] = given[inputs.index(layer)]
                continue
            if kind in WRAPPERS and isinstance(own.get("layer"), dict):
                kind, own = _kind(own["layer"]), dict(own["layer"].get("config") or {})
            if kind in MODELS:
                made = self.expand({"class_name": kind, "config": own}, value + "/", (*owner, layer), reads, depth + 1)
                values.update({(layer, number, k): name for k, name in enumerate(made)})
                continue
            self.calls.append(LayerCall(value, kind, own, reads, (*owner, layer)))
            values[(layer, number, 0)] = value
        missing = [ref for ref in outputs if ref not in values]
        if missing:
            raise FormatError(f"no layer gives the output {missing[0][0]!r}", where=self.where)
        return [values[ref] for ref in outputs]

    def _ordered(
        self, layers: Mapping[str, Any], nodes: Mapping[str, list[list[Ref]]], outputs: Sequence[Ref]
    ) -> Iterator[tuple[str, int]]:
        """(layer, call) of all that the outputs need, inputs first, else in the order of the file."""
        wanted: set[tuple[str, int]] = set()
        todo = [(layer, number) for layer, number, _ in outputs]
        while todo:
            layer, number = todo.pop()
            if (layer, number) in wanted:
                continue
            if layer not in nodes or not 0 <= number < len(nodes[layer]):
                raise FormatError(f"call {number} of layer {layer!r} is read, but there is none", where=self.where)
            wanted.add((layer, number))
            todo += [ref[:2] for ref in nodes[layer][number]]
        place = {name: index for index, name in enumerate(layers)}
        waiting = {call: {ref[:2] for ref in nodes[call[0]][call[1]]} for call in wanted}
        readers: dict[tuple[str, int], list[tuple[str, int]]] = {}
        for call, reads in waiting.items():
            for read in reads:
                readers.setdefault(read, []).append(call)
        ready = [(place[c[0]], c[1], c[0]) for c, reads in waiting.items() if not reads]
        heapq.heapify(ready)
        done = 0
        while ready:
            _, number, layer = heapq.heappop(ready)
            done += 1
            yield layer, number
            for reader in readers.get((layer, number), ()):
                waiting[reader].discard((layer, number))
                if not waiting[reader]:
                    heapq.heappush(ready, (place[reader[0]], reader[1], reader[0]))
        if done != len(wanted):
            raise FormatError("the model's layers form a circle", where=self.where)


def _tables(
    config: Any, kind: str
) -> tuple[dict[str, dict[str, Any]], dict[str, list[list[Ref]]], list[str], list[Ref]]:
    """Layers by name, inputs of each call of each, names of the input layers, and the outputs."""
    listed = config if isinstance(config, list) else config["layers"]
    layers: dict[str, dict[str, Any]] = {}
    nodes: dict[str, list[list[Ref]]] = {}
    for entry in listed:
        name = str(entry["name"] if "name" in entry else entry["config"]["name"])
        if name in layers:
            raise FormatError("two layers have this name", where=f"layer {name!r}")
        layers[name] = entry
        nodes[name] = [_refs(node) for node in entry.get("inbound_nodes") or ()] or [[]]
    if kind == "Sequential":
        names = list(layers)
        if _kind(layers[names[0]]) != "InputLayer":
            layers = {"": {"class_name": "InputLayer", "config": {}}, **layers}
            names = ["", *names]
        nodes = {name: [[(names[k - 1], 0, 0)] if k else []] for k, name in enumerate(names)}
        return layers, nodes, [names[0]], [(names[-1], 0, 0)]
    models = {name for name, entry in layers.items() if _kind(entry) in MODELS}
    nodes = {name: [_counted(refs, models) for refs in calls] for name, calls in nodes.items()}
    ends = _counted(_ends(config["output_layers"]), models)
    return layers, nodes, [ref[0] for ref in _ends(config["input_layers"])], ends


def _counted(refs: list[Ref], models: set[str]) -> list[Ref]:
    """Calls of models count from 1 in these texts: their own making is number 0."""
    return [(name, max(number - 1, 0) if name in models else number, output) for name, number, output in refs]


def _ends(value: Any) -> list[Ref]:
    if isinstance(value, dict):
        return [ref for part in value.values() for ref in _ends(part)]
    if value and isinstance(value[0], str):
        return [_ref(value)]
    return [ref for part in value for ref in _ends(part)]


def _refs(node: Any) -> list[Ref]:
    """The values that one call reads."""
    if isinstance(node, dict):
        if "keras_history" in node:
            return [_ref(node["keras_history"])]
        return [ref for part in node.values() for ref in _refs(part)]
    if isinstance(node, list | tuple):
        if len(node) >= 3 and isinstance(node[0], str) and isinstance(node[1], int) and isinstance(node[2], int):
            return [_ref(node), *(_refs(node[3]) if len(node) > 3 else [])]
        return [ref for part in node for ref in _refs(part)]
    return []


def _ref(value: Any) -> Ref:
    return str(value[0]), int(value[1]), int(value[2])


Do = Literal["identity", "subtract", "divide", "take"]
IDENTITIES = ("identity_layer", "idendity_layer", "identity")
NAMED: dict[str, tuple[Do, bytes]] = {
    "input_mean_normalization": ("subtract", b"subtract_mean"),
    "input_stddev_normalization": ("divide", b"divide_by_stddev"),
    "input_channel_swap": ("take", b"swap_channels"),
}
"""Layer name -> what it does, and the name of the variable that its byte code reads from the closure."""
GRAMMAR = ("identity", "reverse", "take:2,1,0", "subtract:123,117,104", "divide:127.5")


@dataclass(frozen=True)
class LambdaStep:
    """One step of preparing pixels: ``x - values``, ``x / values`` or channels in the order ``values``."""

    do: Do
    values: tuple[float, ...] = ()

    def per_channel(self, channels: int = 3) -> tuple[float, ...]:
        """The values, one per channel."""
        return self.values * channels if len(self.values) == 1 else self.values

    def __str__(self) -> str:
        return self.do + (":" + ",".join(f"{v:g}" for v in self.values) if self.values else "")


def steps_of(call: LayerCall, settings: Mapping[str, str]) -> tuple[tuple[LambdaStep, ...], Claim]:
    """What a Lambda does, and who says so.

    Raises:
        FormatError: nothing tells what it does.
        UsageError: a setting that is no step.
    """
    key = f"lambda.{call.name}"
    if key in settings:
        steps = tuple(_given(key, part) for part in settings[key].split("+"))
        return steps, _claim(call, "user", steps, "")
    code, closure = _code(call), _closure(call)
    if call.name in IDENTITIES and not closure:
        return (LambdaStep("identity"),), _claim(call, "assumed", (LambdaStep("identity"),), "an identity by its name")
    for name, (do, variable) in NAMED.items():
        if call.name == name or variable in code:
            if len(closure) == 1 and closure[0] and (do != "take" or _is_order(closure[0])):
                step = LambdaStep(do, closure[0])
                return (step,), _claim(call, "stated", (step,), "the numbers stand in its closure")
            if do == "take" and not closure:
                step = LambdaStep(do, (2.0, 1.0, 0.0))
                return (step,), _claim(
                    call, "assumed", (step,), "its byte code alone says which; the project's was [::-1]"
                )
    if call.name == "lambda1" and not closure and all(struct.pack("<d", v) in code for v in (127.5, 1.0)):
        steps = (LambdaStep("divide", (127.5,)), LambdaStep("subtract", (1.0,)))
        return steps, _claim(call, "assumed", steps, "its byte code holds 127.5 and 1; the project's was x / 127.5 - 1")
    raise call.fail(
        "nothing but byte code, which is never run, says what this Lambda does",
        expected=f"a Lambda of ssd_keras ({', '.join((*IDENTITIES[:2], *NAMED))}) with its numbers in the closure",
        got=f"closure {call.config.get('function', [None, None, None])[2:] or None}",
        hint=f"say it: --set {key}={' or '.join(GRAMMAR)} (several joined by +)",
    )


def wrote(call: LayerCall) -> int:
    """The Python (2 or 3) that marshalled a Lambda's byte code, 0 where it cannot be told: code objects carry a flag in Python 3."""
    code = _code(call)
    return {b"c": 2, b"\xe3": 3}.get(code[:1], 0)


def _claim(call: LayerCall, basis: Basis, steps: Sequence[LambdaStep], why: str) -> Claim:
    said = " + ".join(map(str, steps))
    text = f"layer {call.name!r} does {said} on RGB pixels" + (f" ({why})" if why else "")
    return Claim("pixels", basis, text, f"lambda.{call.name}", said, () if basis == "stated" else GRAMMAR)


def _given(key: str, text: str) -> LambdaStep:
    word, _, numbers = text.strip().partition(":")
    try:
        values = tuple(float(v) for v in numbers.split(",")) if numbers else ()
    except ValueError:
        values = (float("nan"),)
    if word == "identity" and not numbers:
        return LambdaStep("identity")
    if word == "reverse" and not numbers:
        return LambdaStep("take", (2.0, 1.0, 0.0))
    sound = len(values) in (1, 3) and all(abs(v) < 1e6 for v in values)
    if word == "subtract" and sound:
        return LambdaStep("subtract", values)
    if word == "divide" and sound and all(values):
        return LambdaStep("divide", values)
    if word == "take" and _is_order(values):
        return LambdaStep("take", values)
    raise UsageError(f"--set {key}={text}: no step of preparing pixels", expected=" or ".join(GRAMMAR))


def _is_order(values: Sequence[float]) -> bool:
    return sorted(values) == [0, 1, 2]


def _code(call: LayerCall) -> bytes:
    """The byte code's bytes, for looking at only: base64 since Keras 2.1, raw text before."""
    function = call.config.get("function")
    if isinstance(function, Mapping):  # Keras 2.13 and 3
        function = function.get("config", function)
        function = [function.get("code", "")] if isinstance(function, Mapping) else function
    text = function[0] if isinstance(function, list) and function else ""
    if not isinstance(text, str):
        return b""
    try:
        return base64.b64decode(text.encode("ascii"), validate=False) if text[:1] != "c" else text.encode("latin-1")
    except (binascii.Error, UnicodeError):
        return text.encode("latin-1", "replace")


def _closure(call: LayerCall) -> list[tuple[float, ...]]:
    """The closure's values as tuples of numbers; an empty tuple for one that is none."""
    function: Any = call.config.get("function")
    if isinstance(function, Mapping):
        function = function.get("config", function)
        values = function.get("closure") if isinstance(function, Mapping) else None
    else:
        values = function[2] if isinstance(function, list) and len(function) > 2 else None
    return [_numbers(v) for v in values] if isinstance(values, list) else []


def _numbers(value: Any) -> tuple[float, ...]:
    if isinstance(value, Mapping):
        value = value.get("value", value.get("config"))
    listed = value if isinstance(value, list) else [value]
    if len(listed) not in (1, 3) or any(isinstance(v, bool) or not isinstance(v, int | float) for v in listed):
        return ()
    return tuple(float(v) for v in listed) if all(abs(v) < 1e6 for v in listed) else ()
