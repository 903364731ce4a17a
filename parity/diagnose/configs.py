"""Known mistakes that no stored tensor shows: in pixels, layers, prior boxes and detection rule; ``TABLE`` has all there are.

Each is a function of the network and, where it is known, the truth's config: it proposes changes, the truth's values first, then
those that other sources have. They are tried in the order in which they stand here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any, Literal, get_args

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
from ssdconv.ssd_ref.box_sizes import caffe_box_sizes
from ssdconv.ssd_ref.config import ConvSpec, L2NormSpec, Preprocess, PriorMap, Resize, SSDConfig, Staged
from ssdconv.ssd_ref.networks.registry import builders
from ssdconv.ssd_ref.networks.registry import networks as all_networks

Truth = SSDConfig | None
Changes = Iterator[tuple[str, Change]]
Propose = Callable[[Net, Truth], Changes]
Numbers = tuple[float, ...]
Cells = tuple[tuple[float, float], ...]

CONFIGS: list[ConfigHypothesis] = []
"""Every mistake of this file."""
FIX_PIXELS = "set `pixels` of the config as the source has it, or convert again naming the network: `--network NAME`"
FIX_NETWORK = "convert again naming the network: `ssdconv convert SOURCE out.pth --network NAME`"


def mistake(name: str, title: str, explanation: str, where: str, *touches: Role) -> Callable[[Propose], Propose]:
    """Make a hypothesis of a function that proposes changes; the fields are ``Mistake``'s."""
    kind, fix = ("pixels", FIX_PIXELS) if touches == ("input",) else ("config", FIX_NETWORK)

    def keep(propose: Propose) -> Propose:
        CONFIGS.append(
            ConfigHypothesis(name, title, explanation, where, kind, frozenset(touches), fix, propose)  # type: ignore[arg-type]
        )
        return propose

    return keep


Part = Literal["pixels", "detect"]


def _set(part: Part, **values: Any) -> Change:
    """Set fields of the pixels or of the detection rule."""
    return lambda net: replace(net, config=replace(net.config, **{part: replace(getattr(net.config, part), **values)}))


def _others(net: Net, truth: Truth, part: Part, field: str, known: Sequence[Any]) -> Iterator[tuple[Any, Any, Change]]:
    """(own value, another, the change to it): the truth's, then those that other sources have."""
    own = getattr(getattr(net.config, part), field)
    told = [getattr(getattr(truth, part), field)] if truth is not None else []
    for value in dict.fromkeys([*told, *known]):
        if value != own:
            yield own, value, _set(part, **{field: value})


def _text(values: Numbers) -> str:
    return ", ".join(f"{v:g}" for v in values)


# Pixels.

MEANS: tuple[Numbers, ...] = (
    (104.0, 117.0, 123.0),
    (103.939, 116.779, 123.68),
    (103.94, 116.78, 123.68),
    (127.5, 127.5, 127.5),
    (0.406, 0.456, 0.485),
    (0.0, 0.0, 0.0),
)
"""Means in BGR: Caffe's SSD, keras.applications, SSD.TensorFlow, MobileNet-SSD, ImageNet on 0..1, none."""
STDS: tuple[Numbers, ...] = ((1.0, 1.0, 1.0), (0.225, 0.224, 0.229), (127.5, 127.5, 127.5))
SCALES = (1.0, 0.007843, 1 / 127.5, 1 / 255.0)


def _other_order(pixels: Preprocess) -> Literal["RGB", "BGR"]:
    return "RGB" if pixels.order == "BGR" else "BGR"


def _of_channels(known: Sequence[Numbers], pixels: Preprocess) -> list[Numbers]:
    """Means or deviations in BGR as these pixels have them; of grey ones the middle."""
    if pixels.channels == 1:
        return [(bgr[1],) for bgr in known]
    return [bgr[::-1] if pixels.order == "RGB" else bgr for bgr in known]


@mistake(
    "pixel-order", "the image is fed in the other channel order",
    "OpenCV reads BGR and PIL reads RGB; feeding the wrong one costs about 5 mAP and raises no error.",
    f"{THREADS}amdegroot/ssd.pytorch/issues/44", "input",
)  # fmt: skip
def channel_order(net: Net, truth: Truth) -> Changes:
    """With the means going along or staying."""
    own = net.config.pixels
    if own.channels == 1:
        return
    other = _other_order(own)
    yield f"pixels are {own.order} instead of {other}", _set("pixels", order=other)
    if own.mean[::-1] != own.mean or own.std[::-1] != own.std:
        change = _set("pixels", order=other, mean=own.mean[::-1], std=own.std[::-1])
        yield f"pixels and mean are {own.order} instead of {other}", change


@mistake(
    "mean-order", "the mean is subtracted in the other channel order",
    "The means of red and blue differ by 19 levels, and are exchanged.",
    "fact: trap 2, mean order", "input",
)  # fmt: skip
def mean_order(net: Net, truth: Truth) -> Changes:
    """The deviation goes along."""
    own = net.config.pixels
    if own.mean[::-1] != own.mean or own.std[::-1] != own.std:
        change = _set("pixels", mean=own.mean[::-1], std=own.std[::-1])
        yield f"mean {_text(own.mean)} belongs to {_other_order(own)} pixels, these are {own.order}", change


@mistake(
    "mean", "another mean is subtracted",
    "Sources subtract different means (104, 117, 123; 103.94, 116.78, 123.68; 127.5; none).",
    f"{THREADS}weiliu89/caffe/issues/456", "input",
)  # fmt: skip
def mean(net: Net, truth: Truth) -> Changes:
    """The reversed one is ``mean_order``'s, unless the truth has it."""
    for own, value, change in _others(net, truth, "pixels", "mean", _of_channels(MEANS, net.config.pixels)):
        if value != own[::-1] or (truth is not None and value == truth.pixels.mean):
            yield f"mean {_text(own)} instead of {_text(value)}", change


@mistake(
    "scale", "pixels are scaled differently",
    "Some sources work on 0..255, some on 0..1 or -1..1 (MobileNet-SSD multiplies by 0.007843).",
    f"{THREADS}manishsoni1908/Mobilenet-ssd-keras/issues/12", "input",
)  # fmt: skip
def scale(net: Net, truth: Truth) -> Changes:
    """Another factor, or pixels of 0..1 for 0..255."""
    for own, value, change in _others(net, truth, "pixels", "scale", SCALES):
        yield f"pixels are multiplied by {own:g} instead of {value:g}", change
    for own, value, change in _others(net, truth, "pixels", "unit", (1.0, 255.0)):
        yield f"pixels are divided by {own:g} instead of {value:g}", change


@mistake(
    "std", "pixels are divided by another deviation",
    "GluonCV divides by ImageNet's deviation per channel, Caffe's SSD by nothing.",
    "fact: input pixels of GluonCV", "input",
)  # fmt: skip
def std(net: Net, truth: Truth) -> Changes:
    """Per channel."""
    for own, value, change in _others(net, truth, "pixels", "std", _of_channels(STDS, net.config.pixels)):
        yield f"deviation {_text(own)} instead of {_text(value)}", change


@mistake(
    "resize", "images are resized by another rule",
    "OpenCV, PIL, TensorFlow 1 and MXNet's interp=9 give different pixels; measured cost 2 to 3 mAP with PIL.",
    f"{THREADS}rwightman/pytorch-pretrained-gluonresnet/issues/1", "input",
)  # fmt: skip
def resize(net: Net, truth: Truth) -> Changes:
    """Every rule there is."""
    for own, value, change in _others(net, truth, "pixels", "resize", get_args(Resize)):
        yield f"resized by {own} instead of {value}", change


# Layers: what does not show in names and shapes of tensors.

EPS = (1e-5, 1e-3, 1.001e-5, 2e-5, 1e-4, 1e-6, 1e-10, 0.0)
L2_FORMS = ("inside", "outside", "max_inside", "max_norm")
L2_EPS = (1e-10, 1e-12, 1e-5)


@mistake(
    "pool-rounding", "pools round an odd side the other way",
    "Caffe's pools round up: pool3 makes 38 rows of 75 at 300 pixels; PyTorch's default rounds down.",
    "fact: trap 10, ceil_mode on pool3", "pool",
)  # fmt: skip
def rounding(net: Net, truth: Truth) -> Changes:
    """VGG's pools together, a graph's one by one."""
    if net.config.layers.kind == "vgg16":
        own = option(net, "rounding", "ceil")
        for value in get_args(Rounding):
            if value != own:
                yield f"pools round by {own!r} instead of {value!r}", options(rounding=value)
    for layer in graph_layers(net, ("Pooling",)):
        own = "FLOOR" if layer.params.get("round_mode") == "FLOOR" or layer.params.get("ceil_mode") is False else "CEIL"
        other = "CEIL" if own == "FLOOR" else "FLOOR"
        change = set_graph(("Pooling",), layer.name, {"ceil_mode": None, "round_mode": other})
        yield f"{layer.name} rounds by {own} instead of {other}", change


@mistake(
    "fc6-dilation", "fc6 has another dilation",
    "fc6 is 3x3 with dilation and padding 6; with 1 every shape is the same.",
    "fact: trap 11, fc6 dilation/pad 6", "conv",
)  # fmt: skip
def dilation(net: Net, truth: Truth) -> Changes:
    """And padding with it."""
    if net.config.layers.kind == "vgg16":
        own = option(net, "fc6_dilation", 6)
        for value in (6, 3, 1, 2, 4):
            if value != own:
                yield f"fc6 is dilated by {own} instead of {value}", options(fc6_dilation=value)
    for layer in graph_layers(net, ("Convolution",)):
        if "dilation" in layer.params or "fc6" in layer.name:
            held = next(iter(layer.params.get("dilation", [])), 1)
            for value in (6, 3, 1, 2):
                if value != held:
                    change = set_graph(("Convolution",), layer.name, {"dilation": [value], "pad": [value]})
                    yield f"{layer.name} is dilated by {held} instead of {value}", change


@mistake(
    "same-padding", "padding of strided layers is SAME where it should be symmetric, or the reverse",
    "TensorFlow's SAME pads even sides at the end only (0, 1), Caffe on both sides (1, 1): features move by a pixel.",
    f"{THREADS}microsoft/MMdnn/issues/660", "conv", "pool",
)  # fmt: skip
def padding(net: Net, truth: Truth) -> Changes:
    """The extra layers in which the truth differs; all strided ones, or one."""
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
        for some in ([names] if names and names != hit else []) + (
            [[name] for name in names] if len(names) > 1 else []
        ):
            yield f"{', '.join(some)}: {text}", extras(partial(_strided, names=some, wanted=wanted))


@mistake(
    "stride-place", "residual blocks stride in another convolution",
    "ResNet v1 strides in the first 1x1 convolution, v1b and v1s in the 3x3; the tensors are the same.",
    "fact: trap 17, stride of ResNet blocks", "conv",
)  # fmt: skip
def stride_place(net: Net, truth: Truth) -> Changes:
    """All blocks together."""
    staged = net.config.layers
    if not isinstance(staged, Staged) or staged.kind not in ("resnet", "keras_resnet50"):
        return
    default = staged.backbone.kind == "resnet" and option(net, "version", "v1") != "v1"
    own = option(net, "stride_in_3x3", None)
    own = default if own is None else own
    here, there = ("3x3", "first 1x1") if own else ("first 1x1", "3x3")
    yield f"blocks stride in the {here} convolution instead of the {there}", options(stride_in_3x3=not own)


@mistake(
    "pad-size", "a layer has another padding",
    "SSD512's conv10_2 is 4x4 with padding 1, which is easily lost.",
    "fact: trap 12, conv10_2 4x4 pad 1", "conv", "first",
)  # fmt: skip
def pad_size(net: Net, truth: Truth) -> Changes:
    """One extra layer, or one layer of a graph."""
    for spec in specs(net.config):
        if spec.kernel > 1:
            for value in (0, 1, 2, 3):
                if value != spec.padding and spec.padding != "same":
                    change = extras(partial(_padded, names=[spec.name], wanted=value))
                    yield f"{spec.name} pads {spec.padding} instead of {value}", change
    for layer in graph_layers(net, ("Convolution",)):
        kernel, pad = (next(iter(layer.params.get(k, [])), d) for k, d in (("kernel_size", 1), ("pad", 0)))
        for value in (0, 1, kernel // 2) if kernel > 1 else ():
            if value != pad:
                change = set_graph(("Convolution",), layer.name, {"pad": [value]})
                yield f"{layer.name} pads {pad} instead of {value}", change


@mistake(
    "bn-eps", "batch normalisation has another eps",
    "Sources differ: Caffe 1e-5, GluonCV's extra layers 1e-3, Keras 1e-3; small variances feel it.",
    "fact: traps 6 and 7, BN eps per system", "norm",
)  # fmt: skip
def eps(net: Net, truth: Truth) -> Changes:
    """One part of the network, or all of it."""
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
                    yield f"eps {own:g} instead of {value:g}", set_graph(kinds, None, {"eps": value})


@mistake(
    "fix-gamma", "gamma is used where the source fixes it to 1, or the reverse",
    "GluonCV's extra layers have MXNet's default fix_gamma=True, by accident: the stored gamma does not count.",
    f"{THREADS}dmlc/gluon-cv/pull/1072", "norm",
)  # fmt: skip
def gamma(net: Net, truth: Truth) -> Changes:
    """One part of the network."""
    for part, norm in norms(net).items():
        if part != "the backbone" or "norm" in net.config.layers.options:
            text = "counts as 1 instead of what is stored" if norm.fix_gamma else "is used where it counts as 1"
            yield f"gamma {text}, in {part}", set_norms(part, {"fix_gamma": not norm.fix_gamma})


@mistake(
    "l2norm-eps", "the L2 normalisation adds its eps elsewhere",
    "Caffe adds 1e-10 inside the root, ChainerCV 1e-5 outside, GluonCV 1e-5 inside; it shows where features are weak.",
    "fact: L2Norm on conv4_3 of Caffe, ChainerCV and GluonCV", "l2norm",
)  # fmt: skip
def l2norm(net: Net, truth: Truth) -> Changes:
    """Another eps, or another place for it."""
    held = net.config.layers.heads.l2norm if isinstance(net.config.layers, Staged) else {}
    told = list(truth.layers.heads.l2norm.values()) if truth is not None and isinstance(truth.layers, Staged) else []
    for index, own in held.items():
        grid = [L2NormSpec(e, form) for form in L2_FORMS for e in dict.fromkeys((own.eps, *L2_EPS))]  # type: ignore[arg-type]
        for spec in dict.fromkeys([*told, *grid]):
            if spec != own:
                text = f"eps {own.eps:g} {own.form} instead of {spec.eps:g} {spec.form}"
                yield text, _l2(index, spec)


@mistake(
    "activation", "another activation",
    "TensorFlow's MobileNet has ReLU6, Caffe's and GluonCV's ReLU.",
    "fact: MobileNet v1 of TensorFlow uses ReLU6", "act",
)  # fmt: skip
def layer_activation(net: Net, truth: Truth) -> Changes:
    """In the backbone, or in the extra layers."""
    staged = net.config.layers
    if not isinstance(staged, Staged):
        return
    if staged.backbone.kind == "mobilenet_v1":
        own = option(net, "activation", "relu")
        other = "relu" if own == "relu6" else "relu6"
        yield f"{own} instead of {other} in the backbone", options(activation=other)
    held = {s.activation for s in specs(net.config)}
    for own, other in (("relu", "relu6"), ("relu6", "relu"), ("none", "relu")):
        if own in held:
            yield f"{own} instead of {other} in the extra layers", extras(partial(_activated, own=own, other=other))


# Behind the heads: scores, prior boxes, variances and the detection rule.


@mistake(
    "score-activation", "class outputs become scores in another way",
    "Softmax over the classes and sigmoid per class give other scores, and other ranks, from the same outputs.",
    "fact: SSD's conf is softmax; some ports and face detectors use sigmoid", "scores",
)  # fmt: skip
def score_activation(net: Net, truth: Truth) -> Changes:
    """Softmax, sigmoid or nothing."""
    for own, value, change in _others(net, truth, "detect", "activation", ("softmax", "sigmoid", "none")):
        yield f"{own} instead of {value}", change


@mistake(
    "prior-order", "the prior boxes of a cell are in another order than the heads",
    "Heads answer for priors by position: jedol's Keras SSD has 2, 3, 1/2, 1/3, SSD.TensorFlow its extra square first.",
    "fact: trap 4, anchor permutation", "priors",
)  # fmt: skip
def prior_order(net: Net, truth: Truth) -> Changes:
    """The truth's order where it has the same ones, then known orders, then width for height."""
    if truth is not None and len(truth.priors) == len(net.config.priors):
        cells = [m.box_sizes for m in truth.priors]
        held = [m.box_sizes for m in net.config.priors]
        if held != cells and [len(c) for c in held] == [len(c) for c in cells] and _reordered(net.config.priors, cells):
            index = next(i for i, (a, b) in enumerate(zip(held, cells, strict=True)) if a != b)
            found = tuple(held[index].index(c) for c in cells[index])
            yield f"priors of a cell stand as {found} in map {index}", _cells(cells)
    for one in ANCHOR_ORDERS:
        if any(len(m.box_sizes) == len(one) for m in net.config.priors):
            for to in dict.fromkeys((one, tuple(one.index(i) for i in range(len(one))))):
                yield f"priors of a cell stand as {to}", _maps(partial(_ordered, to=to))
    yield (
        "priors of a cell are shifted by -1",
        _maps(lambda m: replace(m, box_sizes=(*m.box_sizes[-1:], *m.box_sizes[:-1]))),
    )
    yield (
        "priors of a cell are shifted by +1",
        _maps(lambda m: replace(m, box_sizes=(*m.box_sizes[1:], *m.box_sizes[:1]))),
    )
    yield "width and height are exchanged", _maps(lambda m: replace(m, box_sizes=tuple((h, w) for w, h in m.box_sizes)))


@mistake(
    "prior-truncation", "prior sizes are cut to whole pixels, or not",
    "Caffe casts sizes to integers (35.84 becomes 35): first-map boxes of SSD512 differ by 2.4 %, mAP hardly at all.",
    "fact: trap 14, int truncation at 512", "priors",
)  # fmt: skip
def prior_truncation(net: Net, truth: Truth) -> Changes:
    """The same table with differences below one pixel, then this table cut."""
    for name, cells in _tables(net, truth):
        if 0 < _gap(net.config.priors, cells) < 1.0:
            kept = net.config.priors[0].box_sizes[0][0]
            yield f"first size {kept:g} instead of {cells[0][0][0]:g} ({name})", _cells(cells)
    cut = [_cut(m) for m in net.config.priors]
    if all(c is not None for c in cut) and 0 < _gap(net.config.priors, [c for c in cut if c is not None]) < 4:
        yield "sizes are not cut to whole pixels", _cells([c for c in cut if c is not None])


@mistake(
    "prior-sizes", "prior boxes have another network's sizes",
    "VOC and COCO networks share all shapes and differ in prior sizes; GluonCV's 512 networks start at 51.2.",
    "fact: traps 15 and 16, VOC and COCO prior sizes", "priors",
)  # fmt: skip
def prior_sizes(net: Net, truth: Truth) -> Changes:
    """The truth's, or any named network's with as many priors per cell; differences of less than a pixel are truncation's."""
    for name, cells in _tables(net, truth):
        if _gap(net.config.priors, cells) >= 1.0 and not _reordered(net.config.priors, cells):
            firsts = ", ".join(f"{c[0][0]:g}" for c in cells[:3])
            own = ", ".join(f"{m.box_sizes[0][0]:g}" for m in net.config.priors[:3])
            yield f"sizes {own} … instead of {firsts} … ({name})", _cells(cells)


@mistake(
    "prior-clip", "prior boxes are clipped to the image, or not",
    "ssd.pytorch and torchvision clamp priors, Caffe does not: boxes of the coarsest maps differ, scores do not.",
    "fact: trap 13, prior clamp", "priors",
)  # fmt: skip
def prior_clip(net: Net, truth: Truth) -> Changes:
    """In one of two ways, or not."""
    own = {m.clip for m in net.config.priors}
    for value in ("none", "corners", "centers"):
        if own != {value}:
            yield f"clip {', '.join(sorted(own))!r} instead of {value!r}", _every_map(clip=value)


@mistake(
    "prior-steps", "prior boxes have other centres",
    "Steps are given (8, 16, 32 …) or follow from image over grid, and centres lie in the middle of a cell.",
    "fact: Caffe's prior boxes have steps, GluonCV's and Keras' follow from the grid", "priors",
)  # fmt: skip
def prior_steps(net: Net, truth: Truth) -> Changes:
    """The truth's steps, image over grid, or centres at the corner of a cell."""
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
            yield f"centres not at {value:g} of a cell", _every_map(offset=value)


@mistake(
    "box-variances", "box variances are applied twice or not at all",
    "Decoding multiplies by 0.1, 0.1, 0.2, 0.2 unless loc has them already (variance_encoded_in_target).",
    "fact: variances 0.1, 0.1, 0.2, 0.2 for all systems", "priors", "detections",
)  # fmt: skip
def box_variances(net: Net, truth: Truth) -> Changes:
    """Applied twice, not at all, doubled or halved."""
    told = [m.variances for m in truth.priors] if truth is not None else []
    own = {m.variances for m in net.config.priors}
    for value in dict.fromkeys([*told, (0.1, 0.1, 0.2, 0.2), (1.0, 1.0, 1.0, 1.0), (0.01, 0.01, 0.04, 0.04)]):
        if own != {value}:
            yield f"({_text(next(iter(own), value))}) instead of ({_text(value)})", _every_map(variances=value)
    encoded = net.config.detect.variance_encoded
    text = "taken as part of loc already" if encoded else "applied though they are part of loc already"
    yield text, _set("detect", variance_encoded=not encoded)


OF_OTHERS = {"activation", "background", "variance_encoded"}
"""Fields of the detection rule that other hypotheses change."""
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


@mistake(
    "detection-rule", "detections are chosen by another rule",
    "Score threshold, candidates before NMS, NMS threshold and limits differ between sources and between deploy and test nets.",
    "fact: traps 18 and 24; https://github.com/lufficc/SSD/issues/53", "detections",
)  # fmt: skip
def detection_rule(net: Net, truth: Truth) -> Changes:
    """One field: the truth's where it is known, else what other sources have."""
    for field in fields(net.config.detect):
        if field.name not in OF_OTHERS:
            known = KNOWN.get(field.name, ()) if truth is None else ()
            for own, value, change in _others(net, truth, "detect", field.name, known):
                yield f"{field.name} {own} instead of {value}", change


@mistake(
    "background", "another class counts as background",
    "Class 0 is background; taking another one for it reports background as objects and loses a class.",
    "fact: class 0 of every source is background", "detections",
)  # fmt: skip
def background_class(net: Net, truth: Truth) -> Changes:
    """The first, the last, or none."""
    for own, value, change in _others(net, truth, "detect", "background", (0, net.config.num_classes - 1, None)):
        yield f"class {own} instead of {value}", change


def _table(maps: Sequence[PriorMap]) -> Change:
    return lambda net: replace(net, config=replace(net.config, priors=tuple(maps)))


def _maps(change: Callable[[PriorMap], PriorMap]) -> Change:
    return lambda net: _table([change(m) for m in net.config.priors])(net)


def _every_map(**values: Any) -> Change:
    return _maps(lambda m: replace(m, **values))


def _cells(table: Sequence[Cells]) -> Change:
    return lambda net: _table([replace(m, box_sizes=c) for m, c in zip(net.config.priors, table, strict=True)])(net)


def _tables(net: Net, truth: Truth) -> Iterator[tuple[str, list[Cells]]]:
    """(network, cells per map) of the truth and of every named network that could be meant, each once."""
    counts = [len(m.box_sizes) for m in net.config.priors]
    seen = [[m.box_sizes for m in net.config.priors]]
    configs = [truth] if truth is not None else []
    configs += [builders(row.source)[row.name](row.name, None) for row in all_networks()]
    for config in configs:
        cells = [m.box_sizes for m in config.priors]
        if [len(c) for c in cells] == counts and cells not in seen:
            seen.append(cells)
            yield f"{config.name} of {config.source}", cells


def _gap(maps: Sequence[PriorMap], cells: Sequence[Cells]) -> float:
    """Largest difference of a cell's side in pixels."""
    pairs = zip([m.box_sizes for m in maps], cells, strict=True)
    return max((abs(a - b) for mine, theirs in pairs for p, q in zip(mine, theirs, strict=True) for a, b in zip(p, q, strict=True)), default=0.0)  # fmt: skip


def _reordered(maps: Sequence[PriorMap], cells: Sequence[Cells]) -> bool:
    pairs = zip([m.box_sizes for m in maps], cells, strict=True)
    return all(sorted(mine) == sorted(theirs) for mine, theirs in pairs)


def _cut(entry: PriorMap) -> Cells | None:
    """The cells that Caffe makes of a map with these sizes; None where they are not Caffe's."""
    if len(entry.box_sizes) not in (4, 6):
        return None
    low, middle = entry.box_sizes[0][0], entry.box_sizes[1][0]
    high = middle * middle / low if low > 0 else 0.0
    if not 1 <= low < high < math.inf:
        return None
    return caffe_box_sizes((low,), (round(high, 3),), (2, 3) if len(entry.box_sizes) == 6 else (2,))


def _ordered(entry: PriorMap, to: tuple[int, ...]) -> PriorMap:
    return replace(entry, box_sizes=tuple(entry.box_sizes[i] for i in to)) if len(entry.box_sizes) == len(to) else entry


def _first(maps: Sequence[PriorMap]) -> str:
    return ", ".join(f"{m.step[0]:g}" for m in maps[:4]) + " …"


def _padded(spec: ConvSpec, names: Collection[str], wanted: Any) -> ConvSpec:
    return replace(spec, padding=wanted) if spec.name in names else spec


def _strided(spec: ConvSpec, names: Collection[str], wanted: Any) -> ConvSpec:
    """Padded by SAME, or as a kernel of this size is on both sides."""
    return _padded(spec, names, spec.kernel // 2 if wanted != "same" and spec.kernel % 2 else wanted)


def _activated(spec: ConvSpec, own: Any, other: Any) -> ConvSpec:
    return replace(spec, activation=other) if spec.activation == own else spec


def _l2(index: Any, spec: L2NormSpec) -> Change:
    def on(staged: Staged) -> Staged:
        return replace(staged, heads=replace(staged.heads, l2norm={**staged.heads.l2norm, index: spec}))

    return lambda net: net.with_staged(on)


PIXEL_MISTAKES = [m for m in CONFIGS if m.kind == "pixels"]
TABLE: dict[str, Mistake] = {
    m.name: m for m in (*PIXEL_MISTAKES, *WEIGHTS, SWAPPED, HALF, CORRUPTED, *CONFIGS[len(PIXEL_MISTAKES) :])
}
"""Name -> hypothesis, of all."""
