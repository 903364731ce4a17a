"""A detector as its own symbol says: layers, priors and detection rule from MXNet's graph, nothing from a table.

Two ends are known: GluonCV's, where box_decode meets stored anchors and box_nms chooses, and MXNet's own MultiBoxDetection with
MultiBoxPrior (zhreshold/mxnet-ssd and what was derived from it). A symbol says nothing about pixels, and seldom its input's size: these are
asked for, or claims that say that they are assumed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ssdconv.converters.anchor_grid import prior_maps
from ssdconv.converters.assumed import plain, size_of
from ssdconv.converters.gluon.mapping import bare, spacing, table_of
from ssdconv.converters.gluon.operations import NOTHING, SymbolNetwork, before, build
from ssdconv.converters.gluon.symbol import Symbol, SymbolNode
from ssdconv.converters.plan import Plan
from ssdconv.converters.tensors import Array, Drop, LazyTensor, TensorMapping, TensorTable
from ssdconv.errors import FormatError, UsageError
from ssdconv.ssd_ref.config import Graph, LayerSpec, Postprocess, Preprocess, PriorMap, SourceText, SSDConfig
from ssdconv.ssd_ref.evidence import PIXELS_ASSUMED, Claim, Notice
from ssdconv.ssd_ref.graph.operation import module_name

NMS = ("_contrib_box_nms", "_contrib_box_non_maximum_suppression")
MULTIBOX = ("_contrib_MultiBoxDetection", "MultiBoxDetection")
PRIOR = ("_contrib_MultiBoxPrior", "MultiBoxPrior")
SOFTMAX = ("softmax", "SoftmaxActivation", "SoftmaxOutput", "Softmax")
REGROUPS = ("Reshape", "reshape", "Flatten", "flatten", "transpose", "expand_dims", "squeeze", *NOTHING)
CHOOSING = (*REGROUPS, "slice_axis", "_greater_scalar", "zeros_like", "ones_like", "_zeros", "_ones", "_arange", "broadcast_add",
            "_mul_scalar", "where", "Concat", "concat", "broadcast_like", "null")  # fmt: skip
"""Operators between class scores and box_nms that GluonCV's decoder is made of."""
PIXELS = {
    "gluoncv": Preprocess((1, 1), "RGB", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 255.0, resize="mxnet_9"),
    "mxnet-ssd": Preprocess((1, 1), "RGB", (123.0, 117.0, 104.0), resize="opencv_linear"),
}
"""What the two projects feed their networks with."""


@dataclass(frozen=True)
class SymbolEnds:
    """Where a symbol's network ends; each a node's index.

    Attributes:
        loc, conf: the heads, conf before its softmax or sigmoid.
        anchors: the priors.
        scores: the node that makes scores of conf.
        chooser: box_nms or MultiBoxDetection.
        decoder: box_decode, -1 where the chooser decodes.
    """

    loc: int
    conf: int
    anchors: int
    scores: int
    chooser: int
    decoder: int = -1


def plan_of(symbol: Symbol, table: TensorTable, settings: Mapping[str, str]) -> Plan:
    """The plan of a .params file by the symbol that belongs to it.

    Args:
        settings: ``input.size`` where neither anchors nor the symbol tell it, ``pixels``, ``heads.loc`` … are asked for by name.

    Raises:
        FormatError: no SSD, an operator that is not supported, or tensors of another network.
        UsageError: a setting that cannot be read, or one that is needed.
    """
    tensors = _tensors(table)
    ends = _ends(symbol)
    data = _data(symbol, ends, tensors)
    size, told = _size(symbol, ends, data, tensors, settings)
    network = _built(symbol, ends, data, tensors, size)
    made = network.made
    rows, columns = _rows(network, ends.loc, 4), _rows(network, ends.conf, 0)
    priors, tables = _priors(network, ends)
    count = sum(entry.count for entry in priors)
    if (rows[0], count) != (columns[0], columns[0]):
        raise FormatError(
            "boxes, class outputs and priors do not fit each other", where=symbol.file,
            expected=f"{count} rows each", got=f"{rows[0]} and {columns[0]}",
        )  # fmt: skip
    rule, priors, spoken = _rule(network, ends, priors)
    loc, conf = _head(network, ends.loc, *rows), _head(network, ends.conf, *columns)
    kind = settings.get("pixels", "gluoncv" if ends.decoder >= 0 else "mxnet-ssd")
    if kind not in PIXELS:
        raise UsageError(f"--set pixels={kind}", expected=" or ".join(PIXELS))
    targets = {entry.source: entry.target for entry in made.entries}
    stored = {targets[name]: name for name in table if name in targets}  # in the file's order
    drops, kept = [], {}
    for place, name in enumerate(table):
        if name in tables:
            drops.append(Drop(name, "anchors, read as the network's priors"))
            index, same = tables[name]
            if same is not None:
                kept[name] = [place, index, *same]
        elif name not in targets:
            drops.append(Drop(name, "no part of what the symbol computes for detection"))
    facts = {"anchors": json.dumps(kept)} if len(kept) == len(drops) else {}
    nodes = symbol.nodes
    scores = nodes[ends.scores]
    layers = tuple(made.layers)
    config = SSDConfig(
        name=f"mxnet_ssd_{size[0]}x{size[1]}",
        source="gluon",
        num_classes=columns[1],
        pixels=replace(PIXELS[kind], size=size),
        priors=priors,
        detect=rule,
        layers=Graph(
            input=nodes[data].name, layers=layers, loc=loc, conf=conf,
            tail=(LayerSpec(scores.name, "Softmax", (conf,), (scores.name,), {"axis": 2}),)
            if rule.activation == "softmax" else (),
            added=tuple(made.added), origin=SourceText(symbol.text, stored, facts),
        ),
    )  # fmt: skip
    added = set(made.added)
    probes = [(s.name, f"layers.{module_name(s.name)}") for s in layers if s.name not in added and ":" not in s.name]
    operators = sorted({n.op for n in nodes if n.name in {name for name, _ in probes}})
    others = tuple(name for name in PIXELS if name != kind)
    pixels = f"as {'GluonCV' if kind == 'gluoncv' else kind} prepares them; the symbol does not tell"
    claims = (
        Claim("architecture", "stated", f"{len(probes)} nodes of {symbol.file.rsplit('/', 1)[-1]} ({', '.join(operators)})",
              "layers", "symbol", ("table",), "a named network's layers are taken instead"),
        Claim("pixels", *told, "input.size", f"{size[1]}x{size[0]}"),
        Claim("pixels", "user" if "pixels" in settings else "assumed", pixels, "pixels", kind, others, "other means and resize"),
        *spoken,
    )  # fmt: skip
    warnings = () if "pixels" in settings else (Notice(PIXELS_ASSUMED, f"pixels {pixels}"),)
    mapping = TensorMapping(tuple(made.entries), tuple(drops))
    shapes = {e.source: e.source_shape for e in made.entries if e.ops}
    return Plan(config, mapping, warnings, tuple(probes), claims, shapes)


def _tensors(table: TensorTable) -> dict[str, LazyTensor]:
    found: dict[str, LazyTensor] = {}
    for name, tensor in table.items():
        if bare(name) in found:
            raise FormatError("two tensors have one name", where=str(table.path), got=bare(name))
        found[bare(name)] = tensor
    return found


def _only(symbol: Symbol, places: set[int], ops: tuple[str, ...], what: str) -> int:
    """The one node of some operators among places."""
    found = [place for place in sorted(places) if symbol.nodes[place].op in ops]
    if len(found) != 1:
        raise FormatError(
            f"{what} is not certain", where=symbol.file, expected=f"one {' or '.join(ops[:2])}",
            got=", ".join(symbol.nodes[p].name for p in found[:4]) or "none",
            hint="only symbols that end in box_nms or MultiBoxDetection say how boxes are made of the heads",
        )  # fmt: skip
    return found[0]


def _ends(symbol: Symbol) -> SymbolEnds:
    """Find the heads from the graph's end."""
    everything = set(range(len(symbol.nodes)))
    chooser = _only(symbol, everything, (*NMS, *MULTIBOX), "where boxes are chosen")
    node = symbol.nodes[chooser]
    if node.op in MULTIBOX:
        if len(node.inputs) != 3:
            raise node.fail("does not read class scores, boxes and anchors", got=len(node.inputs))
        scores = _through(symbol, node.inputs[0][0])
        made = symbol.nodes[scores]
        if made.op not in SOFTMAX:
            raise made.fail("class scores are no softmax", expected=", ".join(SOFTMAX))
        return SymbolEnds(node.inputs[1][0], made.inputs[0][0], node.inputs[2][0], scores, chooser)
    upstream = before(symbol, (chooser,))
    decoder = _only(symbol, upstream, ("_contrib_box_decode",), "where boxes are decoded")
    decode = symbol.nodes[decoder]
    if len(decode.inputs) != 2:
        raise decode.fail("does not read boxes and anchors", got=len(decode.inputs))
    # The first score on the way back from box_nms: heads may have activations of their own further up.
    found = _scores(symbol, chooser, decoder)
    return SymbolEnds(
        decode.inputs[0][0], symbol.nodes[found].inputs[0][0], decode.inputs[1][0], found, chooser, decoder
    )


def _through(symbol: Symbol, place: int) -> int:
    while symbol.nodes[place].op in NOTHING and symbol.nodes[place].inputs:
        place = symbol.nodes[place].inputs[0][0]
    return place


def _scores(symbol: Symbol, chooser: int, decoder: int) -> int:
    """The softmax or sigmoid between conf and box_nms; nothing else may lie between."""
    found, seen, todo = set[int](), {decoder}, [at for at, _ in symbol.nodes[chooser].inputs]
    while todo:
        place = todo.pop()
        if place in seen:
            continue
        seen.add(place)
        node = symbol.nodes[place]
        if node.op in (*SOFTMAX, "sigmoid") or (node.op == "Activation" and node.text("act_type") == "sigmoid"):
            found.add(place)
        elif node.op not in CHOOSING:
            raise node.fail(
                "lies between class scores and box_nms and is not known", expected="GluonCV's class decoder"
            )
        else:
            todo += [at for at, _ in node.inputs]
    if len(found) != 1:
        raise FormatError(
            "what makes scores of the class outputs is not certain", where=symbol.file,
            expected="one softmax or sigmoid", got=[symbol.nodes[p].name for p in sorted(found)][:4],
        )  # fmt: skip
    return found.pop()


def _data(symbol: Symbol, ends: SymbolEnds, tensors: Mapping[str, LazyTensor]) -> int:
    """The node that pixels come in by: the only input of the heads that is no tensor of the file."""
    upstream = sorted(before(symbol, (ends.loc, ends.conf)))
    free = [p for p in upstream if symbol.nodes[p].op == "null" and symbol.nodes[p].name not in tensors]
    if len(free) != 1:
        raise FormatError(
            "the symbol is not of this file's network", where=symbol.file,
            expected="one input, and every other one among the file's tensors",
            got=", ".join(symbol.nodes[p].name for p in free[:3]) or "none",
        )  # fmt: skip
    return free[0]


Basis = Literal["user", "stated"]


def _size(
    symbol: Symbol, ends: SymbolEnds, data: int, tensors: dict[str, LazyTensor], settings: Mapping[str, str]
) -> tuple[tuple[int, int], tuple[Basis, str]]:
    """Height and width of the input, and who says so."""
    if "input.size" in settings:
        return size_of("input.size", settings["input.size"]), ("user", f"input {settings['input.size']}")
    shape = symbol.nodes[data].integers("__shape__")
    if len(shape) == 4 and min(shape[1:]) > 0:
        return (shape[2], shape[3]), ("stated", f"input {shape[3]}x{shape[2]}: the symbol's own shape of its input")
    found = [_table(symbol, place, tensors) for place in _sources(symbol, ends.anchors)]
    if found and (last := found[-1]) is not None:
        step, _ = spacing(last)
        for count in range(1, 5):
            size = (round(step[0] * count), round(step[1] * count))
            if not 1 <= max(size) <= 4_096:
                continue
            try:
                network = _built(symbol, ends, data, tensors, size)
                grids = [_grid(network, place) for place in _sources(symbol, ends.anchors)]
            except FormatError:
                continue
            if grids[-1] == (count, count):
                text = f"input {size[1]}x{size[0]}: the last map's step times its {count} cells"
                return size, ("stated", text)
    raise UsageError(
        "the symbol does not tell the size of its input", where=symbol.file,
        hint="say it: --set input.size=WIDTHxHEIGHT, such as 300x300 or 512x512",
    )  # fmt: skip


def _built(
    symbol: Symbol, ends: SymbolEnds, data: int, tensors: dict[str, LazyTensor], size: tuple[int, int]
) -> SymbolNetwork:
    shape = symbol.nodes[data].integers("__shape__")
    channels = shape[1] if len(shape) == 4 and shape[1] > 0 else 3
    if channels != 3:
        raise symbol.nodes[data].fail("the input is no colour image", expected=3, got=channels)
    network = SymbolNetwork(symbol, tensors, data, size)
    build(network, (ends.loc, ends.conf))
    return network


def _rows(network: SymbolNetwork, place: int, columns: int) -> tuple[int, int]:
    """(priors, columns) of a head, as (N, P, c), flat (N, P * 4), or for classes before a softmax over channels (N, c, P)."""
    node = network.symbol.nodes[place]
    shape = network.made.shapes[network.value((place, 0))]
    if columns and len(shape) == 1 and shape[0] % columns == 0:
        return shape[0] // columns, columns
    if len(shape) != 2 or (columns and shape[1] != columns):
        raise node.fail("a head that is not one row per prior", got=("N", *shape))
    return (shape[1], shape[0]) if not columns and _over_channels(network, place) else (shape[0], shape[1])


def _over_channels(network: SymbolNetwork, place: int) -> bool:
    """Whether classes lie along axis 1: the softmax behind says so."""
    for node in network.symbol.nodes:
        if node.op in SOFTMAX and node.inputs and node.inputs[0][0] == place:
            return node.op != "softmax" or node.integer("axis", -1) == 1
    return False


def _head(network: SymbolNetwork, place: int, rows: int, columns: int) -> str:
    """The blob with a head as (N, priors, columns)."""
    name = network.value((place, 0))
    shape, made = network.made.shapes[name], network.made
    blob = made.blob(name)
    if shape == (columns, rows) and (rows != columns or _over_channels(network, place)):
        return made.add(f"{name}/rows", "Permute", blob, {"order": [0, 2, 1]})
    if len(shape) == 1:
        return made.add(f"{name}/rows", "Reshape", blob, {"shape": {"dim": [0, rows, columns]}})
    return blob


def _sources(symbol: Symbol, place: int) -> list[int]:
    """The nodes that make the anchors of each map, in order."""
    node = symbol.nodes[place]
    if node.op in ("Concat", "concat"):
        return [source for at, _ in node.inputs for source in _sources(symbol, at)]
    if node.op in REGROUPS:
        return _sources(symbol, node.inputs[0][0])
    if node.op == "slice_like" or node.op in PRIOR:
        return [place]
    raise node.fail(
        "anchors are made in a way that is not known", expected="slice_like of a stored table, or MultiBoxPrior"
    )


def _table(symbol: Symbol, place: int, tensors: Mapping[str, LazyTensor]) -> Array | None:
    """A stored table of anchors, (rows, columns, anchors, 4) centres and sides; None for MultiBoxPrior."""
    node = symbol.nodes[place]
    if node.op in PRIOR:
        return None
    tensor = tensors.get(symbol.nodes[node.inputs[0][0]].name)
    shape = () if tensor is None else tuple(tensor.shape)
    if tensor is None or len(shape) != 5 or shape[:2] != (1, 1) or shape[4] % 4 or min(shape[2:]) < 2:
        raise node.fail("is no table of anchors", expected="(1, 1, rows, columns, 4 * anchors)", got=shape)
    if tensor.nbytes > 1 << 28:
        raise node.fail("the table of anchors is larger than any network's", got=shape)
    return tensor.load().astype(np.float64).reshape(*shape[2:4], shape[4] // 4, 4)


def _grid(network: SymbolNetwork, place: int) -> tuple[int, int]:
    """Rows and columns of the map that a prior node is made for."""
    nodes = network.symbol.nodes
    node = nodes[place]
    at = node.inputs[0 if node.op in PRIOR else 1][0]
    for _ in range(64):
        shape = network.made.shapes.get(nodes[at].name)
        if shape is not None and len(shape) == 3:
            return shape[1], shape[2]
        if nodes[at].op not in (*NOTHING, "_mul_scalar", "zeros_like", "ones_like") or not nodes[at].inputs:
            break
        at = nodes[at].inputs[0][0]
    raise node.fail("which map the anchors belong to is not certain", got=nodes[at].name)


def _priors(
    network: SymbolNetwork, ends: SymbolEnds
) -> tuple[tuple[PriorMap, ...], dict[str, tuple[int, tuple[int, int] | None]]]:
    """The priors of every map, and the file's tables: which map, and ``_regular`` of it."""
    symbol = network.symbol
    maps: list[PriorMap] = []
    tables: dict[str, tuple[int, tuple[int, int] | None]] = {}
    for place in _sources(symbol, ends.anchors):
        node, grid = symbol.nodes[place], _grid(network, place)
        table = _table(symbol, place, network.tensors)
        if table is None:
            maps.append(_multibox_prior(node, grid, network.size))
            continue
        if node.integers("axes") != (2, 3) or grid[0] > table.shape[0] or grid[1] > table.shape[1]:
            raise node.fail("the stored anchors are too few for this map", expected=grid, got=table.shape[:2])
        step, offset = spacing(table)
        sides = tuple((float(w), float(h)) for w, h in table[0, 0, :, 2:])
        found = PriorMap(grid, step, sides, offset[0] if offset[0] == offset[1] else offset)
        tensor = network.tensors[symbol.nodes[node.inputs[0][0]].name]
        same = _regular(found, tensor)
        if same is None:
            found = _measured(table[: grid[0], : grid[1]], grid, network.size, node)
            same = _regular(found, tensor)
        tables[tensor.name] = (len(maps), same)
        maps.append(found)
    return tuple(maps), tables


def _measured(table: Array, grid: tuple[int, int], size: tuple[int, int], node: SymbolNode) -> PriorMap:
    """A map from the numbers of its anchors where the usual formula does not give them."""
    boxes = table.reshape(-1, 4) / (size[1], size[0], size[1], size[0])
    corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    rows = [(grid[0], grid[1], table.shape[2])]
    return prior_maps(corners, rows, size, (0.1, 0.1, 0.2, 0.2), node.where)[0]


def _regular(entry: PriorMap, tensor: LazyTensor) -> tuple[int, int] | None:
    """Rows and columns of a stored table that a map's formula gives to the last bit; None where it gives another."""
    if len(tensor.shape) != 5 or tensor.shape[4] != 4 * len(entry.box_sizes):
        return None
    made = table_of(entry, tensor.shape[2], tensor.shape[3]).astype(tensor.dtype)
    return (tensor.shape[2], tensor.shape[3]) if made.tobytes() == tensor.load().tobytes() else None


def _multibox_prior(node: SymbolNode, grid: tuple[int, int], size: tuple[int, int]) -> PriorMap:
    """MultiBoxPrior (src/operator/contrib/multibox_prior.cc): all sizes with the first ratio, then the other ratios with the first size.

    A box of size s and ratio r is s * rows / columns * sqrt(r) of the image wide and s / sqrt(r) high.
    """
    sizes, ratios = node.numbers("sizes", (1.0,)), node.numbers("ratios", (1.0,))
    steps, offsets = node.numbers("steps", (-1.0, -1.0)), node.numbers("offsets", (0.5, 0.5))
    if not sizes or not ratios or min(*sizes, *ratios) <= 0 or len(steps) != 2 or len(offsets) != 2:
        raise node.fail("sizes, ratios, steps or offsets that no priors have", got=f"{sizes}, {ratios}, {steps}")
    wide = grid[0] / grid[1]
    shapes = [(s, ratios[0]) for s in sizes] + [(sizes[0], r) for r in ratios[1:]]
    cells = tuple((s * wide * math.sqrt(r) * size[1], s / math.sqrt(r) * size[0]) for s, r in shapes)
    step = tuple(steps[k] * size[k] if min(steps) > 0 else size[k] / grid[k] for k in (0, 1))
    offset = offsets[0] if offsets[0] == offsets[1] else (offsets[0], offsets[1])
    clip: Literal["none", "corners"] = "corners" if node.flag("clip", False) else "none"
    return PriorMap(grid, (step[0], step[1]), cells, offset, clip, arithmetic="double")


def _rule(
    network: SymbolNetwork, ends: SymbolEnds, priors: tuple[PriorMap, ...]
) -> tuple[Postprocess, tuple[PriorMap, ...], tuple[Claim, ...]]:
    """The detection rule from the attributes of the nodes that make boxes, the priors with their variances, and who says so."""
    nodes = network.symbol.nodes
    node = nodes[ends.chooser]
    if ends.decoder < 0:
        variances = node.numbers("variances", (0.1, 0.1, 0.2, 0.2))
        threshold = node.number("nms_threshold", 0.5)
        background = node.integer("background_id", 0)
        if background != 0:
            raise node.fail("another background than class 0 is not supported", got=background)
        off = not 0 < threshold <= 1
        rule = Postprocess(
            score_threshold=node.number("threshold", 0.01),
            score_inclusive=True,
            top_k=node.integer("nms_topk", -1),
            top_k_scope="image",
            nms_threshold=2.0 if off else threshold,
            nms_inclusive=True,
            keep_top_k=-1,
            clip="before_nms" if node.flag("clip", True) else "none",
            nms_scope="image" if node.flag("force_suppress", False) else "best",
        )
        word = (
            "each prior's best class, boxes of all classes" if rule.nms_scope == "image" else "each prior's best class"
        )
    else:
        decode = nodes[ends.decoder]
        if decode.text("format", "corner") != "center":
            raise decode.fail(
                "anchors are read as corners", expected="format center", got=decode.text("format", "corner")
            )
        variances = tuple(decode.number(f"std{k}", 1.0) for k in range(4))
        cap = decode.number("clip", -1.0)
        if node.text("in_format", "corner") != "corner" or node.integer("background_id", -1) >= 0:
            raise node.fail("box_nms with another box format or a background is not supported")
        scores = nodes[ends.scores]
        softmax = scores.op in SOFTMAX
        least = [n.number("scalar", 0.0) for n in nodes if n.op == "_greater_scalar"]
        valid = node.number("valid_thresh", 0.0)
        rule = Postprocess(
            activation="softmax" if softmax else "sigmoid",
            background=_background(network, ends),
            score_threshold=max([valid, *least]),
            top_k=node.integer("topk", -1),
            top_k_scope="image",
            nms_threshold=node.number("overlap_thresh", 0.5),
            keep_top_k=_most(network.symbol, ends.chooser),
            max_exponent=cap if cap > 0 else None,
        )
        if node.flag("force_suppress", False) or node.integer("id_index", -1) < 0:
            raise node.fail("suppression across classes is not supported with box_nms", expected="force_suppress False")
        word = "within each class"
    if len(variances) != 4 or min(variances) <= 0:
        raise node.fail("variances that no decoder has", got=variances)
    four = (variances[0], variances[1], variances[2], variances[3])
    sides = ", ".join(plain((entry.box_sizes[0][0],)) for entry in priors)
    total = sum(entry.count for entry in priors)
    made = (
        "MultiBoxPrior's attributes"
        if nodes[_sources(network.symbol, ends.anchors)[0]].op in PRIOR
        else "stored anchors"
    )
    claims = (
        Claim("priors", "stated", f"{total} priors of {len(priors)} maps from {made}, of sides {sides} …"),
        Claim(
            "detection rule", "stated",
            f"{node.op}: score {'>=' if rule.score_inclusive else '>'} {rule.score_threshold:g}, "
            f"IoU {'>=' if rule.nms_inclusive else '>'} {rule.nms_threshold:g}, {word}, "
            f"best {rule.top_k} before and {rule.keep_top_k} after, variances {four}",
        ),
        Claim("classes", "stated", f"{network.made.shapes[network.value((ends.conf, 0))]} class outputs; the symbol holds no names",
              "classes"),
    )  # fmt: skip
    return rule, tuple(replace(entry, variances=four) for entry in priors), claims


def _background(network: SymbolNetwork, ends: SymbolEnds) -> int | None:
    """0 where the decoder leaves the first column out, None where it takes all."""
    starts = set()
    for node in network.symbol.nodes:
        if node.op == "slice_axis" and node.inputs and node.inputs[0][0] == ends.scores:
            last = node.integer("axis", -1) in (-1, 2)
            if not last:
                raise node.fail("class scores are cut along another axis than the classes")
            if not node.text("end"):
                starts.add(node.integer("begin", 0))
    if starts == {1}:
        return 0
    if starts in ({0}, set()):
        return None
    raise FormatError("which class is the background is not certain", where=network.symbol.file, got=sorted(starts))


def _most(symbol: Symbol, chooser: int) -> int:
    """How many rows behind box_nms are kept, -1 for all."""
    found = set()
    for node in symbol.nodes:
        if node.op == "slice_axis" and node.inputs and node.inputs[0][0] == chooser and node.integer("axis", 0) == 1:
            if node.integer("begin", 0) != 0:
                raise node.fail("leaves the best boxes out", got=node.text("begin"))
            found.add(node.integer("end", -1) if node.text("end") else -1)
    if len(found) > 1:
        raise FormatError("how many boxes an image keeps is not certain", where=symbol.file, got=sorted(found))
    return found.pop() if found else -1
