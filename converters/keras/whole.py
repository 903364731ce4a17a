"""A whole Keras model as a plan: layers, pixels, priors and detection rule from the file's own text, nothing from a table.

The end of such a model is ``[class scores | box codes | anchors and variances]`` joined along the last axis, with or without a layer
that decodes it. Everything is found from there backwards. What the file does not say is assumed, and each assumption is a claim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from ssdconv.converters.keras import anchors as boxes
from ssdconv.converters.keras.layers import NOTHING, Made, build
from ssdconv.converters.keras.model_config import KerasModel, LambdaStep, LayerCall, steps_of, wrote
from ssdconv.errors import FormatError, UsageError
from ssdconv.ssd_ref.config import Graph, LayerSpec, Postprocess, Preprocess, Resize, SSDConfig
from ssdconv.ssd_ref.evidence import Claim
from ssdconv.ssd_ref.graph.operation import module_name
from ssdconv.ssd_ref.graph.params import Params

ANCHORS, DECODERS = "AnchorBoxes", ("DecodeDetections", "DecodeDetectionsFast")
PASSING = ("Reshape", "Concatenate", "Flatten", *NOTHING)
"""Classes that may stand between an AnchorBoxes layer and the end."""
RULES = {
    "decode_detections": Postprocess(top_k=-1),
    "decode_detections_fast": Postprocess(
        score_threshold=0.5,
        score_inclusive=True,
        top_k=-1,
        keep_top_k=-1,
        nms_scope="image",
        background_competes=True,
    ),
}
"""ssd_keras' decoders outside the model, with the defaults of their arguments."""

Activation = Literal["softmax", "sigmoid", "none"]


@dataclass(frozen=True)
class WholeModel:
    """What a model's text makes.

    Attributes:
        config: the network; ``graph.origin`` is not filled yet.
        weights: every weight of it.
        probes: (layer of the file, path of the reference module).
        evidence: who says what.
    """

    config: SSDConfig
    made: Made
    probes: tuple[tuple[str, str], ...]
    evidence: tuple[Claim, ...]


@dataclass(frozen=True)
class _Ends:
    conf: str
    activation: Activation
    loc: str
    anchors: tuple[LayerCall, ...]
    decoder: LayerCall | None
    tail: tuple[LayerCall, ...]


def network_of(model: KerasModel, settings: Mapping[str, str], where: str) -> WholeModel:
    """The network that a model's text describes.

    Args:
        model: with AnchorBoxes layers.
        settings: what the user says where the file does not (``steps``, ``offsets``, ``lambda.NAME``, ``pixels.order``,
            ``pixels.resize``, ``rule``).
        where: the file's name for messages.

    Raises:
        FormatError: the model does not end like an SSD, has layers that are not supported, or contradicts itself.
        UsageError: a setting that cannot be read.
    """
    try:
        return _network_of(model, settings, where)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
        raise FormatError(f"the model's description is damaged: {type(error).__name__} {error}", where=where) from None


def _network_of(model: KerasModel, settings: Mapping[str, str], where: str) -> WholeModel:
    ends = _ends(model, where)
    needed = _needed(model, (ends.conf, ends.loc, *(v for call in ends.anchors for v in call.inputs)))
    calls = [call for call in model.calls if call.name in needed]
    size, start = _input(calls, ends.anchors, where)
    made = Made()
    made.shapes[start.name] = (*size, 3)
    chain = _pixel_chain(model, start.name, calls)
    pixels, left, absorbed, claims = _pixels(size, chain, settings)
    read = absorbed[-1] if absorbed else start.name
    for name in (start.name, *absorbed):
        made.shapes[name], made.alias[name] = (*size, 3), read
    for call in calls:
        if call.name == start.name or call.name in absorbed:
            continue
        if call.kind == "Lambda":
            done, claim = left.get(call.name) or steps_of(call, settings)
            _lambda(call, done, made)
            claims += [] if call.name in left else [claim]
        else:
            build(call, made)
    stated = [boxes.read(call, made.shapes[call.inputs[0]]) for call in ends.anchors]
    coords, normalized, image = boxes.same_kind(stated)
    if image != size and not normalized:
        raise FormatError(
            "AnchorBoxes are for another image size than the input's", where=where, expected=size, got=image
        )
    lambdas = [call for call in model.calls if call.kind == "Lambda"]
    python = next((wrote(call) for call in lambdas if wrote(call)), 0)
    maps, assumed = boxes.prior_maps(stated, settings, python, any(c.name == "lambda1" for c in lambdas))
    if image != size:
        maps = tuple(replace(entry, image=image) for entry in maps)
    loc, classes = _heads(made, ends, sum(m.count for m in maps), coords, where)
    rule, said = _rule(ends.decoder, coords, stated[0].normalized, settings)
    layers = tuple(made.layers)
    tail = [call.name for call in ends.tail]
    graph = Graph(
        input=read,
        layers=layers,
        loc=loc,
        conf=made.blob(ends.conf),
        tail=_scores(ends, made),
        added=tuple(made.added),
        dropped=tuple(call.name for call in model.calls if call.name not in needed and call.name not in tail),
    )
    family = _family(stated[0].name, len(stated))
    config = SSDConfig(
        name=f"{family}_{size[0]}x{size[1]}",
        source="keras",
        num_classes=classes,
        pixels=pixels,
        priors=maps,
        detect=replace(rule, activation=ends.activation),
        layers=graph,
    )
    added = set(made.added)
    probes = tuple((s.name, f"layers.{module_name(s.name)}") for s in layers if s.name not in added)
    architecture = Claim(
        "architecture",
        "stated",
        f"{len(probes)} layers from the file's model_config: padding, strides, dilation, epsilon, channels, connections",
    )
    geometry = Claim(
        "priors",
        "stated",
        f"{len(stated)} AnchorBoxes layers: scales, ratios, variances {stated[0].variances}, {coords}, "
        f"{'normalised' if stated[0].normalized else 'absolute'} coordinates, clipping {'on' if stated[0].clip else 'off'}",
    )
    formula = Claim(
        "priors",
        "rebuilt",
        "what AnchorBoxes computes from them is ssd_keras' code, of which the file holds the name only",
    )
    names = Claim("classes", "stated", f"{classes} columns, background first; the file holds no names")
    return WholeModel(config, made, probes, (architecture, *claims, geometry, formula, *assumed, said, names))


def anchors_of(model: KerasModel, where: str) -> tuple[LayerCall, ...]:
    """The AnchorBoxes layers in the order in which the end of the model joins them."""
    return _ends(model, where).anchors


def _family(first: str, count: int) -> str:
    if first == "conv4_3_norm_mbox_priorbox":
        return {6: "ssd_keras_ssd300", 7: "ssd_keras_ssd512"}.get(count, "ssd_keras")
    return "ssd7" if first == "anchors4" and count == 4 else "keras_ssd"


def _needed(model: KerasModel, values: Sequence[str]) -> set[str]:
    found: set[str] = set()
    todo = list(values)
    while todo:
        value = todo.pop()
        if value not in found:
            found.add(value)
            todo += model.maker(value).inputs
    return found


def _ends(model: KerasModel, where: str) -> _Ends:
    """Find the class scores, the box codes and the anchors at the end of a model."""
    if len(model.outputs) != 1:
        raise FormatError(
            "the model has several outputs",
            where=where,
            expected="one: scores, boxes and anchors joined",
            got=model.outputs,
        )
    tail: list[LayerCall] = []
    last = model.maker(model.outputs[0])
    decoder = None
    if last.kind in DECODERS:
        decoder = last
        tail.append(last)
        last = model.maker(last.inputs[0])
    while last.kind in NOTHING and last.inputs:
        tail.append(last)
        last = model.maker(last.inputs[0])
    if last.kind != "Concatenate" or len(last.inputs) != 3:
        raise last.fail(
            "the model does not end like an SSD",
            expected="a Concatenate of scores, boxes and anchors",
            got=f"{len(last.inputs)} inputs",
        )
    tail.append(last)
    sides = [_anchors(model, value, tail) for value in last.inputs]
    if [side is None for side in sides] != [True, True, False]:
        raise last.fail(
            "the end joins something else than scores, boxes and anchors, in this order", got=", ".join(last.inputs)
        )
    conf, activation = last.inputs[0], "none"
    maker = model.maker(conf)
    function = (
        "softmax" if maker.kind == "Softmax" else maker.config.get("activation") if maker.kind == "Activation" else None
    )
    if function in ("softmax", "sigmoid"):
        tail.append(maker)
        conf, activation = maker.inputs[0], str(function)
    found: Activation = "softmax" if activation == "softmax" else "sigmoid" if activation == "sigmoid" else "none"
    return _Ends(conf, found, last.inputs[1], tuple(sides[2] or ()), decoder, tuple(tail))


def _anchors(model: KerasModel, value: str, tail: list[LayerCall]) -> list[LayerCall] | None:
    """The AnchorBoxes layers that a value is joined of, in order; None where it is made of something else."""
    found: list[LayerCall] = []
    passed: list[LayerCall] = []
    todo = [value]
    while todo:
        call = model.maker(todo.pop())
        passed.append(call)
        if call.kind == ANCHORS:
            found.append(call)
        elif call.kind in PASSING and call.inputs and len(passed) < 1_000:
            todo += reversed(call.inputs)
        else:
            return None
    tail += passed
    return found


def _input(calls: Sequence[LayerCall], anchors: Sequence[LayerCall], where: str) -> tuple[tuple[int, int], LayerCall]:
    starts = [call for call in calls if not call.inputs]
    if len(starts) != 1 or starts[0].kind != "InputLayer":
        raise FormatError("the model needs one input", where=where, got=[call.name for call in starts])
    config = starts[0].config
    shape = config.get("batch_input_shape") or config.get("batch_shape") or config.get("input_shape")
    if not isinstance(shape, list) or len(shape) != 4 or shape[3] != 3:
        raise starts[0].fail("the input is no image of three channels", expected="(None, height, width, 3)", got=shape)
    sides = []
    for side, name in ((shape[1], "img_height"), (shape[2], "img_width")):
        known = anchors[0].config.get(name) if side is None else side
        if isinstance(known, bool) or not isinstance(known, int) or not 0 < known <= 1 << 15:
            raise starts[0].fail("the input's size is not known", expected="height and width in pixels", got=shape)
        sides.append(known)
    return (sides[0], sides[1]), starts[0]


def _pixel_chain(model: KerasModel, start: str, calls: Sequence[LayerCall]) -> list[LayerCall]:
    """The Lambdas right behind the input, each the only reader of the one before."""
    chain: list[LayerCall] = []
    value = start
    while True:
        readers = [call for call in calls if value in call.inputs]
        if len(readers) != 1 or readers[0].kind != "Lambda":
            return chain
        chain.append(readers[0])
        value = readers[0].name


Left = dict[str, tuple[tuple[LambdaStep, ...], Claim]]


def _pixels(
    size: tuple[int, int], chain: Sequence[LayerCall], settings: Mapping[str, str]
) -> tuple[Preprocess, Left, list[str], list[Claim]]:
    """The rule for pixels; steps of Lambdas that it cannot hold; the Lambdas that it holds; and what was claimed."""
    order, resize = settings.get("pixels.order", "RGB"), settings.get("pixels.resize", "opencv_linear")
    if order not in ("RGB", "BGR") or resize not in get_args(Resize):
        raise UsageError(
            f"--set pixels: {order}, {resize}", expected=f"RGB or BGR, and one of {', '.join(get_args(Resize))}"
        )
    given: Literal["RGB", "BGR"] = "RGB" if order == "RGB" else "BGR"
    swapped: Literal["RGB", "BGR"] = "BGR" if order == "RGB" else "RGB"
    pixels = Preprocess(size, given, resize=next(r for r in get_args(Resize) if r == resize))
    claims = [
        Claim("pixels", "stated", f"images of {size[1]}x{size[0]} (width x height), three channels"),
        Claim(
            "pixels",
            "user" if "pixels.order" in settings else "assumed",
            f"the model is fed {order} pixels of 0..255, as ssd_keras reads them",
            "pixels.order",
            order,
            tuple(o for o in ("RGB", "BGR") if o != order),
            "swapped channels change every score",
        ),
        Claim(
            "pixels",
            "user" if "pixels.resize" in settings else "assumed",
            f"images are warped to that size by {resize}",
            "pixels.resize",
            resize,
            tuple(r for r in get_args(Resize) if r != resize),
            "pixels differ by a few levels",
        ),
    ]
    told = [(call, *steps_of(call, settings)) for call in chain]
    claims += [claim for _, _, claim in told]
    absorbed: list[str] = []
    stage = 0
    for call, steps, _ in told:
        after, at = pixels, stage
        for step in steps:
            after, at = _absorb(after, step, at, swapped)
            if at < 0:
                break
        if at < 0:
            break
        pixels, stage = after, at
        absorbed.append(call.name)
    return pixels, {call.name: (steps, claim) for call, steps, claim in told[len(absorbed) :]}, absorbed, claims


def _absorb(pixels: Preprocess, step: LambdaStep, stage: int, swapped: Literal["RGB", "BGR"]) -> tuple[Preprocess, int]:
    """One step put into the rule; the new stage is -1 where it has no place. Stages: unit, mean, std, channel order."""
    values = step.per_channel()
    if step.do == "identity":
        return pixels, stage
    if step.do == "take" and step.values == (2.0, 1.0, 0.0) and stage < 4:
        return replace(pixels, order=swapped, mean=_turned(pixels.mean), std=_turned(pixels.std)), 4
    if step.do == "take" and step.values == (0.0, 1.0, 2.0):
        return pixels, stage
    if step.do == "subtract" and stage < 2:
        return replace(pixels, mean=(values[0], values[1], values[2])), 2
    if step.do == "divide" and stage < 1 and len(set(values)) == 1:
        # A division alone may be unit or std: as unit it leaves room for a mean after it, and computes the same.
        return replace(pixels, unit=values[0]), 1
    if step.do == "divide" and stage < 3:
        return replace(pixels, std=(values[0], values[1], values[2])), 3
    return pixels, -1


def _turned(values: tuple[float, ...]) -> tuple[float, ...]:
    return values[::-1]


def _lambda(call: LayerCall, steps: Sequence[LambdaStep], made: Made) -> None:
    """A Lambda inside the graph: one layer per step, the last under the Lambda's own name."""
    steps = [step for step in steps if step.do != "identity"]
    if not steps:
        made.skip(call)
        return
    shape = made.map_shape(call)
    reads = made.blob(call.inputs[0])
    for index, step in enumerate(steps):
        if step.do == "take":
            kind, params = "Gather", {"axis": 1, "indices": [int(v) for v in step.values]}
        else:
            word = "mean" if step.do == "subtract" else "std"
            kind, params = "PerChannel", {word: list(step.per_channel(shape[2]))}
        if index + 1 < len(steps):
            reads = made.add(f"{call.name}/{index}", kind, reads, params)
        else:
            made.layer(call, kind, shape, params, reads=(reads,))


def _heads(made: Made, ends: _Ends, count: int, coords: str, where: str) -> tuple[str, int]:
    """The blob of the box codes as (dx, dy, dw, dh) or corners, and the class count."""
    loc, conf = made.shapes[ends.loc], made.shapes[ends.conf]
    if len(conf) != 2 or len(loc) != 2 or loc[1] != 4 or loc[0] != conf[0] or loc[0] != count:
        raise FormatError(
            "scores, boxes and anchors do not fit each other",
            where=where,
            expected=f"({count}, classes) and ({count}, 4)",
            got=f"{conf} and {loc}",
        )
    blob = made.blob(ends.loc)
    if coords == "minmax":
        blob = made.add(f"{ends.loc}/corners", "Gather", blob, {"axis": 2, "indices": [0, 2, 1, 3]})
    return blob, conf[1]


def _scores(ends: _Ends, made: Made) -> tuple[LayerSpec, ...]:
    """The layer that makes scores of the class outputs, for the tail."""
    if ends.activation == "none":
        return ()
    call = next(c for c in ends.tail if c.inputs == (ends.conf,) and c.kind in ("Activation", "Softmax"))
    kind, params = ("Softmax", {"axis": 2}) if ends.activation == "softmax" else ("Sigmoid", {})
    return (LayerSpec(call.name, kind, (made.blob(ends.conf),), (call.name,), params),)


def _rule(
    decoder: LayerCall | None, coords: str, normalized: bool, settings: Mapping[str, str]
) -> tuple[Postprocess, Claim]:
    code: dict[str, Any] = {} if coords == "centroids" else {"code": "corner_size"}
    if decoder is None:
        name = settings.get("rule", "decode_detections")
        if name not in RULES:
            raise UsageError(f"--set rule={name}: no such rule", expected=" or ".join(RULES))
        rule = RULES[name]
        text = f"the model has no decoding layer: ssd_keras' {name} with its own defaults (score {'>=' if rule.score_inclusive else '>'} {rule.score_threshold}, IoU {rule.nms_threshold}, best {rule.keep_top_k if rule.keep_top_k >= 0 else 'all'})"  # fmt: skip
        basis: Literal["user", "assumed"] = "user" if "rule" in settings else "assumed"
        others = tuple(other for other in RULES if other != name)
        return replace(rule, **code), Claim("detection rule", basis, text, "rule", name, others, "which boxes are kept")
    p = Params({k: v for k, v in decoder.config.items() if v is not None}, decoder.where)
    if p.choice("coords", "centroids", boxes.COORDS) != coords or p.flag("normalize_coords", True) != normalized:
        raise decoder.fail("the decoding layer and the AnchorBoxes disagree about coordinates", expected=f"{coords}, {normalized}", got=f"{p.data.get('coords')}, {p.data.get('normalize_coords')}")  # fmt: skip
    fast = decoder.kind == "DecodeDetectionsFast"
    rule = replace(
        RULES["decode_detections_fast" if fast else "decode_detections"],
        score_threshold=p.number("confidence_thresh", 0.01),
        score_inclusive=False,
        nms_threshold=p.number("iou_threshold", 0.45),
        max_per_class=p.integer("nms_max_output_size", 400, low=1),
        keep_top_k=p.integer("top_k", 200, low=1),
        **code,
    )
    text = f"{decoder.kind} {decoder.name!r}: score > {rule.score_threshold:g}, IoU {rule.nms_threshold:g}, {rule.max_per_class} after NMS, best {rule.keep_top_k}"  # fmt: skip
    return rule, Claim("detection rule", "stated", text)
