"""A detection graph as a plan: layers, pixels, priors and detection rule from the graph's own nodes, nothing from a table.

The end of such a graph is a NonMaxSuppression per class. What it reads is followed back to the two concatenations of the heads. How loc
is coded and how class outputs become scores is not guessed from names: the nodes between heads and NonMaxSuppression are evaluated on
numbers, and compared with what the reference computes from the same numbers. What the graph does not say is assumed, and each assumption
is a claim.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np

from ssdconv.converters.anchor_grid import prior_maps
from ssdconv.converters.assumed import size_of
from ssdconv.converters.tensorflow.evaluate import Evaluator, FrozenGraph, name_of
from ssdconv.converters.tensorflow.graphdef import Node
from ssdconv.converters.tensorflow.operations import GraphNetwork, build
from ssdconv.converters.tensors import Array, LazyTensor, MappedTensor
from ssdconv.errors import FormatError, UsageError
from ssdconv.ssd_ref.config import Graph as Layers
from ssdconv.ssd_ref.config import LayerSpec, Postprocess, Preprocess, PriorMap, Resize, SSDConfig
from ssdconv.ssd_ref.evidence import PRIORS_UNTOLD, RULE_ASSUMED, Claim, Notice
from ssdconv.ssd_ref.graph.operation import module_name

SUPPRESSION = (
    "NonMaxSuppressionV3",
    "NonMaxSuppressionV4",
    "NonMaxSuppressionV5",
    "NonMaxSuppressionV2",
    "NonMaxSuppression",
)
PASSING = ("Identity", "Reshape", "Squeeze", "ExpandDims", "Transpose", "BiasAdd", "Add", "AddV2")
"""Operations between a head's convolution and the heads' concatenation."""
CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")
Activation = Literal["softmax", "sigmoid", "none"]
CLOSE = 1e-9
"""Relative difference in float64 between two ways to compute the same."""


@dataclass(frozen=True)
class FrozenEnds:
    """Where a graph's network ends.

    Attributes:
        loc, conf: values with the heads' outputs.
        boxes: the value that NonMaxSuppression reads as boxes, "" where there is none.
        suppressions: the NonMaxSuppression of each class, in the graph's order.
    """

    loc: str
    conf: str
    boxes: str = ""
    suppressions: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Entrance:
    """Where pixels come in.

    Attributes:
        value: the value that prepared pixels stand for.
        image: the placeholder that is fed with images.
        size: height and width, (0, 0) where the graph leaves them open.
        resize: the rule by which the graph makes images that size, None where it does not.
        channels: of the image.
        scale, offset: per channel, what pixels are multiplied by and what is added before that resize.
    """

    value: str
    image: str
    size: tuple[int, int]
    resize: Resize | None
    channels: int = 3
    scale: tuple[float, ...] = (1.0, 1.0, 1.0)
    offset: tuple[float, ...] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Whole:
    """What a graph makes.

    Attributes:
        config: the network; ``graph.origin`` is not filled yet.
        entries: every weight of it.
        probes: (node of the file, path of the reference module).
        evidence: who says what.
        warnings: what the user should know.
        nodes: what an oracle reads: "loc", "conf", "input", "image", "anchors", "scores" -> node of the file; "" where there is none.
    """

    config: SSDConfig
    entries: tuple[MappedTensor, ...]
    probes: tuple[tuple[str, str], ...]
    evidence: tuple[Claim, ...]
    warnings: tuple[str, ...]
    nodes: Mapping[str, str] = field(default_factory=dict)


def describes_itself(nodes: Mapping[str, Node]) -> bool:
    """Whether a graph ends in NonMaxSuppression, or has a convolution network at all that ends in two joined heads."""
    return any(node.op in SUPPRESSION for node in nodes.values())


def network_of(
    nodes: Mapping[str, Node], constants: Mapping[str, LazyTensor], settings: Mapping[str, str], where: str
) -> Whole:
    """The network that a graph computes.

    Args:
        nodes, constants: of the file.
        settings: what the user says where the graph does not (``heads.loc``, ``heads.conf``, ``input.size``, ``pixels.order``,
            ``pixels.resize``).
        where: the file's name for messages.

    Raises:
        FormatError: no SSD's graph, an operation that is not supported, or a graph that contradicts itself.
        UsageError: a setting that cannot be read, or one that is needed.
    """
    graph = FrozenGraph(nodes, constants, where)
    ends = _ends(graph, settings)
    entry = _entry(graph, ends, settings)
    network = GraphNetwork(graph, entry.value, entry.size, entry.channels)
    build(network, (ends.loc, ends.conf))
    made = network.made
    boxes, classes = _head(network, ends.loc, "loc"), _head(network, ends.conf, "conf")
    if boxes[0] != classes[0] or boxes[1] != 4:
        raise FormatError(
            "boxes and class outputs do not fit each other", where=where,
            expected="(priors, 4) and (priors, classes)", got=f"{boxes} and {classes}",
        )  # fmt: skip
    pixels, claims = _pixels(entry, settings)
    warnings: list[str] = []
    anchors = ""
    maps: tuple[PriorMap, ...] = ()
    order = (1, 0, 3, 2)
    rule = Postprocess()
    if ends.suppressions:
        coded = _coding(network, ends, boxes[0])
        order = coded.order
        anchors, corners = _anchors(network, ends, coded)
        maps = prior_maps(corners, _grids(network, ends.loc), entry.size, coded.variances, where)
        rule, columns, scores = _scores(network, ends, classes)
        rule = _limits(network, ends, replace(rule, max_exponent=coded.cap), coded)
        claims += _said(network, ends, maps, coded, rule, columns, anchors)
    else:
        scores = ""
        text = "the graph has no anchors that boxes are decoded with"
        claims.append(Claim("priors", "assumed", text))
        claims.append(
            Claim("detection rule", "assumed", "the graph has no NonMaxSuppression: Caffe's defaults are taken")
        )
        warnings += [
            Notice(PRIORS_UNTOLD, f"{text}; --spec FILE gives them"),
            Notice(RULE_ASSUMED, "the graph has no NonMaxSuppression; --spec FILE gives the rule"),
        ]
    loc = _columns(network, ends.loc, "loc", boxes[0], 4)
    if order != (0, 1, 2, 3):
        loc = made.add(f"{ends.loc}/xywh", "Gather", loc, {"axis": 2, "indices": list(order)})
    conf = _columns(network, ends.conf, "conf", *classes)
    layers = tuple(made.layers)
    used = {weight.source for weight in made.entries}
    tail = _tail(scores, conf, rule)
    config = SSDConfig(
        name=f"tf_ssd_{entry.size[0]}x{entry.size[1]}",
        source="tensorflow",
        num_classes=classes[1],
        pixels=pixels,
        priors=maps,
        detect=rule,
        layers=Layers(
            input=entry.value,
            layers=layers,
            loc=loc,
            conf=conf,
            tail=tail,
            added=tuple(made.added),
            warnings=tuple(warnings),
        ),
    )
    added = set(made.added)
    probes = tuple((s.name, f"layers.{module_name(s.name)}") for s in layers if s.name not in added)
    kinds = sorted({graph.nodes[name].op for name, _ in probes})
    claims.insert(
        0,
        Claim("architecture", "stated", f"{len(probes)} nodes of the graph ({', '.join(kinds)}), {len(used)} tensors"),
    )
    background = "background first" if rule.background == 0 else "no background"
    claims.append(
        Claim("classes", "stated", f"{classes[1]} columns, {background}; the graph holds no names", "classes")
    )
    told = {
        "loc": ends.loc,
        "conf": ends.conf,
        "input": entry.value,
        "image": entry.image,
        "anchors": anchors,
        "scores": scores,
    }
    return Whole(config, tuple(made.entries), probes, tuple(claims), tuple(warnings), told)


def _ends(graph: FrozenGraph, settings: Mapping[str, str]) -> FrozenEnds:
    """Find the heads: what the user says, or what every NonMaxSuppression is made of."""
    suppressions = tuple(node for node in graph.nodes.values() if node.op in SUPPRESSION)
    given = {kind: settings.get(f"heads.{kind}", "") for kind in ("loc", "conf")}
    for kind, name in given.items():
        if name and name_of(name) not in graph.nodes:
            raise UsageError(f"--set heads.{kind}={name}: the graph has no such node", where=graph.where)
    if not suppressions:
        if all(given.values()):
            return FrozenEnds(given["loc"], given["conf"])
        return _raw_ends(graph, given)
    boxes = suppressions[0].inputs[0]
    scores = tuple(node.inputs[1] for node in suppressions)
    loc = given["loc"] or _head_of(graph, (boxes,), "loc")
    conf = given["conf"] or _head_of(graph, scores, "conf")
    return FrozenEnds(loc, conf, boxes, suppressions)


def _head_of(graph: FrozenGraph, values: tuple[str, ...], kind: str) -> str:
    """The concatenation of convolutions' outputs that values are made of."""
    found: dict[str, None] = {}
    seen: set[str] = set()
    todo = [name_of(value) for value in values]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        node = graph.node(name)
        if _joins_heads(graph, node):
            found[name] = None
        elif node.op in ("Shape", "Size", "Rank"):
            continue
        else:
            todo += [name_of(value) for value in node.inputs]
    if len(found) != 1:
        raise UsageError(
            f"where the {'boxes' if kind == 'loc' else 'class outputs'} of all maps are joined is not certain",
            where=graph.where,
            expected="one ConcatV2 of convolutions' outputs before NonMaxSuppression",
            got=", ".join(list(found)[:4]) or "none",
            hint=f"name the node: --set heads.{kind}=NODE",
        )
    return next(iter(found))


def _joins_heads(graph: FrozenGraph, node: Node) -> bool:
    """Whether a node joins outputs of convolutions, regrouped at most."""
    if node.op != "ConcatV2":
        return False
    return all(_convolution(graph, value) is not None for value in node.inputs[:-1])


def _convolution(graph: FrozenGraph, value: str) -> Node | None:
    """The last layer of a head: the node behind which values are only regrouped; None where that is no convolution's output."""
    last = None
    for _ in range(32):
        node = graph.node(value)
        if node.op in CONVOLUTIONS:
            return last or node
        if node.op not in PASSING or not node.inputs:
            return None
        if node.op in ("BiasAdd", "Add", "AddV2"):
            last = node
        value = node.inputs[0]
    return None


def _raw_ends(graph: FrozenGraph, given: Mapping[str, str]) -> FrozenEnds:
    """The heads of a graph without NonMaxSuppression: its only two concatenations of convolutions' outputs, told by their columns."""
    joined = [node.name for node in graph.nodes.values() if _joins_heads(graph, node)]
    four = [name for name in joined if _last_side(graph, name) == 4]
    others = [name for name in joined if name not in four]
    loc = given["loc"] or (four[0] if len(four) == 1 else "")
    conf = given["conf"] or (others[0] if len(others) == 1 else "")
    if not loc or not conf:
        raise UsageError(
            "which nodes are the heads is not certain: the graph has no NonMaxSuppression",
            where=graph.where,
            expected="two ConcatV2 of convolutions' outputs, one of four columns",
            got=", ".join(joined[:6]) or "none",
            hint="name the nodes: --set heads.loc=NODE --set heads.conf=NODE",
        )
    return FrozenEnds(loc, conf)


def _last_side(graph: FrozenGraph, name: str) -> int:
    """Columns of a joined head by the shape that its first part is given, 0 where that is not told."""
    value = graph.nodes[name].inputs[0]
    for _ in range(8):
        node = graph.node(value)
        if node.op == "Reshape":
            shape = graph.node(node.inputs[1])
            last = graph.node(shape.inputs[-1]) if shape.op == "Pack" else shape
            held = graph.constants.get(last.name)
            return 0 if held is None else int(held.load().reshape(-1)[-1])
        if not node.inputs:
            return 0
        value = node.inputs[0]
    return 0


def _entry(graph: FrozenGraph, ends: FrozenEnds, settings: Mapping[str, str]) -> Entrance:
    """Where pixels come in: behind the graph's own resize where it has one, else at its placeholder."""
    before = graph.before((ends.loc,))
    value = ""
    for node in before.values():
        if node.op in ("TensorArrayGatherV3", "ResizeBilinear", "Cast", "Placeholder") and _takes_images(graph, node):
            value = node.name
            break
    if not value:
        raise FormatError(
            "where images come in is not certain",
            where=graph.where,
            expected="a Placeholder before the first convolution",
        )
    known = Evaluator(graph)
    made = graph.node(value)
    inside = graph.taken_out(made) if made.op == "TensorArrayGatherV3" else value
    resize: Resize | None = None
    size = (0, 0)
    image = graph.node(inside or value)
    scale, offset = np.ones(3), np.zeros(3)
    for _ in range(64):
        if image.op == "Placeholder":
            break
        if image.op == "ResizeBilinear":
            if resize is not None:
                raise image.fail("resizes a second time")
            size, resize = _resized(image, known)
            image = graph.node(image.inputs[0])
        elif image.op == "TensorArrayReadV3" and (held := graph.put_in(image)) is not None:
            image = graph.node(held)
        elif image.op in ("Identity", "Cast", "Squeeze", "ExpandDims") and image.inputs:
            image = graph.node(image.inputs[0])
        elif image.op in AFFINE and resize is not None:
            at, by, plus = _affine(image, known)
            scale, offset = scale * by, offset + scale * plus
            image = graph.node(image.inputs[at])
        else:
            raise image.fail(
                f"images pass through {image.op} before they reach the network, which is not known",
                expected="Cast, ResizeBilinear to a fixed size, and a loop over the images",
            )
    sides = image.sides("shape")
    channels = sides[-1] if sides is not None and len(sides) == 4 else 3
    if size == (0, 0) and sides is not None and len(sides) == 4:
        size = (max(sides[1], 0), max(sides[2], 0))
    if "input.size" in settings:
        size = _given_size(settings["input.size"], size, resize is not None)
    if min(size) <= 0:
        raise UsageError(
            "the graph leaves its input's size open", where=f"{graph.where}, {image.where}", got=sides,
            hint="say it: --set input.size=WIDTHxHEIGHT",
        )  # fmt: skip
    if channels not in (1, 3) or max(size) > 1 << 14:
        raise image.fail(
            "the input is no image", expected="1 or 3 channels, at most 16384 pixels a side", got=(*size, channels)
        )
    if (scale == 0).any() or (channels == 1 and len(set(scale)) + len(set(offset)) > 2):
        raise image.fail("pixels are multiplied by 0, or a grey one by several numbers", got=scale)
    return Entrance(value, image.name, size, resize, channels, tuple(scale.tolist()), tuple(offset.tolist()))


AFFINE = ("Add", "AddV2", "Sub", "Mul", "RealDiv")


def _affine(node: Node, known: Evaluator) -> tuple[int, Array, Array]:
    """Arithmetic on pixels before they are resized: which input the image is, and the factor and the summand of each channel."""
    values = [known.known(value) for value in node.inputs]
    at = 1 if values[0] is not None else 0
    number = values[1 - at]
    if number is None or values[at] is not None or number.size not in (1, 3):
        raise node.fail("pixels are computed on before they are resized in a way that is not known")
    numbers = np.broadcast_to(np.asarray(number, np.float64).reshape(-1), (3,))
    if node.op in ("Add", "AddV2"):
        return at, np.ones(3), numbers
    if node.op == "Mul":
        return at, numbers, np.zeros(3)
    if at == 0 and node.op == "Sub":
        return at, np.ones(3), -numbers
    if at == 0 and not (numbers == 0).any():
        return at, 1 / numbers, np.zeros(3)
    raise node.fail("pixels stand behind a minus or under a fraction, which is not known")


def _takes_images(graph: FrozenGraph, node: Node) -> bool:
    """Whether nothing but the image and its making lies before a node: no layer."""
    if node.op == "Placeholder":
        return True
    before = graph.before((node.name,))
    return not any(n.op in CONVOLUTIONS for n in before.values()) and any(
        n.op == "Placeholder" for n in before.values()
    )


def _resized(node: Node, known: Evaluator) -> tuple[tuple[int, int], Resize]:
    sides = [int(v) for v in np.asarray(known.value(node.inputs[1])).reshape(-1)]
    if len(sides) != 2 or node.flag("align_corners"):
        raise node.fail(
            "a resize whose corners are aligned is not among the rules for pixels",
            expected="align_corners false",
            got=sides,
        )
    return (sides[0], sides[1]), "torch_bilinear" if node.flag("half_pixel_centers") else "tf1_bilinear"


def _given_size(text: str, size: tuple[int, int], told: bool) -> tuple[int, int]:
    given = size_of("input.size", text)
    if told and given != size:
        raise UsageError(
            f"--set input.size={text}: the graph resizes its images itself", expected=f"{size[1]}x{size[0]}"
        )
    return given


def _pixels(entry: Entrance, settings: Mapping[str, str]) -> tuple[Preprocess, list[Claim]]:
    """Plain pixels of the network's size: what is computed on them is among the graph's layers."""
    order = "GRAY" if entry.channels == 1 else settings.get("pixels.order", "RGB")
    resize = settings.get("pixels.resize", "opencv_linear") if entry.resize is None else entry.resize
    if order not in ("RGB", "BGR", "GRAY") or resize not in get_args(Resize):
        raise UsageError(
            f"--set pixels: {order}, {resize}", expected=f"RGB or BGR, and one of {', '.join(get_args(Resize))}"
        )
    if entry.resize is not None and "pixels.resize" in settings:
        raise UsageError("--set pixels.resize: the graph resizes its images itself", got=entry.resize)
    mean, std = _normal(entry)
    before = f", but for (x - {mean[0]:g} …) / {std[0]:g} … before the resize, done after it here" if any(mean) else ""
    claims = [
        Claim(
            "pixels",
            "stated",
            f"images of {entry.size[1]}x{entry.size[0]} (width x height), values 0..255; what is computed on them are nodes of the graph{before}",
        )
    ]
    if entry.resize is None:
        claims.append(
            Claim(
                "pixels",
                "user" if "pixels.resize" in settings else "assumed",
                f"images are warped to that size by {resize}",
                "pixels.resize",
                str(resize),
                tuple(r for r in get_args(Resize) if r != resize),
                "pixels differ by a few levels",
            )
        )
    else:
        claims.append(Claim("pixels", "stated", f"the graph warps images by ResizeBilinear ({entry.resize})"))
    if order != "GRAY":
        claims.append(
            Claim(
                "pixels",
                "user" if "pixels.order" in settings else "assumed",
                f"the graph is fed {order} images, as the Object Detection API documents",
                "pixels.order",
                order,
                tuple(o for o in ("RGB", "BGR") if o != order),
                "swapped channels change every score",
            )
        )
    kept: Literal["RGB", "BGR", "GRAY"] = "GRAY" if order == "GRAY" else "RGB" if order == "RGB" else "BGR"
    rule = next(r for r in get_args(Resize) if r == resize)
    if len(set(std)) == 1:
        return Preprocess(entry.size, kept, mean, scale=1 / std[0], resize=rule), claims
    return Preprocess(entry.size, kept, mean, std, resize=rule), claims


def _normal(entry: Entrance) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Arithmetic before the resize as a mean and a divisor per channel; behind it the same up to rounding, for a resize is linear."""
    pairs = list(zip(entry.scale, entry.offset, strict=True))[: entry.channels]
    return tuple(-b / a if b else 0.0 for a, b in pairs), tuple(1 / a for a, _ in pairs)


def _head(network: GraphNetwork, value: str, kind: str) -> tuple[int, int]:
    """(priors, columns) of a joined head."""
    shape = network.made.shapes[value]
    if len(shape) == 3 and shape[1] == 1:
        return shape[0], shape[2]
    if len(shape) == 2:
        return shape[0], shape[1]
    raise network.graph.node(value).fail(
        f"{kind} is not one row per prior", expected="(N, priors, columns)", got=("N", *shape)
    )


def _columns(network: GraphNetwork, value: str, kind: str, rows: int, columns: int) -> str:
    """The blob with a joined head as (N, priors, columns)."""
    made = network.made
    blob = made.blob(value)
    if len(made.shapes[value]) == 3:
        blob = made.add(f"{value}/{kind}_last", "Permute", blob, {"order": [0, 2, 3, 1]})
        blob = made.add(f"{value}/{kind}_rows", "Reshape", blob, {"shape": {"dim": [0, rows, columns]}})
    return blob


def _grids(network: GraphNetwork, loc: str) -> list[tuple[int, int, int]]:
    """(rows, columns, anchors of a cell) of each map."""
    node = network.graph.node(loc)
    found = []
    for value in node.inputs[:-1] if node.op == "ConcatV2" else (loc,):
        head = _convolution(network.graph, value)
        shape = network.made.shapes.get(head.name, ()) if head is not None else ()
        if len(shape) != 3 or shape[2] % 4:
            raise node.fail("a head that is no map of four values per anchor", got=f"{value}: {shape}")
        found.append((shape[0], shape[1], shape[2] // 4))
    return found


@dataclass(frozen=True)
class Coding:
    """How boxes are decoded.

    Attributes:
        order: place in the graph's loc of dx, dy, dw, dh.
        variances: of dx, dy, dw, dh.
        anchors: (P, 4) cx, cy, w, h in float64, as the graph's constants make them.
        cap: of the exponent, None for none.
        clipped: boxes are clipped to the image before NonMaxSuppression.
    """

    order: tuple[int, int, int, int]
    variances: tuple[float, float, float, float]
    anchors: Array
    cap: float | None
    clipped: bool


def _decoded(network: GraphNetwork, ends: FrozenEnds, loc: Array, *, exact: bool = True) -> Array:
    """Boxes (P, 4) xmin, ymin, xmax, ymax that the graph makes of loc (P, 4)."""
    shape = network.made.shapes[ends.loc]
    fed = {ends.loc: loc.reshape(1, *shape), name_of(ends.loc): loc.reshape(1, *shape)}
    made = Evaluator(network.graph, network.static, fed, exact=exact).value(ends.boxes)
    boxes = np.asarray(made).reshape(-1, 4)
    if len(boxes) != len(loc):
        raise network.graph.node(ends.boxes).fail(
            "classes have boxes of their own, which is not supported", got=made.shape
        )
    return boxes[:, [1, 0, 3, 2]]  # NonMaxSuppression's boxes are y1, x1, y2, x2


def _as_centres(corners: Array) -> Array:
    low, high = corners[:, :2], corners[:, 2:]
    return np.concatenate([(low + high) / 2, high - low], 1)


def _coding(network: GraphNetwork, ends: FrozenEnds, count: int) -> Coding:
    """Measure how loc moves boxes: one column at a time, then all of them against the reference's formula."""
    node = network.graph.node(ends.boxes)
    zero = np.zeros((count, 4))
    base_corners = _decoded(network, ends, zero)
    base = _as_centres(base_corners)
    clipped = bool(_decoded(network, ends, np.full((count, 4), 50.0)).max() <= 1.0)
    inside = (base_corners > 0.05).all(1) & (base_corners < 0.95).all(1) if clipped else np.ones(count, bool)
    step = 1e-3 if clipped else 1.0
    if (base[:, 2:] <= 0).any() or not inside.any():
        raise node.fail("anchors without area, or none that lies within the image")
    order, variances = [-1] * 4, [0.0] * 4
    for column in range(4):
        loc = zero.copy()
        loc[:, column] = step
        moved = _as_centres(_decoded(network, ends, loc))[inside]
        mine = base[inside]
        shift = (
            np.concatenate([(moved[:, :2] - mine[:, :2]) / mine[:, 2:], np.log(moved[:, 2:] / mine[:, 2:])], 1) / step
        )
        found = [k for k in range(4) if np.abs(shift[:, k]).max() > 1e-6]
        even = found and np.ptp(shift[:, found[0]]) <= 1e-6 * abs(shift[0, found[0]])
        if len(found) != 1 or not even or shift[0, found[0]] <= 0:
            raise node.fail(
                "loc is not coded as shifts of the centre and logarithms of the sides",
                got=f"column {column} moves {found} of centre x, centre y, width, height",
                hint="other box coders are not supported",
            )
        order[found[0]] = column
        variances[found[0]] = float(f"{np.median(shift[:, found[0]]):.{6 if clipped else 9}g}")
    kept = (order[0], order[1], order[2], order[3])
    spread = (variances[0], variances[1], variances[2], variances[3])
    high = np.zeros((count, 4))
    high[:, kept[2]] = 60.0 / spread[2]
    cap = None
    if not clipped:
        grown = np.log(_as_centres(_decoded(network, ends, high))[:, 2] / base[:, 2])
        cap = None if abs(float(np.median(grown)) - 60.0) < 1e-3 else float(np.median(grown))
    coding = Coding(kept, spread, base, cap, clipped)
    loc = np.random.default_rng(0).normal(0, 2.0, (count, 4))
    wanted, got = _formula(coding, loc), _decoded(network, ends, loc)
    worst = float((np.abs(wanted - got) / np.maximum(np.abs(wanted), 1.0)).max())
    if sorted(kept) != [0, 1, 2, 3] or not worst <= (1e-4 if clipped else CLOSE):
        raise node.fail("boxes are decoded otherwise than by any formula known here", got=f"{worst:.3g} off")
    return coding


def _formula(coding: Coding, loc: Array) -> Array:
    """The reference's decoder in float64: (P, 4) corners."""
    delta = loc[:, coding.order] * coding.variances
    growth = delta[:, 2:] if coding.cap is None else np.minimum(delta[:, 2:], coding.cap)
    middle = coding.anchors[:, :2] + delta[:, :2] * coding.anchors[:, 2:]
    half = np.exp(growth) * coding.anchors[:, 2:] / 2
    corners = np.concatenate([middle - half, middle + half], 1)
    return np.clip(corners, 0, 1) if coding.clipped else corners


def _anchors(network: GraphNetwork, ends: FrozenEnds, coded: Coding) -> tuple[str, Array]:
    """The node that holds the anchors as corners, where there is one, and their corners (P, 4) as the graph computes them in float32."""
    plain = Evaluator(network.graph, network.static)
    count = len(coded.anchors)
    wanted = np.concatenate(
        [coded.anchors[:, :2] - coded.anchors[:, 2:] / 2, coded.anchors[:, :2] + coded.anchors[:, 2:] / 2], 1
    )
    best = ""
    corners = np.zeros((0, 4))
    stop = frozenset((name_of(ends.loc),))
    for node in network.graph.before((ends.boxes,), stop).values():
        if network.varies(node.name) or node.name in stop:
            continue
        value = plain.known(node.name)
        if value is None or value.dtype.kind != "f" or value.size != 4 * count or value.shape[-1] != 4:
            continue
        rows = value.reshape(-1, 4)[:, [1, 0, 3, 2]]
        if np.abs(rows - wanted).max() <= 1e-5 * max(1.0, float(np.abs(wanted).max())):
            best, corners = node.name, rows
    if not best:
        return "", wanted.astype(np.float32)
    return best, np.asarray(corners, np.float32)


def _scores(network: GraphNetwork, ends: FrozenEnds, head: tuple[int, int]) -> tuple[Postprocess, tuple[int, ...], str]:
    """How class outputs become scores, the column of each NonMaxSuppression, and the node that holds all columns' scores."""
    rows, classes = head
    logits = np.random.default_rng(1).normal(0, 2.0, (rows, classes))
    shape = network.made.shapes[ends.conf]
    fed = {name_of(ends.conf): logits.reshape(1, *shape)}
    # What lies beside the scores in the loop counts boxes; their values do not matter.
    fed[name_of(ends.loc)] = np.zeros((1, *network.made.shapes[ends.loc]))
    evaluator = Evaluator(network.graph, network.static, fed, exact=True)
    ways: dict[Activation, Array] = {
        "sigmoid": 1 / (1 + np.exp(-logits)),
        "softmax": np.exp(logits) / np.exp(logits).sum(1, keepdims=True),
        "none": logits,
    }
    found: list[tuple[Activation, int]] = []
    for node in ends.suppressions:
        column = np.asarray(evaluator.value(node.inputs[1])).reshape(-1)
        if len(column) != rows:
            raise node.fail("scores of another number of priors", expected=rows, got=column.shape)
        fits = [
            (way, k)
            for way, table in ways.items()
            for k in range(classes)
            if np.abs(table[:, k] - column).max() < CLOSE
        ]
        if len(fits) != 1:
            raise node.fail(
                "scores are made of the class outputs otherwise than by a sigmoid or softmax",
                expected="sigmoid, softmax or none",
            )
        found.append(fits[0])
    activations, columns = {way for way, _ in found}, tuple(k for _, k in found)
    left = sorted(set(range(classes)) - set(columns))
    if len(activations) != 1 or list(columns) != sorted(set(columns)) or left not in ([], [0]):
        raise FormatError(
            "which class outputs are suppressed is not known from any network",
            where=network.graph.where,
            expected="every class once and in order, but for a background in front",
            got=f"columns {list(columns)[:8]} of {classes}, {sorted(activations)}",
        )
    (activation,) = activations
    whole = ""
    for node in network.graph.behind((name_of(ends.conf),)).values():
        if node.op in ("Sigmoid", "Softmax") and activation != "none":
            whole = node.name
            break
    return Postprocess(activation=activation, background=0 if left else None), columns, whole


def _limits(network: GraphNetwork, ends: FrozenEnds, rule: Postprocess, coded: Coding) -> Postprocess:
    """Thresholds and counts, from the constants of every NonMaxSuppression and of what follows them."""
    fed = {name_of(ends.loc): np.zeros((1, *network.made.shapes[ends.loc])), name_of(ends.conf): np.zeros((1, *network.made.shapes[ends.conf]))}  # fmt: skip
    known = Evaluator(network.graph, network.static, fed)
    told = {_numbers(node, known) for node in ends.suppressions}
    if len(told) != 1:
        raise FormatError("classes have different thresholds", where=network.graph.where, got=sorted(told)[:3])
    (most, overlap, score) = told.pop()
    if score is None:
        score = _filter(network, ends, known)
    behind = network.graph.behind(tuple(node.name for node in ends.suppressions))
    totals = set()
    for node in behind.values():
        if node.op == "Minimum":
            sizes = [known.known(value) for value in node.inputs]
            totals |= {int(s.reshape(())) for s in sizes if s is not None and s.size == 1 and s.dtype.kind == "i"}
    if len(totals) > 1:
        raise FormatError("how many boxes an image keeps is not certain", where=network.graph.where, got=sorted(totals))
    after = any(node.op in ("Minimum", "Maximum") and not _whole(node, known) for node in behind.values())
    empty = after and any(node.op == "Where" for node in behind.values())
    return replace(
        rule,
        score_threshold=score,
        top_k=-1,
        nms_threshold=overlap,
        max_per_class=most if most < len(coded.anchors) else -1,
        keep_top_k=totals.pop() if totals else -1,
        clip="before_nms" if coded.clipped else "after" if after else "none",
        drop_empty=empty,
    )


def _whole(node: Node, known: Evaluator) -> bool:
    """Whether a Minimum or Maximum is of whole numbers, of which one is known."""
    return any((v := known.known(value)) is not None and v.dtype.kind == "i" for value in node.inputs)


def _numbers(node: Node, known: Evaluator) -> tuple[int, float, float | None]:
    """(most boxes, IoU threshold, score threshold or None) of a NonMaxSuppression."""
    most = int(np.asarray(known.value(node.inputs[2])).reshape(()))
    if node.op == "NonMaxSuppression":
        return most, float(str(np.float32(node.number("iou_threshold", 0.5)))), None
    overlap = _decimal(known.value(node.inputs[3]))
    if node.op == "NonMaxSuppressionV2":
        return most, overlap, None
    if node.op == "NonMaxSuppressionV5" and _decimal(known.value(node.inputs[5])) != 0.0:
        raise node.fail("lowers scores instead of dropping boxes (soft NMS), which is not supported")
    return most, overlap, _decimal(known.value(node.inputs[4]))


def _filter(network: GraphNetwork, ends: FrozenEnds, known: Evaluator) -> float:
    """The score threshold of a graph that filters before NonMaxSuppression."""
    before = network.graph.before(tuple(n.inputs[1] for n in ends.suppressions), frozenset((name_of(ends.conf),)))
    found = {
        _decimal(value)
        for node in before.values()
        if node.op == "Greater" and (value := known.known(node.inputs[1])) is not None and value.size == 1
    }
    if len(found) != 1:
        raise FormatError("the score threshold is not certain", where=network.graph.where, got=sorted(found))
    return found.pop()


def _decimal(value: Array) -> float:
    """The shortest decimal of a float32."""
    return float(str(np.float32(np.asarray(value).reshape(()))))


def _said(
    network: GraphNetwork,
    ends: FrozenEnds,
    maps: tuple[PriorMap, ...],
    coded: Coding,
    rule: Postprocess,
    columns: tuple[int, ...],
    anchors: str,
) -> list[Claim]:
    total = sum(entry.count for entry in maps)
    where = f"node {anchors!r}" if anchors else "the nodes that decode boxes"
    keep = rule.keep_top_k if rule.keep_top_k >= 0 else "all"
    clip = {"after": "clipped afterwards", "before_nms": "clipped before", "none": "not clipped"}[rule.clip]
    empty = ", boxes without area dropped" if rule.drop_empty else ""
    return [
        Claim(
            "priors", "stated", f"{total} anchors of {len(maps)} maps as {where} comes to, on the grids of the heads"
        ),
        Claim(
            "detection rule",
            "stated",
            f"loc as {', '.join(np.array(['dx', 'dy', 'dw', 'dh'])[np.argsort(coded.order)])} with variances {coded.variances}, "
            f"{rule.activation} scores of {len(columns)} classes: measured on the graph's own nodes",
        ),
        Claim(
            "detection rule",
            "stated",
            f"{ends.suppressions[0].op}: score > {rule.score_threshold:g}, IoU {rule.nms_threshold:g}, "
            f"{rule.max_per_class if rule.max_per_class >= 0 else 'all'} of a class, best {keep}, {clip}{empty}",
        ),
    ]


def _tail(scores: str, conf: str, rule: Postprocess) -> tuple[LayerSpec, ...]:
    """The layer that makes scores of the class outputs."""
    if not scores:
        return ()
    params: dict[str, Any] = {"axis": 2} if rule.activation == "softmax" else {}
    return (LayerSpec(scores, "Softmax" if params else "Sigmoid", (conf,), (scores,), params),)
