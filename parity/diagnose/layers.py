"""Known mistakes in the layers: what does not show in names and shapes of tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_args

from ssdconv.parity.diagnose.edits import (
    Change,
    extras,
    graph_layers,
    norms,
    option,
    options,
    set_graph,
    set_norms,
    specs,
)
from ssdconv.parity.diagnose.hypothesis import THREADS, ConfigHypothesis
from ssdconv.parity.diagnose.net import Net
from ssdconv.ssd_ref.backbones.plain import Rounding
from ssdconv.ssd_ref.config import ConvSpec, L2NormSpec, SSDConfig, Staged

Changes = Iterator[tuple[str, Change]]

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


def activation(net: Net, truth: SSDConfig | None) -> Changes:
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


FIX = "convert again naming the network: `ssdconv convert SOURCE out.pth --network NAME`"

LAYERS: tuple[ConfigHypothesis, ...] = (
    ConfigHypothesis(
        "pool-rounding", "pools round an odd side the other way",
        "Caffe's pools round up: pool3 makes 38 rows of 75 at 300 pixels; PyTorch's default rounds down.",
        "fact: trap 10, ceil_mode on pool3", "config", frozenset({"pool"}), FIX, rounding,
    ),
    ConfigHypothesis(
        "fc6-dilation", "fc6 has another dilation",
        "fc6 is 3x3 with dilation and padding 6; with 1 every shape is the same.",
        "fact: trap 11, fc6 dilation/pad 6", "config", frozenset({"conv"}), FIX, dilation,
    ),
    ConfigHypothesis(
        "same-padding", "padding of strided layers is SAME where it should be symmetric, or the reverse",
        "TensorFlow's SAME pads even sides at the end only (0, 1), Caffe on both sides (1, 1): features move by a pixel.",
        f"{THREADS}microsoft/MMdnn/issues/660", "config", frozenset({"conv", "pool"}), FIX, padding,
    ),
    ConfigHypothesis(
        "stride-place", "residual blocks stride in another convolution",
        "ResNet v1 strides in the first 1x1 convolution, v1b and v1s in the 3x3; the tensors are the same.",
        "fact: trap 17, stride of ResNet blocks", "config", frozenset({"conv"}), FIX, stride_place,
    ),
    ConfigHypothesis(
        "pad-size", "a layer has another padding",
        "SSD512's conv10_2 is 4x4 with padding 1, which is easily lost.",
        "fact: trap 12, conv10_2 4x4 pad 1", "config", frozenset({"conv", "first"}), FIX, pad_size,
    ),
    ConfigHypothesis(
        "bn-eps", "batch normalisation has another eps",
        "Sources differ: Caffe 1e-5, GluonCV's extra layers 1e-3, Keras 1e-3; small variances feel it.",
        "fact: traps 6 and 7, BN eps per system", "config", frozenset({"norm"}), FIX, eps,
    ),
    ConfigHypothesis(
        "fix-gamma", "gamma is used where the source fixes it to 1, or the reverse",
        "GluonCV's extra layers have MXNet's default fix_gamma=True, by accident: the stored gamma does not count.",
        f"{THREADS}dmlc/gluon-cv/pull/1072", "config", frozenset({"norm"}), FIX, gamma,
    ),
    ConfigHypothesis(
        "l2norm-eps", "the L2 normalisation adds its eps elsewhere",
        "Caffe adds 1e-10 inside the root, ChainerCV 1e-5 outside, GluonCV 1e-5 inside; it shows where features are weak.",
        "fact: table 1.4, L2Norm on conv4_3", "config", frozenset({"l2norm"}), FIX, l2norm,
    ),
    ConfigHypothesis(
        "activation", "another activation",
        "TensorFlow's MobileNet has ReLU6, Caffe's and GluonCV's ReLU.",
        "fact: MobileNet v1 of TensorFlow uses ReLU6", "config", frozenset({"act"}), FIX, activation,
    ),
)  # fmt: skip
