"""Known mistakes that no stored tensor shows: in pixels, layers, prior boxes and detection rule; ``TABLE`` has all there are.

Each is a function of the network and, where it is known, the truth's config: it proposes changes, the truth's values first, then
those that other sources have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any, get_args

from ssdconv.parity.diagnose.hypothesis import (
    THREADS,
    Change,
    ConfigHypothesis,
    Mistake,
    Net,
    Role,
    extras,
    graph_layers,
    norms,
    option,
    options,
    set_graph,
    set_norms,
    specs,
)
from ssdconv.parity.diagnose.weights import ANCHOR_ORDERS, CORRUPTED, HALF, SWAPPED, WEIGHTS
from ssdconv.ssd_ref.backbones.plain import Rounding
from ssdconv.ssd_ref.cells import caffe_cells
from ssdconv.ssd_ref.config import ConvSpec, L2NormSpec, Preprocess, PriorMap, Resize, SSDConfig, Staged
from ssdconv.ssd_ref.networks.registry import builders
from ssdconv.ssd_ref.networks.registry import networks as all_networks

Changes = Iterator[tuple[str, Change]]
Triple = tuple[float, ...]

MEANS: tuple[Triple, ...] = (
    (104.0, 117.0, 123.0),
    (103.939, 116.779, 123.68),
    (103.94, 116.78, 123.68),
    (127.5, 127.5, 127.5),
    (0.406, 0.456, 0.485),
    (0.0, 0.0, 0.0),
)
"""Means in BGR: Caffe's SSD, keras.applications, SSD.TensorFlow, MobileNet-SSD, ImageNet on 0..1, none."""
STDS: tuple[Triple, ...] = ((1.0, 1.0, 1.0), (0.225, 0.224, 0.229), (127.5, 127.5, 127.5))
SCALES = (1.0, 0.007843, 1 / 127.5, 1 / 255.0)


def _set(**fields: Any) -> Callable[[Net], Net]:
    return lambda net: net.with_pixels(replace(net.config.pixels, **fields))


def _reversed(net: Net) -> Net:
    pixels = net.config.pixels
    return net.with_pixels(replace(pixels, order=_other(pixels), mean=pixels.mean[::-1], std=pixels.std[::-1]))


def _other(pixels: Preprocess) -> Any:
    return "RGB" if pixels.order == "BGR" else "BGR"


def _of_channels(bgr: Triple, pixels: Preprocess) -> Triple:
    """A mean or deviation in BGR as these pixels have it; of grey ones the middle."""
    return (bgr[1],) if pixels.channels == 1 else bgr[::-1] if pixels.order == "RGB" else bgr


def channel_order(net: Net, truth: SSDConfig | None) -> Changes:
    """The other channel order, with the means going along or staying."""
    own = net.config.pixels
    if own.channels == 1:
        return
    yield f"pixels are {own.order} instead of {_other(own)}", _set(order=_other(own))
    if own.mean[::-1] != own.mean or own.std[::-1] != own.std:
        yield f"pixels and mean are {own.order} instead of {_other(own)}", _reversed


def mean_order(net: Net, truth: SSDConfig | None) -> Changes:
    """Mean and deviation in the other order than the channels."""
    own = net.config.pixels
    if own.mean[::-1] != own.mean or own.std[::-1] != own.std:
        change = _set(mean=own.mean[::-1], std=own.std[::-1])
        yield f"mean {_text(own.mean)} belongs to {_other(own)} pixels, these are {own.order}", change


def mean(net: Net, truth: SSDConfig | None) -> Changes:
    """Other means, then the same with the unit that they belong to."""
    own = net.config.pixels
    asked = [truth.pixels.mean] if truth else []
    known = [_of_channels(m, own) for m in MEANS]
    for value in _new([*asked, *known], own.mean):
        if value != own.mean[::-1] or value in asked:
            yield f"mean {_text(own.mean)} instead of {_text(value)}", _set(mean=value)


def std(net: Net, truth: SSDConfig | None) -> Changes:
    """Other deviations."""
    own = net.config.pixels
    asked = [truth.pixels.std] if truth else []
    known = [_of_channels(s, own) for s in STDS]
    for value in _new([*asked, *known], own.std):
        yield f"deviation {_text(own.std)} instead of {_text(value)}", _set(std=value)


def scale(net: Net, truth: SSDConfig | None) -> Changes:
    """Another factor, or pixels of 0..1 for 0..255."""
    own = net.config.pixels
    for value in _new([*([truth.pixels.scale] if truth else []), *SCALES], own.scale):
        yield f"pixels are multiplied by {own.scale:g} instead of {value:g}", _set(scale=value)
    for unit in _new([*([truth.pixels.unit] if truth else []), 1.0, 255.0], own.unit):
        yield f"pixels are divided by {own.unit:g} instead of {unit:g}", _set(unit=unit)


def resize(net: Net, truth: SSDConfig | None) -> Changes:
    """Another resize rule."""
    own = net.config.pixels.resize
    asked = [truth.pixels.resize] if truth else []
    for rule in _new([*asked, *get_args(Resize)], own):
        yield f"resized by {own} instead of {rule}", _set(resize=rule)


def _new(values: list[Any], own: Any) -> Iterator[Any]:
    return iter(v for v in dict.fromkeys(values) if v != own)


def _text(values: Triple) -> str:
    return ", ".join(f"{v:g}" for v in values)


FIX_PIXELS = "set `pixels` of the config as the source has it, or convert again naming the network: `--network NAME`"
INPUT: frozenset[Role] = frozenset({"input"})

PIXELS: tuple[ConfigHypothesis, ...] = (
    ConfigHypothesis(
        "pixel-order", "the image is fed in the other channel order",
        "OpenCV reads BGR and PIL reads RGB; feeding the wrong one costs about 5 mAP and raises no error.",
        f"{THREADS}amdegroot/ssd.pytorch/issues/44", "pixels", INPUT, FIX_PIXELS, channel_order,
    ),
    ConfigHypothesis(
        "mean-order", "the mean is subtracted in the other channel order",
        "The means of red and blue differ by 19 levels, and are exchanged.",
        "fact: trap 2, mean order", "pixels", INPUT, FIX_PIXELS, mean_order,
    ),
    ConfigHypothesis(
        "mean", "another mean is subtracted",
        "Sources subtract different means (104, 117, 123; 103.94, 116.78, 123.68; 127.5; none).",
        f"{THREADS}weiliu89/caffe/issues/456", "pixels", INPUT, FIX_PIXELS, mean,
    ),
    ConfigHypothesis(
        "scale", "pixels are scaled differently",
        "Some sources work on 0..255, some on 0..1 or -1..1 (MobileNet-SSD multiplies by 0.007843).",
        f"{THREADS}manishsoni1908/Mobilenet-ssd-keras/issues/12", "pixels", INPUT, FIX_PIXELS, scale,
    ),
    ConfigHypothesis(
        "std", "pixels are divided by another deviation",
        "GluonCV divides by ImageNet's deviation per channel, Caffe's SSD by nothing.",
        "fact: input pixels of GluonCV", "pixels", INPUT, FIX_PIXELS, std,
    ),
    ConfigHypothesis(
        "resize", "images are resized by another rule",
        "OpenCV, PIL, TensorFlow 1 and MXNet's interp=9 give different pixels; measured cost 2 to 3 mAP with PIL.",
        f"{THREADS}rwightman/pytorch-pretrained-gluonresnet/issues/1", "pixels", INPUT, FIX_PIXELS, resize,
    ),
)  # fmt: skip


EPS = (1e-5, 1e-3, 1.001e-5, 2e-5, 1e-4, 1e-6, 1e-10, 0.0)
L2_FORMS = ("inside", "outside", "max_inside", "max_norm")
L2_EPS = (1e-10, 1e-12, 1e-5)


def rounding(net: Net, truth: SSDConfig | None) -> Changes:
    """How pools treat an odd side."""
    if net.config.staged is not None and net.config.staged.backbone.kind == "vgg16":
        own = option(net, "rounding", "ceil")
        for value in get_args(Rounding):
            if value != own:
                yield f"pools round by {own!r} instead of {value!r}", options(rounding=value)
    for layer in graph_layers(net, ("Pooling",)):
        own = "FLOOR" if layer.params.get("round_mode") == "FLOOR" or layer.params.get("ceil_mode") is False else "CEIL"
        other = "CEIL" if own == "FLOOR" else "FLOOR"
        change = set_graph(("Pooling",), layer.name, lambda p, o=other: {**_without(p, "ceil_mode"), "round_mode": o})  # type: ignore[misc]
        yield f"{layer.name} rounds by {own} instead of {other}", change


def _without(params: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in params.items() if k != key}


def padding(net: Net, truth: SSDConfig | None) -> Changes:
    """TensorFlow's SAME padding where the source pads both sides, or the reverse: all strided extra layers, or one."""
    told = {s.name: s.padding for s in specs(truth)}
    own = {s.name: s.padding for s in specs(net.config)}
    hit = [n for n in own if n in told and (told[n] == "same") != (own[n] == "same")]
    if hit:
        text = "symmetric instead of SAME" if told[hit[0]] == "same" else "SAME instead of symmetric"
        change = extras(lambda s: replace(s, padding=told[s.name]) if s.name in hit else s)
        yield f"{', '.join(hit)}: {text}", change
    strided = [s for s in specs(net.config) if s.stride > 1 and s.kernel > 1]
    for wanted, text in (("same", "symmetric instead of SAME"), (1, "SAME instead of symmetric")):
        names = [s.name for s in strided if (s.padding == "same") != (wanted == "same")]
        if names and names != hit:
            yield f"{', '.join(names)}: {text}", extras(lambda s, h=names, w=wanted: _padded(s, h, w))  # type: ignore[misc]
        if len(names) > 1:
            for name in names:
                yield f"{name}: {text}", extras(lambda s, h=[name], w=wanted: _padded(s, h, w))  # type: ignore[misc]


def _padded(spec: ConvSpec, names: list[str], wanted: Any) -> ConvSpec:
    return (
        replace(spec, padding=spec.kernel // 2 if wanted != "same" and spec.kernel % 2 else wanted)
        if spec.name in names
        else spec
    )


def pad_size(net: Net, truth: SSDConfig | None) -> Changes:
    """Another padding of one layer (conv10_2 of SSD512 is 4x4 with padding 1)."""
    for spec in specs(net.config):
        if spec.kernel > 1:
            for value in (0, 1, 2, 3):
                if value != spec.padding and spec.padding != "same":
                    change = extras(lambda s, n=spec.name, v=value: replace(s, padding=v) if s.name == n else s)  # type: ignore[misc]
                    yield f"{spec.name} pads {spec.padding} instead of {value}", change
    for layer in graph_layers(net, ("Convolution",)):
        kernel, pad = (next(iter(layer.params.get(k, [])), d) for k, d in (("kernel_size", 1), ("pad", 0)))
        for value in (0, 1, kernel // 2) if kernel > 1 else ():
            if value != pad:
                change = set_graph(("Convolution",), layer.name, lambda p, v=value: {**p, "pad": [v]})  # type: ignore[misc]
                yield f"{layer.name} pads {pad} instead of {value}", change


def dilation(net: Net, truth: SSDConfig | None) -> Changes:
    """fc6's dilation, and padding with it."""
    if net.config.staged is not None and net.config.staged.backbone.kind == "vgg16":
        own = option(net, "fc6_dilation", 6)
        for value in (6, 3, 1, 2, 4):
            if value != own:
                yield f"fc6 is dilated by {own} instead of {value}", options(fc6_dilation=value)
    for layer in graph_layers(net, ("Convolution",)):
        if "dilation" in layer.params or "fc6" in layer.name:
            held = next(iter(layer.params.get("dilation", [])), 1)
            for value in (6, 3, 1, 2):
                if value != held:
                    fields = {"dilation": [value], "pad": [value]}
                    change = set_graph(("Convolution",), layer.name, lambda p, f=fields: {**p, **f})  # type: ignore[misc]
                    yield f"{layer.name} is dilated by {held} instead of {value}", change


def stride_place(net: Net, truth: SSDConfig | None) -> Changes:
    """The stride of a residual block in its 3x3 or in its first 1x1 convolution."""
    staged = net.config.staged
    if staged is None or staged.backbone.kind not in ("resnet", "keras_resnet50"):
        return
    default = staged.backbone.kind == "resnet" and option(net, "version", "v1") != "v1"
    own = option(net, "stride_in_3x3", None)
    own = default if own is None else own
    here, there = ("3x3", "first 1x1") if own else ("first 1x1", "3x3")
    yield f"blocks stride in the {here} convolution instead of the {there}", options(stride_in_3x3=not own)


def eps(net: Net, truth: SSDConfig | None) -> Changes:
    """Another number inside the root of batch normalisation: one part of the network, or all of it."""
    parts = norms(net)
    told = [n.eps for n in norms(replace(net, config=truth)).values()] if truth is not None else []
    for part, norm in [*parts.items(), *([("every part", next(iter(parts.values())))] if len(parts) > 1 else [])]:
        for value in dict.fromkeys([*told, *EPS]):
            if value != norm.eps:
                yield f"eps {norm.eps:g} instead of {value:g} in {part}", set_norms(part, {"eps": value})
    for kinds, default in ((("BatchNorm",), 1e-5), (("Normalize",), 1e-10)):
        layers = graph_layers(net, kinds)
        if layers:
            own = layers[0].params.get("eps", default)
            for value in EPS:
                if value != own:
                    change = set_graph(kinds, None, lambda p, v=value: {**p, "eps": v})  # type: ignore[misc]
                    yield f"eps {own:g} instead of {value:g}", change


def gamma(net: Net, truth: SSDConfig | None) -> Changes:
    """Gamma counts as 1, or not."""
    for part, norm in norms(net).items():
        if part != "the backbone" or "norm" in (net.config.staged.backbone.options if net.config.staged else {}):
            text = "counts as 1 instead of what is stored" if norm.fix_gamma else "is used where it counts as 1"
            yield f"gamma {text}, in {part}", set_norms(part, {"fix_gamma": not norm.fix_gamma})


def l2norm(net: Net, truth: SSDConfig | None) -> Changes:
    """Another eps, or another place for it, in the L2 normalisation."""
    held = net.config.staged.heads.l2norm if net.config.staged else {}
    told = list(truth.staged.heads.l2norm.values()) if truth is not None and truth.staged else []
    for index, own in held.items():
        grid = [L2NormSpec(e, form) for form in L2_FORMS for e in dict.fromkeys((own.eps, *L2_EPS))]  # type: ignore[arg-type]
        for spec in dict.fromkeys([*told, *grid]):
            if spec != own:
                text = f"eps {own.eps:g} {own.form} instead of {spec.eps:g} {spec.form}"
                yield text, _l2(index, spec)


def _l2(index: Any, spec: L2NormSpec) -> Change:
    def on(staged: Staged) -> Staged:
        return replace(staged, heads=replace(staged.heads, l2norm={**staged.heads.l2norm, index: spec}))

    return lambda net: net.with_staged(on)


def layer_activation(net: Net, truth: SSDConfig | None) -> Changes:
    """ReLU6 for ReLU, or the reverse."""
    staged = net.config.staged
    if staged is None:
        return
    if staged.backbone.kind == "mobilenet_v1":
        own = option(net, "activation", "relu")
        other = "relu" if own == "relu6" else "relu6"
        yield f"{own} instead of {other} in the backbone", options(activation=other)
    held = {s.activation for s in specs(net.config)}
    for own, other in (("relu", "relu6"), ("relu6", "relu"), ("none", "relu")):
        if own in held:
            change = extras(lambda s, a=own, b=other: replace(s, activation=b) if s.activation == a else s)  # type: ignore[misc]
            yield f"{own} instead of {other} in the extra layers", change


FIX_NETWORK = "convert again naming the network: `ssdconv convert SOURCE out.pth --network NAME`"

LAYERS: tuple[ConfigHypothesis, ...] = (
    ConfigHypothesis(
        "pool-rounding", "pools round an odd side the other way",
        "Caffe's pools round up: pool3 makes 38 rows of 75 at 300 pixels; PyTorch's default rounds down.",
        "fact: trap 10, ceil_mode on pool3", "config", frozenset({"pool"}), FIX_NETWORK, rounding,
    ),
    ConfigHypothesis(
        "fc6-dilation", "fc6 has another dilation",
        "fc6 is 3x3 with dilation and padding 6; with 1 every shape is the same.",
        "fact: trap 11, fc6 dilation/pad 6", "config", frozenset({"conv"}), FIX_NETWORK, dilation,
    ),
    ConfigHypothesis(
        "same-padding", "padding of strided layers is SAME where it should be symmetric, or the reverse",
        "TensorFlow's SAME pads even sides at the end only (0, 1), Caffe on both sides (1, 1): features move by a pixel.",
        f"{THREADS}microsoft/MMdnn/issues/660", "config", frozenset({"conv", "pool"}), FIX_NETWORK, padding,
    ),
    ConfigHypothesis(
        "stride-place", "residual blocks stride in another convolution",
        "ResNet v1 strides in the first 1x1 convolution, v1b and v1s in the 3x3; the tensors are the same.",
        "fact: trap 17, stride of ResNet blocks", "config", frozenset({"conv"}), FIX_NETWORK, stride_place,
    ),
    ConfigHypothesis(
        "pad-size", "a layer has another padding",
        "SSD512's conv10_2 is 4x4 with padding 1, which is easily lost.",
        "fact: trap 12, conv10_2 4x4 pad 1", "config", frozenset({"conv", "first"}), FIX_NETWORK, pad_size,
    ),
    ConfigHypothesis(
        "bn-eps", "batch normalisation has another eps",
        "Sources differ: Caffe 1e-5, GluonCV's extra layers 1e-3, Keras 1e-3; small variances feel it.",
        "fact: traps 6 and 7, BN eps per system", "config", frozenset({"norm"}), FIX_NETWORK, eps,
    ),
    ConfigHypothesis(
        "fix-gamma", "gamma is used where the source fixes it to 1, or the reverse",
        "GluonCV's extra layers have MXNet's default fix_gamma=True, by accident: the stored gamma does not count.",
        f"{THREADS}dmlc/gluon-cv/pull/1072", "config", frozenset({"norm"}), FIX_NETWORK, gamma,
    ),
    ConfigHypothesis(
        "l2norm-eps", "the L2 normalisation adds its eps elsewhere",
        "Caffe adds 1e-10 inside the root, ChainerCV 1e-5 outside, GluonCV 1e-5 inside; it shows where features are weak.",
        "fact: table 1.4, L2Norm on conv4_3", "config", frozenset({"l2norm"}), FIX_NETWORK, l2norm,
    ),
    ConfigHypothesis(
        "activation", "another activation",
        "TensorFlow's MobileNet has ReLU6, Caffe's and GluonCV's ReLU.",
        "fact: MobileNet v1 of TensorFlow uses ReLU6", "config", frozenset({"act"}), FIX_NETWORK, layer_activation,
    ),
)  # fmt: skip


Maps = tuple[PriorMap, ...]
Four = tuple[float, float, float, float]

STANDARD: Four = (0.1, 0.1, 0.2, 0.2)


def _priors(change: Callable[[PriorMap], PriorMap]) -> Change:
    return lambda net: replace(net, config=replace(net.config, priors=tuple(change(m) for m in net.config.priors)))


def _table(maps: Maps) -> Change:
    return lambda net: replace(net, config=replace(net.config, priors=maps))


def _rule(**values: Any) -> Change:
    return lambda net: replace(net, config=replace(net.config, detect=replace(net.config.detect, **values)))


def score_activation(net: Net, truth: SSDConfig | None) -> Changes:
    """Softmax, sigmoid or nothing."""
    own = net.config.detect.activation
    for value in ("softmax", "sigmoid", "none"):
        if value != own:
            yield f"{own} instead of {value}", _rule(activation=value)


def prior_sizes(net: Net, truth: SSDConfig | None) -> Changes:
    """Cells of the truth, or of any named network with as many priors per cell; differences of less than a pixel are truncation's."""
    for name, cells in _tables(net, truth):
        if _gap(net.config.priors, cells) >= 1.0 and not _reordered(net.config.priors, cells):
            firsts = ", ".join(f"{c[0][0]:g}" for c in cells[:3])
            own = ", ".join(f"{m.cells[0][0]:g}" for m in net.config.priors[:3])
            yield f"sizes {own} … instead of {firsts} … ({name})", _cells(cells)


def prior_truncation(net: Net, truth: SSDConfig | None) -> Changes:
    """Sizes cut to whole pixels, or not: the same table with differences below one pixel, then this table cut."""
    for name, cells in _tables(net, truth):
        if 0 < _gap(net.config.priors, cells) < 1.0:
            kept = net.config.priors[0].cells[0][0]
            yield f"first size {kept:g} instead of {cells[0][0][0]:g} ({name})", _cells(cells)
    cut = [_cut(m) for m in net.config.priors]
    if all(c is not None for c in cut) and 0 < _gap(net.config.priors, [c for c in cut if c is not None]) < 4:
        yield "sizes are not cut to whole pixels", _cells([c for c in cut if c is not None])


Cells = tuple[tuple[float, float], ...]


def _cells(table: Sequence[Cells]) -> Change:
    def change(net: Net) -> Net:
        maps = tuple(replace(m, cells=c) for m, c in zip(net.config.priors, table, strict=True))
        return _table(maps)(net)

    return change


def _tables(net: Net, truth: SSDConfig | None) -> Iterator[tuple[str, list[Cells]]]:
    """(network, cells per map) of the truth and of every named network that could be meant, each once."""
    counts = [len(m.cells) for m in net.config.priors]
    seen = [[m.cells for m in net.config.priors]]
    configs = [truth] if truth is not None else []
    configs += [builders(row.source)[row.name](row.name, None) for row in all_networks()]
    for config in configs:
        cells = [m.cells for m in config.priors]
        if [len(c) for c in cells] == counts and cells not in seen:
            seen.append(cells)
            yield f"{config.name} of {config.source}", cells


def _gap(maps: Sequence[PriorMap], cells: Sequence[Cells]) -> float:
    """Largest difference of a cell's side in pixels."""
    pairs = zip([m.cells for m in maps], cells, strict=True)
    return max((abs(a - b) for mine, theirs in pairs for p, q in zip(mine, theirs, strict=True) for a, b in zip(p, q, strict=True)), default=0.0)  # fmt: skip


def _reordered(maps: Sequence[PriorMap], cells: Sequence[Cells]) -> bool:
    pairs = zip([m.cells for m in maps], cells, strict=True)
    return all(sorted(mine) == sorted(theirs) for mine, theirs in pairs)


def _cut(entry: PriorMap) -> Cells | None:
    """The cells that Caffe makes of a map with these sizes; None where they are not Caffe's."""
    if len(entry.cells) not in (4, 6):
        return None
    low, middle = entry.cells[0][0], entry.cells[1][0]
    high = middle * middle / low if low > 0 else 0.0
    if not 1 <= low < high < math.inf:
        return None
    return caffe_cells((low,), (round(high, 3),), (2, 3) if len(entry.cells) == 6 else (2,))


def prior_clip(net: Net, truth: SSDConfig | None) -> Changes:
    """Priors clipped to the image in one of two ways, or not."""
    own = {m.clip for m in net.config.priors}
    for value in ("none", "corners", "centers"):
        if own != {value}:
            text = f"clip {', '.join(sorted(own))!r} instead of {value!r}"
            yield text, _priors(lambda m, v=value: replace(m, clip=v))  # type: ignore[misc]


def prior_order(net: Net, truth: SSDConfig | None) -> Changes:
    """The cells' own priors in another order: the truth's where it has the same ones, then known orders, then width for height."""
    if truth is not None and len(truth.priors) == len(net.config.priors):
        cells = [m.cells for m in truth.priors]
        held = [m.cells for m in net.config.priors]
        if held != cells and [len(c) for c in held] == [len(c) for c in cells] and _reordered(net.config.priors, cells):
            index = next(i for i, (a, b) in enumerate(zip(held, cells, strict=True)) if a != b)
            found = tuple(held[index].index(c) for c in cells[index])
            yield f"priors of a cell stand as {found} in map {index}", _cells(cells)
    for one in ANCHOR_ORDERS:
        if any(len(m.cells) == len(one) for m in net.config.priors):
            for to in dict.fromkeys((one, tuple(one.index(i) for i in range(len(one))))):
                yield f"priors of a cell stand as {to}", _priors(lambda m, o=to: _ordered(m, o))  # type: ignore[misc]
    for shift in (1, -1):
        text = f"priors of a cell are shifted by {-shift:+d}"
        yield text, _priors(lambda m, s=shift: replace(m, cells=(*m.cells[-s:], *m.cells[:-s])))  # type: ignore[misc]
    yield "width and height are exchanged", _priors(lambda m: replace(m, cells=tuple((h, w) for w, h in m.cells)))


def _ordered(entry: PriorMap, to: tuple[int, ...]) -> PriorMap:
    return replace(entry, cells=tuple(entry.cells[i] for i in to)) if len(entry.cells) == len(to) else entry


def prior_steps(net: Net, truth: SSDConfig | None) -> Changes:
    """Centres: the truth's steps, image over grid, or centres at the corner of a cell."""
    height, width = net.config.pixels.size
    if truth is not None and len(truth.priors) == len(net.config.priors):
        told = [m.step for m in truth.priors]
        if told != [m.step for m in net.config.priors]:
            maps = tuple(replace(m, step=s) for m, s in zip(net.config.priors, told, strict=True))
            yield f"steps {_first(net.config.priors)} instead of {_first(truth.priors)}", _table(maps)
    even = tuple(replace(m, step=(height / m.grid[0], width / m.grid[1])) for m in net.config.priors)
    if even != net.config.priors:
        yield "steps given instead of image over grid", _table(even)
    for value in (0.5, 0.0):
        if any(m.offsets != (value, value) for m in net.config.priors):
            yield f"centres not at {value:g} of a cell", _priors(lambda m, v=value: replace(m, offset=v))  # type: ignore[misc]


def _first(maps: Sequence[PriorMap]) -> str:
    return ", ".join(f"{m.step[0]:g}" for m in maps[:4]) + " …"


def box_variances(net: Net, truth: SSDConfig | None) -> Changes:
    """Variances applied twice, not at all, doubled or halved."""
    told = list(dict.fromkeys(m.variances for m in truth.priors)) if truth is not None else []
    known: list[Four] = [*told, STANDARD, (1.0, 1.0, 1.0, 1.0), (0.01, 0.01, 0.04, 0.04)]
    own = {m.variances for m in net.config.priors}
    for value in dict.fromkeys(known):
        if own != {value}:
            text = f"{_text(next(iter(own), value))} instead of {_text(value)}"
            yield text, _priors(lambda m, v=value: replace(m, variances=v))  # type: ignore[misc]
    encoded = net.config.detect.variance_encoded
    text = "taken as part of loc already" if encoded else "applied though they are part of loc already"
    yield text, _rule(variance_encoded=not encoded)


def _four(values: Four) -> str:
    return "(" + ", ".join(f"{v:g}" for v in values) + ")"


def background_class(net: Net, truth: SSDConfig | None) -> Changes:
    """Another class, or none, is background."""
    own = net.config.detect.background
    told = [truth.detect.background] if truth is not None else []
    for value in dict.fromkeys([*told, 0, net.config.num_classes - 1, None]):
        if value != own:
            yield f"class {own} instead of {value}", _rule(background=value)


OF_OTHERS = {"activation", "background", "variance_encoded"}
KNOWN: dict[str, tuple[Any, ...]] = {
    "score_threshold": (0.01, 0.25, 0.6, 0.05),
    "nms_threshold": (0.45, 0.5),
    "top_k": (400, 200, 100, -1),
    "top_k_scope": ("class", "image"),
    "keep_top_k": (200, 100, -1),
    "clip": ("none", "before_nms", "after"),
    "min_size": (0.0, 0.03),
    "code": ("center_size", "corner"),
}


def detection_rule(net: Net, truth: SSDConfig | None) -> Changes:
    """One number of the detection rule: the truth's where it is known, then what other sources have."""
    own = net.config.detect
    for field in fields(own):
        if field.name in OF_OTHERS:
            continue
        held = getattr(own, field.name)
        told = [getattr(truth.detect, field.name)] if truth is not None else list(KNOWN.get(field.name, ()))
        for value in dict.fromkeys(told):
            if value != held:
                yield f"{field.name} {held} instead of {value}", _rule(**{field.name: value})


BOXES: tuple[ConfigHypothesis, ...] = (
    ConfigHypothesis(
        "score-activation", "class outputs become scores in another way",
        "Softmax over the classes and sigmoid per class give other scores, and other ranks, from the same outputs.",
        "fact: SSD's conf is softmax; some ports and face detectors use sigmoid", "config", frozenset({"scores"}),
        FIX_NETWORK, score_activation,
    ),
    ConfigHypothesis(
        "prior-order", "the prior boxes of a cell are in another order than the heads",
        "Heads answer for priors by position: jedol's Keras SSD has 2, 3, 1/2, 1/3, SSD.TensorFlow its extra square first.",
        "fact: trap 4, anchor permutation", "config", frozenset({"priors"}), FIX_NETWORK, prior_order,
    ),
    ConfigHypothesis(
        "prior-truncation", "prior sizes are cut to whole pixels, or not",
        "Caffe casts sizes to integers (35.84 becomes 35): first-map boxes of SSD512 differ by 2.4 %, mAP hardly at all.",
        "fact: trap 14, int truncation at 512", "config", frozenset({"priors"}), FIX_NETWORK, prior_truncation,
    ),
    ConfigHypothesis(
        "prior-sizes", "prior boxes have another network's sizes",
        "VOC and COCO networks share all shapes and differ in prior sizes; GluonCV's 512 networks start at 51.2.",
        "fact: traps 15 and 16, VOC and COCO prior sizes", "config", frozenset({"priors"}), FIX_NETWORK, prior_sizes,
    ),
    ConfigHypothesis(
        "prior-clip", "prior boxes are clipped to the image, or not",
        "ssd.pytorch and torchvision clamp priors, Caffe does not: boxes of the coarsest maps differ, scores do not.",
        "fact: trap 13, prior clamp", "config", frozenset({"priors"}), FIX_NETWORK, prior_clip,
    ),
    ConfigHypothesis(
        "prior-steps", "prior boxes have other centres",
        "Steps are given (8, 16, 32 …) or follow from image over grid, and centres lie in the middle of a cell.",
        "fact: steps of table 1.2", "config", frozenset({"priors"}), FIX_NETWORK, prior_steps,
    ),
    ConfigHypothesis(
        "box-variances", "box variances are applied twice or not at all",
        "Decoding multiplies by 0.1, 0.1, 0.2, 0.2 unless loc has them already (variance_encoded_in_target).",
        "fact: variances 0.1, 0.1, 0.2, 0.2 for all systems", "config", frozenset({"priors", "detections"}),
        FIX_NETWORK, box_variances,
    ),
    ConfigHypothesis(
        "detection-rule", "detections are chosen by another rule",
        "Score threshold, candidates before NMS, NMS threshold and limits differ between sources and between deploy and test nets.",
        "fact: traps 18 and 24; https://github.com/lufficc/SSD/issues/53", "config", frozenset({"detections"}),
        FIX_NETWORK, detection_rule,
    ),
    ConfigHypothesis(
        "background", "another class counts as background",
        "Class 0 is background; taking another one for it reports background as objects and loses a class.",
        "fact: class 0 of every source is background", "config", frozenset({"detections"}), FIX_NETWORK, background_class,
    ),
)  # fmt: skip

CONFIGS: tuple[ConfigHypothesis, ...] = (*PIXELS, *LAYERS, *BOXES)
TABLE: dict[str, Mistake] = {m.name: m for m in (*PIXELS, *WEIGHTS, SWAPPED, HALF, CORRUPTED, *LAYERS, *BOXES)}
"""Name -> hypothesis, of all."""
