"""Any SSD-family Caffe net as a config with a layer graph, and such a config as a deploy net or as the named network that it is.

Deploy, train and test nets are taken, and the train net that a released .caffemodel carries. The net is taken apart into the layers
that make loc and conf, those that follow, and those that make priors; only these are kept, with the priors, the detection rule and the
pixels that the net tells. A graph is a named network when it computes the same, whatever blobs and layers without parameters are called.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import prod

from ssdconv.converters.caffe.heads import INPUT, Found, Selected, Value, Wiring, find, select, standard_tail
from ssdconv.converters.caffe.net import CaffeNet, Shape, layer_of
from ssdconv.converters.caffe.rule import channels_told, pixels, prior_map
from ssdconv.converters.caffe.rule import input_size as find_input_size
from ssdconv.converters.caffe.writer import deploy_net
from ssdconv.errors import FormatError, SsdconvError, UsageError
from ssdconv.ssd_ref.classes import names_for
from ssdconv.ssd_ref.config import Graph, LayerSpec, Preprocess, PriorMap, SSDConfig
from ssdconv.ssd_ref.evidence import INPUT_GIVEN, PRIORS_UNTOLD, Notice
from ssdconv.ssd_ref.graph.combine import joined_axis
from ssdconv.ssd_ref.graph.convolution import DEPTHWISE
from ssdconv.ssd_ref.graph.operation import NetShapes, infer, require_supported, supported
from ssdconv.ssd_ref.graph.params import Params
from ssdconv.ssd_ref.networks.caffe import NETWORKS

PRIOR_SIDE = frozenset({"PriorBox", "Concat", "Reshape", "Flatten", "Split"})
"""Types that may stand between a PriorBox and the detection layer."""
SHAPE_READERS = frozenset({"PriorBox"})
MAX_MAPS, MAX_DEPTH = 256, 16


@dataclass
class Parts:
    """One net being taken apart: which layers make loc and conf, which follow, which make priors.

    ``raw`` is as in ``heads.find``.
    """

    wiring: Wiring
    source: str
    input: Shape
    raw: bool = True

    def locate(self) -> None:
        """Find the ends and infer all shapes; nothing beyond the needed layers must be supported."""
        wiring = self.wiring
        self.prior_side = wiring.after(wiring.of_type("PriorBox"))
        self.found: Found = find(wiring, lambda: self._known_shapes(), raw=self.raw)
        self.core = wiring.needed(self.found.sources)
        self.rest = wiring.needed(self.found.ends) - self.core
        everything = sorted(self.core | self.rest)
        self.order = sorted(self.core)
        wiring.check_order(self.order, self.found.sources)
        wiring.check_order([*self.order, *sorted(self.rest)], skip=SHAPE_READERS)
        strange = [
            wiring.layers[i]
            for i in everything
            if i in self.prior_side and wiring.layers[i].type not in PRIOR_SIDE | {"DetectionOutput"}
        ]
        self.shapes = self._shapes(everything, tuple(strange), self.found.added)

    def _known_shapes(self) -> dict[str, Shape]:
        """Shapes of all blobs that supported layers alone lead to."""
        layers, known = self.wiring.layers, supported()
        blocked = self.wiring.after(i for i, spec in enumerate(layers) if spec.type not in known)
        return self._shapes([i for i in range(len(layers)) if i not in blocked]).blobs

    def _shapes(
        self, indices: list[int], strange: tuple[LayerSpec, ...] = (), added: tuple[LayerSpec, ...] = ()
    ) -> NetShapes:
        layers = [self.wiring.layers[i] for i in indices if i not in self.prior_side]
        layers = [spec for spec in layers if spec.type != "DetectionOutput"]
        require_supported([*layers, *strange])
        # In-place layers of the tail come last, so that ``added`` reads the values before them.
        return infer([*layers, *added], {self.source: self.input})

    def _with_blobs(self) -> dict[int, LayerSpec]:
        names = {spec.name: spec for spec in self.shapes.layers}
        return {i: names[spec.name] for i, spec in enumerate(self.wiring.layers) if spec.name in names}

    def priors(self) -> tuple[PriorMap, ...]:
        """Prior maps in the order in which the detection layer sees them."""
        return tuple(self._prior_maps(self.found.priors)) if self.found.priors is not None else ()

    def _prior_maps(self, value: Value, depth: int = 0) -> list[PriorMap]:
        spec = self.wiring.layers[value.maker] if value.maker != INPUT else None
        if spec is None or spec.type not in PRIOR_SIDE:
            made = f"layer {spec.name!r} ({spec.type})" if spec else f"input {value.name!r}"
            raise FormatError(
                "the priors do not come from PriorBox layers", where=made, got=spec.type if spec else None
            )
        if spec.type != "PriorBox":
            if depth > MAX_DEPTH:
                raise FormatError("priors are joined too many times", where=f"layer {spec.name!r} ({spec.type})")
            if spec.type == "Concat" and len(spec.bottoms) > 1:
                place = f"layer {spec.name!r} (Concat)"
                if joined_axis(Params(spec.params, place), "concat_dim", 3) != 2:
                    raise FormatError("priors are joined along another axis than 2", where=place)
            maps = [m for read in self.wiring.reads[value.maker] for m in self._prior_maps(read, depth + 1)]
            if len(maps) > MAX_MAPS:
                raise FormatError("more prior maps than any detector has", where=f"layer {spec.name!r} ({spec.type})")
            return maps
        shapes = [self.shapes.blobs.get(name, ()) for name in spec.bottoms]
        if len(shapes) != 2 or any(not 1 <= len(shape) <= 4 for shape in shapes):
            raise FormatError(
                "reads no feature map and image", where=f"layer {spec.name!r} (PriorBox)", got=tuple(shapes)
            )
        grid, image = ((*shape, 1, 1, 1)[2:4] for shape in shapes)  # axes that a blob lacks count as 1
        return [prior_map(spec, (grid[0], grid[1]), (image[0], image[1]))]

    def check(self, priors: tuple[PriorMap, ...]) -> int:
        """The class count, after checking that loc, conf and priors fit each other."""
        told = self.found.told
        for value in (self.found.loc, self.found.conf):
            if value.name not in self.shapes.blobs:
                raise FormatError("priors or detections stand where raw outputs should", where=f"blob {value.name!r}")
        loc, conf = (prod(self.shapes.blobs[v.name][1:]) for v in (self.found.loc, self.found.conf))
        self.loc_classes = 1 if told.rule.share_location else told.num_classes
        count = sum(m.count for m in priors) or loc // (4 * self.loc_classes)
        classes = told.num_classes or conf // max(count, 1)
        for what, value, got, per in (
            ("loc", self.found.loc, loc, 4 * self.loc_classes),
            ("conf", self.found.conf, conf, classes),
        ):
            if count * per != got:
                raise FormatError(
                    f"{what} does not fit the priors",
                    where=f"blob {value.name!r}",
                    expected=f"{count} priors of {per} values, {count * per} in all",
                    got=f"{got} for an input of {self.input[2]} x {self.input[3]}",
                )
        return classes

    def odd_softmax(self, classes: int) -> str:
        """Name of a softmax taken out that does not run over the classes of a prior; "" where all do."""
        for index in self.found.activations:
            spec = self.wiring.layers[index]
            if spec.type != "Softmax":
                continue
            shape = self.shapes.tops[spec.name][0]
            axis = Params(spec.params, f"layer {spec.name!r} (Softmax)").axis("axis", 1, len(shape))
            moved = any(s.type == "Permute" for s in self.found.added)
            if shape[axis] != classes or (prod(shape[axis + 1 :]) != 1 and not moved):
                return spec.name
        return ""

    def graph(self, source: str, classes: int, warnings: tuple[str, ...]) -> Graph:
        """The layer graph, with the tail of a deploy net."""
        found, blobs = self.found, self._with_blobs()
        layers = tuple(blobs[i] for i in self.order) + found.added
        tail = tuple(blobs.get(i, self.wiring.layers[i]) for i in sorted(self.rest))
        if self.wiring.of_type("MultiBoxLoss") and not self.wiring.of_type("DetectionOutput"):
            assert found.priors is not None
            taken = {n for spec in (*layers, *tail) for n in (spec.name, *spec.tops)}
            names = found.loc.name, found.conf.name, found.priors.name
            tail += standard_tail(*names, classes, found.told.rule, taken)
        used = self.core | self.rest
        dropped = tuple(
            spec.name for i, spec in enumerate(self.wiring.layers) if i not in used and spec.type != "MultiBoxLoss"
        )
        return Graph(
            input=source,
            layers=layers,
            loc=found.loc.name,
            conf=found.conf.name,
            loc_classes=self.loc_classes,
            tail=tail,
            added=tuple(spec.name for spec in found.added),
            dropped=dropped,
            warnings=warnings + ((f"layers not needed for detection: {', '.join(dropped)}",) if dropped else ()),
        )


def graph_config(
    net: CaffeNet,
    *,
    name: str,
    weights: CaffeNet | None = None,
    input_size: tuple[int, int] | None = None,
    untold_size: tuple[int, int] | None = None,
) -> SSDConfig:
    """The config of a Caffe net.

    Args:
        net: a deploy, test or train net.
        name: for the config.
        weights: the net inside the weight file; asked where ``net`` does not tell pixels, input size or priors.
        input_size: (height, width) in pixels to use instead of the net's own.
        untold_size: the same where the net tells none.

    Returns:
        The config; ``graph.warnings`` says what was assumed, ``graph.dropped`` which layers detection does not need.

    Raises:
        FormatError: no SSD, unsupported layers (all of them named), or sizes that do not fit together.
    """
    chosen = select(net)
    other = select(weights) if weights is not None and weights is not net else None
    source = _input_blob(chosen)
    data = chosen.data + (other.data if other else ())
    shape = chosen.inputs.get(source) or (other.inputs.get(source) if other else None) or ()
    told = find_input_size(shape, data, f"input {source!r}")
    size = input_size or told or untold_size
    if size is None:
        raise FormatError(
            "the net does not tell its input size",
            where=f"input {source!r}",
            hint="give the deploy prototxt, which names it in input_shape or input_dim, or --spec FILE with "
            "`input: {height: 300, width: 300}`",
        )
    channels = shape[1] if shape else channels_told(data) or _channels_read(source, chosen, weights or net)
    parts = Parts(chosen.wiring, source, (1, channels, *size))
    parts.locate()
    priors = parts.priors()
    classes = parts.check(priors)
    prepared, unsure = pixels(size, data, channels)
    if odd := parts.odd_softmax(classes):
        parts = replace(parts, raw=False)
        parts.locate()
        parts.check(priors)
    warnings = [*chosen.warnings, *parts.found.told.warnings, *unsure]
    if odd:
        text = "does not run over the classes of a prior: it stays a layer, and scores are taken as the net gives them"
        warnings.append(f"the softmax {odd!r} {text}")
    if told is None and untold_size is not None:
        warnings.append(Notice(INPUT_GIVEN, f"the net does not tell its input size: {size[1]}x{size[0]} as given"))
    rule = parts.found.told.rule
    if not priors:
        lent = _from_weights(weights, parts, size) if other else None
        if lent is not None:
            priors, rule = lent.priors, replace(lent.detect, activation=rule.activation)
            warnings = [w for w in warnings if w not in parts.found.told.warnings or w in lent.graph.warnings]
        else:
            warnings.append(Notice(PRIORS_UNTOLD, "the net does not tell its priors: raw outputs only, no boxes"))
    if other is not None:
        warnings += _differences(parts, other)
    graph = parts.graph(source, classes, tuple(warnings))
    return SSDConfig(name, "caffe", classes, prepared, priors, rule, layers=graph)


def graph_net(config: SSDConfig) -> CaffeNet:
    """The deploy net of a graph config: input, layers, tail; blob shapes included.

    Depthwise layer types of other Caffes are written as grouped Convolutions, which every reader knows.

    Raises:
        UsageError: the config has no layer graph.
    """
    graph = config.layers
    if not isinstance(graph, Graph):
        raise UsageError("the network is no layer graph", where=config.name)
    layers = [layer_of(_plain(spec)) for spec in graph.layers if spec.name not in graph.added]
    return CaffeNet(
        config.name,
        {graph.input: (1, config.pixels.channels, *config.pixels.size)},
        (*layers, *(layer_of(spec) for spec in graph.tail)),
    )


def _plain(spec: LayerSpec) -> LayerSpec:
    return replace(spec, type="Convolution") if spec.type in DEPTHWISE else spec


def _input_blob(chosen: Selected) -> str:
    """The blob that images come in by: the first one given that layers read, else the one that nothing writes."""
    wiring = chosen.wiring
    unwritten = [v.name for values in wiring.reads for v in values if v.maker == INPUT]
    for name in chosen.inputs:
        if name in unwritten:
            return name
    if not unwritten:
        raise FormatError("no layer reads an input", where="net", hint="is this a network definition?")
    return unwritten[0]


def _channels_read(source: str, chosen: Selected, weights: CaffeNet) -> int:
    """Channels of the input by the kernel of the convolution that reads it: 1 for grey, else 3."""
    kernels = {layer.name: layer.blobs[0] for layer in weights.layers if layer.blobs}
    for spec in chosen.wiring.layers:
        kernel = kernels.get(spec.name, ())
        if spec.type == "Convolution" and source in spec.bottoms and len(kernel) == 4:
            return 1 if kernel[1] * Params(spec.params, spec.name).integer("group", 1, low=1) == 1 else 3
    return 3


def _differences(parts: Parts, other: Selected) -> list[str]:
    """A warning where the weight file's own net has layers of the same names with other parameters."""
    theirs = {spec.name: spec for spec in other.wiring.layers if spec.type}  # weights may be stored without types
    names = [
        spec.name
        for spec in (parts.wiring.layers[i] for i in parts.order)
        if spec.name in theirs and (spec.type, spec.params) != (theirs[spec.name].type, theirs[spec.name].params)
    ]
    if not names:
        return []
    return [f"the weight file's own net has other parameters in {', '.join(names)}: the prototxt's are used"]


def _from_weights(weights: CaffeNet | None, parts: Parts, size: tuple[int, int]) -> SSDConfig | None:
    """The weight file's own config, where it tells priors that fit this net's outputs."""
    if weights is None:
        return None
    try:
        lent = graph_config(weights, name="", input_size=size)
    except SsdconvError:
        return None
    loc = prod(parts.shapes.blobs[parts.found.loc.name][1:])
    return lent if lent.priors and lent.num_priors * 4 * parts.loc_classes == loc else None


IDENTITY = frozenset({"Dropout", "Split"})
"""Layer types that pass their input through at test time."""


def signature(graph: Graph) -> str:
    """A hash that is equal for graphs that compute the same from equally named learned layers."""
    blobs = {graph.input: "input"}
    for layer in graph.layers:
        inputs = [blobs[b] for b in layer.bottoms]
        for index, top in enumerate(layer.tops):
            if layer.type in IDENTITY:
                blobs[top] = inputs[0]
                continue
            name = layer.name if layer.blobs else ""
            text = json.dumps([layer.type, name, index, dict(layer.params), inputs], sort_keys=True, default=list)
            blobs[top] = hashlib.sha256(text.encode()).hexdigest()
    return blobs[graph.loc] + blobs[graph.conf]


@cache
def _signature_of(name: str, num_classes: int) -> str:
    config = graph_config(deploy_net(NETWORKS[name](name, num_classes)), name=name)
    return signature(config.graph)


def named_networks(config: SSDConfig) -> Iterable[SSDConfig]:
    """Named networks (in this class count) with the same layers as a graph config."""
    mine = signature(config.graph)
    for name, build in NETWORKS.items():
        if _signature_of(name, config.num_classes) == mine:
            yield build(name, config.num_classes)


def as_named(config: SSDConfig) -> SSDConfig | None:
    """The staged form of a graph config, or None when its layers are of no named network.

    Priors and detection rule stay the file's; its name is the named network's whose priors it has, else "<family>_custom".
    """
    candidates = list(named_networks(config)) if config.pixels.channels == 3 else []
    if not candidates:
        return None
    same_priors = [c for c in candidates if same_boxes(c.priors, config.priors)]
    best = (same_priors or candidates)[0]
    if not config.priors:  # then the net ends before its boxes, and told no more of the rule than the activation
        return best if best.detect.activation == config.detect.activation else replace(best, detect=config.detect)
    return replace(
        best,
        name=best.name if same_priors else f"{best.name.replace('_voc', '').replace('_coco', '')}_custom",
        priors=best.priors if same_priors else config.priors,
        detect=config.detect,
        pixels=best.pixels if tells_nothing(config.pixels) else config.pixels,
        class_names=config.class_names or names_for(config.num_classes),
    )


def same_boxes(mine: Sequence[PriorMap], theirs: Sequence[PriorMap]) -> bool:
    """Whether two prior tables are equal up to the rounding of their float32 parameters."""
    if len(mine) != len(theirs):
        return False
    for a, b in zip(mine, theirs, strict=True):
        if (a.grid, a.clip, a.image, len(a.box_sizes)) != (b.grid, b.clip, b.image, len(b.box_sizes)):
            return False
        numbers = [
            (*m.step, *m.offsets, *m.variances, *(side for cell in m.box_sizes for side in cell)) for m in (a, b)
        ]
        if any(not math.isclose(x, y, rel_tol=1e-6) for x, y in zip(*numbers, strict=True)):
            return False
    return True


def tells_nothing(pixels: Preprocess) -> bool:
    """Whether a net definition left mean and scale unsaid."""
    return pixels == Preprocess(pixels.size, "GRAY" if pixels.channels == 1 else "BGR")
