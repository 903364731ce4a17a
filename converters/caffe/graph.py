"""Any SSD-family Caffe net as a config with a layer graph, and such a config as a deploy net.

Deploy, train and test nets are taken, and the train net that a released .caffemodel carries: only what loc and conf need
is kept, with the priors, the detection rule and the pixels that the net tells.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from ssdconv.converters.caffe.net import CaffeNet
from ssdconv.converters.caffe.parts import Parts
from ssdconv.converters.caffe.select import Selected, select
from ssdconv.converters.caffe.specs import layer_of
from ssdconv.converters.caffe.transform import channels_told, pixels
from ssdconv.converters.caffe.transform import input_size as find_input_size
from ssdconv.converters.caffe.wiring import INPUT
from ssdconv.errors import FormatError, SsdconvError, UsageError
from ssdconv.ssd_ref.caffe_layers.names import DEPTHWISE
from ssdconv.ssd_ref.caffe_layers.params import Params
from ssdconv.ssd_ref.config import LayerSpec, SSDConfig
from ssdconv.ssd_ref.evidence import INPUT_GIVEN, PRIORS_UNTOLD, Notice


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
            assert lent.graph is not None
            warnings = [w for w in warnings if w not in parts.found.told.warnings or w in lent.graph.warnings]
        else:
            warnings.append(Notice(PRIORS_UNTOLD, "the net does not tell its priors: raw outputs only, no boxes"))
    if other is not None:
        warnings += _differences(parts, other)
    graph = parts.graph(source, classes, tuple(warnings))
    return SSDConfig(name, "caffe", classes, prepared, priors, rule, graph=graph)


def graph_net(config: SSDConfig) -> CaffeNet:
    """The deploy net of a graph config: input, layers, tail; blob shapes included.

    Depthwise layer types of other Caffes are written as grouped Convolutions, which every reader knows.

    Raises:
        UsageError: the config has no layer graph.
    """
    graph = config.graph
    if graph is None:
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
