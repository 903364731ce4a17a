"""One network as data: frozen dataclasses that round-trip through JSON.

A config holds everything that detection needs besides the tensors: pixels, layers, priors and the detection rule.
It is what travels inside a checkpoint, so every field is plain data and nothing here imports torch.

Conventions, for every source: OIHW kernels, Caffe's anchor order within a cell (min, sqrt(min*max), 2, 1/2, 3, 1/3),
loc as (dx, dy, dw, dh), boxes as xyxy, background = class 0 unless ``Postprocess.background`` is None.

Every number has bounds, whoever made the config: far outside anything that was ever trained, and far inside what costs memory or time
to refuse later. Whether heads and priors fit is the network's own check.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import msgspec

from ssdconv.errors import FormatError
from ssdconv.ssd_ref.loss_rule import LossRule

Resize = Literal[
    "opencv_linear",
    "opencv_linear_float",
    "mxnet_9",
    "tf1_bilinear",
    "pil_bilinear",
    "torch_bilinear",
]


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes the input tensor: ``((x / unit) - mean) / std * scale`` after the resize.

    Attributes:
        size: input height and width in pixels.
        order: channel order the first layer expects; GRAY is one channel, OpenCV's BGR2GRAY of the picture.
        mean: subtracted, in ``order`` (one value for GRAY), in units of ``x / unit``.
        std: divides after the mean, in ``order`` (one value for GRAY).
        unit: 1.0 where the source works on 0..255, 255.0 where it works on 0..1.
        scale: multiplies last (Caffe's ``transform_param.scale``).
        resize: the source's resize rule; all of them warp (aspect ratio is not kept).
    """

    size: tuple[int, int]
    order: Literal["BGR", "RGB", "GRAY"] = "BGR"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    unit: float = 1.0
    scale: float = 1.0
    resize: Resize = "opencv_linear"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if self.channels == 1 and len(values) == 3 and len(set(values)) == 1:  # the defaults, or one number thrice
                object.__setattr__(self, name, values[:1])
            elif len(values) != self.channels:
                raise FormatError(
                    f"pixels.{name} does not fit the channels",
                    where=self.order,
                    expected=self.channels,
                    got=len(values),
                )

    @property
    def channels(self) -> int:
        """Channels of the input: 1 for GRAY, else 3."""
        return 1 if self.order == "GRAY" else 3


@dataclass(frozen=True)
class NormSpec:
    """Batch normalisation: ``(x - mean) / sqrt(var + eps) * gamma + beta``.

    Attributes:
        eps: added to the variance inside the root.
        fix_gamma: gamma counts as 1 whatever the file holds (MXNet ``fix_gamma``).
        accumulated: statistics are sums to be divided by a stored factor (Caffe's third blob; 0 means "all zero").
    """

    eps: float = 1e-5
    fix_gamma: bool = False
    accumulated: bool = False


@dataclass(frozen=True)
class L2NormSpec:
    """Channel-wise L2 normalisation with a learned scale per channel (ParseNet layer of SSD's conv4_3).

    Attributes:
        eps: the small number that keeps zero columns finite.
        form: where it stands: ``inside`` x/sqrt(sum+eps), ``outside`` x/(norm+eps), ``max_inside``
            x/sqrt(max(sum, eps)), ``max_norm`` x/max(norm, eps).
    """

    eps: float = 1e-10
    form: Literal["inside", "outside", "max_inside", "max_norm"] = "inside"


@dataclass(frozen=True)
class ConvSpec:
    """A convolution with optional batch normalisation and activation.

    ``padding`` is per side in pixels, or ``"same"`` for TensorFlow's rule (extra pixel at bottom and right).
    """

    name: str
    out_channels: int
    kernel: int = 3
    stride: int = 1
    padding: int | Literal["same"] = 0
    dilation: int = 1
    groups: int = 1
    bias: bool = True
    norm: NormSpec | None = None
    activation: Literal["relu", "relu6", "elu", "none"] = "relu"


@dataclass(frozen=True)
class Backbone:
    """A named feature extractor of ``ssd_ref.backbones``.

    Attributes:
        kind: its name.
        out_indices: the outputs that feed heads and extras, by the names of the units that make them. Stored as ``taps``.
        options: the keyword arguments of the backbone's builder (plain JSON values).
    """

    kind: str
    out_indices: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Extras:
    """Stages after the backbone; the output of each stage is one more source of heads.

    ``pool`` closes the road with one more source: ``"avg3"`` is jedol's 3x3 average pooling (pool8).
    """

    stages: tuple[tuple[ConvSpec, ...], ...] = ()
    pool: Literal["none", "avg3", "global"] = "none"


@dataclass(frozen=True)
class Heads:
    """One loc and one conf convolution per source.

    Attributes:
        kernel: kernel side of the head convolutions.
        padding: per side in pixels; None keeps the grid, 0 makes it smaller (ssd_keras' SSD7 before 2018-01-30).
        l2norm: source index -> L2 normalisation before that source's heads.
        bias: whether head convolutions have biases.
        before: heads start with a full convolution of their own, of which the layer behind is the predictor.
    """

    kernel: int = 3
    l2norm: Mapping[int, L2NormSpec] = field(default_factory=dict)
    bias: bool = True
    before: ConvSpec | None = None
    padding: int | None = None

    @property
    def pad(self) -> int:
        """Padding of the head convolutions per side, in pixels."""
        return self.kernel // 2 if self.padding is None else self.padding


@dataclass(frozen=True)
class Staged:
    """A network built from a named backbone, extras and heads."""

    backbone: Backbone
    extras: Extras = field(default_factory=Extras)
    heads: Heads = field(default_factory=Heads)

    @property
    def kind(self) -> str:
        """The backbone's name, for lists of networks and for what is true of one backbone only."""
        return self.backbone.kind

    @property
    def options(self) -> Mapping[str, Any]:
        """What the backbone is built with."""
        return self.backbone.options


@dataclass(frozen=True)
class LayerSpec:
    """One layer of a layer graph, in Caffe's terms; what Caffe has no word for, in Keras' (``ssd_ref.graph``).

    Attributes:
        name: unique layer name.
        type: Caffe V2 layer type ("Convolution", "Pooling", ...), or Keras class ("Conv2D", "MaxPooling2D", ...).
        bottoms: names of the blobs read.
        tops: names of the blobs written; equal to a bottom for in-place layers.
        params: the layer's own parameter message with defaults left out, as plain JSON
            (for a Convolution: ``{"num_output": 64, "kernel_size": [3], "pad": [1]}``).
        blobs: shapes of the learned tensors, in Caffe's order.
        shared: per blob, the ``param { name }`` under which it is shared, or "".
    """

    name: str
    type: str
    bottoms: tuple[str, ...] = ()
    tops: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    blobs: tuple[tuple[int, ...], ...] = ()
    shared: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceText:
    """The source's own text of a network, which the way back writes again, byte for byte.

    Attributes:
        text: the description as the file has it (Keras' ``model_config``).
        stored: reference tensor -> name of the file's tensor that fills it.
        facts: what else the file says about itself, as text (``keras_version``, ``backend``).
    """

    text: str
    stored: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """Any SSD-family layer graph from input blob to raw loc and conf.

    Attributes:
        input: name of the input blob (N, channels, height, width).
        layers: in execution order; PriorBox, DetectionOutput and what only feeds them are not among them.
        loc: blob with the box regressions, reshaped to (N, priors, 4).
        conf: blob with the class outputs before the final softmax, reshaped to (N, priors, classes).
        loc_classes: boxes per prior: 1, or the class count where classes do not share their boxes.
        tail: what follows loc and conf in a deploy net (PriorBox, softmax, DetectionOutput ...), in execution order.
        added: names of layers in ``layers`` that are no layers of the source: they regroup its blobs into ``conf``.
        dropped: names of the source's layers that detection does not need.
        warnings: what the source did not tell, and what was assumed instead.
        origin: the source's own description; None where the layers themselves are enough to write it again.
    """

    input: str
    layers: tuple[LayerSpec, ...]
    loc: str
    conf: str
    loc_classes: int = 1
    tail: tuple[LayerSpec, ...] = ()
    added: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    origin: SourceText | None = None

    @property
    def kind(self) -> str:
        """``graph``: no named backbone."""
        return "graph"

    @property
    def options(self) -> Mapping[str, Any]:
        """None: a graph is built from its layers alone."""
        return {}


@dataclass(frozen=True)
class PriorMap:
    """The priors of one feature map.

    Attributes:
        grid: rows and columns of the map.
        step: distance of cell centres in pixels of ``image``, (y, x).
        box_sizes: (width, height) in pixels of ``image`` of each prior of a cell, in the reference's anchor order. Stored as ``cells``.
        offset: centre within a cell, in steps: one number, or (y, x).
        clip: ``corners`` clips xyxy to the image (Caffe ``clip``), ``centers`` clamps cx, cy, w, h (ssd.pytorch),
            ``pixels`` works in pixels (ssd_keras): what reaches the image's far side goes to the last pixel's number
            (width - 1, height - 1), what is below 0 to 0.
        image: (height, width) of the image that step and cells refer to, None for the input (Caffe ``img_h``, ``img_w``).
        arithmetic: ``single`` is Caffe's (centres in float32), ``double`` is NumPy's: all in float64, one rounding at the end.
    """

    grid: tuple[int, int]
    step: tuple[float, float]
    box_sizes: tuple[tuple[float, float], ...]
    offset: float | tuple[float, float] = 0.5
    clip: Literal["none", "corners", "centers", "pixels"] = "none"
    variances: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    image: tuple[int, int] | None = None
    arithmetic: Literal["single", "double"] = "single"

    @property
    def offsets(self) -> tuple[float, float]:
        """``offset`` as (y, x)."""
        return self.offset if isinstance(self.offset, tuple) else (self.offset, self.offset)

    @property
    def count(self) -> int:
        """Number of priors of this map."""
        return self.grid[0] * self.grid[1] * len(self.box_sizes)


@dataclass(frozen=True)
class Postprocess:
    """From heads to detections, as the source does it.

    Attributes:
        activation: how conf becomes scores.
        background: index of the background class, None where every output is an object class.
        score_threshold: detections need a score above it (``score_inclusive``: or equal to it).
        top_k: candidates kept before NMS: per class (``top_k_scope`` "class") or over all classes of an
            image ("image"); -1 keeps all.
        nms_threshold: a box is dropped when its IoU with a better kept one exceeds it (``nms_inclusive``: or equals it).
        max_per_class: boxes kept per class after NMS, -1 for all.
        keep_top_k: boxes kept per image over all classes after NMS, -1 for all.
        clip: when boxes are clipped to the image.
        min_size: boxes with width or height at or below this fraction of the image are dropped.
        code: how loc is coded against the priors (Caffe ``code_type``).
        variance_encoded: the variances are already part of loc (Caffe ``variance_encoded_in_target``).
        share_location: one box per prior for all classes.
        nms_eta: Caffe's adaptive NMS factor (1 = off).
        nms_scope: ``class``: NMS within each class. ``image``: a prior counts with its best class only (the lower of equal
            ones), and boxes of all classes drop each other. ``best``: the same, but boxes drop those of their own class only
            (MXNet's MultiBoxDetection).
        background_competes: with ``nms_scope`` "image", a prior whose best class of all is the background counts for nothing.
        nms_margin: added to the sides of both boxes in the areas of NMS's union, as a fraction of the image.
        nms_epsilon: added to NMS's union, as a fraction of the image's area (1e-5 in pytorch-ssd and its kin).
        drop_empty: boxes without area once they are clipped (``clip`` "after") are dropped before ``keep_top_k`` counts.
        max_exponent: cap of ``variance * dw`` and ``variance * dh`` before exp (torchvision), None for none.
    """

    activation: Literal["softmax", "sigmoid", "none"] = "softmax"
    background: int | None = 0
    score_threshold: float = 0.01
    score_inclusive: bool = False
    top_k: int = 400
    top_k_scope: Literal["class", "image"] = "class"
    nms_threshold: float = 0.45
    nms_inclusive: bool = False
    max_per_class: int = -1
    keep_top_k: int = 200
    clip: Literal["none", "before_nms", "after"] = "none"
    min_size: float = 0.0
    code: Literal["center_size", "corner", "corner_size"] = "center_size"
    variance_encoded: bool = False
    share_location: bool = True
    nms_eta: float = 1.0
    max_exponent: float | None = None
    nms_scope: Literal["class", "image", "best"] = "class"
    nms_margin: float = 0.0
    background_competes: bool = False
    nms_epsilon: float = 0.0
    drop_empty: bool = False


@dataclass(frozen=True)
class SSDConfig:
    """One network.

    Attributes:
        name: network name ("ssd300_voc" of caffe, "ssd_512_resnet50_v1_voc" of gluon, ...).
        source: the system it comes from.
        num_classes: channels per prior of conf, background included where there is one.
        class_names: names of the conf channels; empty when the source does not tell.
        pixels, priors, detect: see there; ``priors`` is empty when a file does not tell them.
        layers: built from named parts, or any graph.
        loss: what the file says that it was trained with; None where it does not say.
    """

    name: str
    source: str
    num_classes: int
    pixels: Preprocess
    priors: tuple[PriorMap, ...]
    detect: Postprocess
    layers: Staged | Graph
    class_names: tuple[str, ...] = ()
    loss: LossRule | None = None

    def __post_init__(self) -> None:
        if self.class_names and len(self.class_names) != self.num_classes:
            raise FormatError(
                "class names do not fit the class count",
                where=self.name,
                expected=self.num_classes,
                got=len(self.class_names),
            )

        check(self)

    @property
    def staged(self) -> Staged:
        """The layers of a network that is built from named parts, where the caller knows that it is."""
        assert isinstance(self.layers, Staged), self.name
        return self.layers

    @property
    def graph(self) -> Graph:
        """The layers of a network that is a graph, where the caller knows that it is."""
        assert isinstance(self.layers, Graph), self.name
        return self.layers

    @property
    def num_priors(self) -> int:
        """Number of priors over all maps."""
        return sum(m.count for m in self.priors)

    def to_json(self) -> str:
        """The config as one line of JSON; ``from_json`` gives an equal config back."""
        known = {part.name: getattr(self, part.name) for part in fields(self) if part.name != "layers"}
        known["staged" if isinstance(self.layers, Staged) else "graph"] = self.layers
        plain = msgspec.to_builtins(_Stored(**known), enc_hook=str, str_keys=True)
        plain["priors"] = [_renamed(entry, {"box_sizes": "cells"}) for entry in plain["priors"]]
        if plain["staged"] is not None:
            plain["staged"]["backbone"] = _renamed(plain["staged"]["backbone"], {"out_indices": "taps"})
        return msgspec.json.encode(plain).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> SSDConfig:
        """Read ``to_json``'s output back.

        Raises:
            FormatError: not JSON, or not a config.
        """
        try:
            plain = msgspec.json.decode(text)
            if isinstance(plain, dict):
                if isinstance(plain.get("priors"), list):
                    plain["priors"] = [_renamed(entry, {"cells": "box_sizes"}) for entry in plain["priors"]]
                if isinstance(staged := plain.get("staged"), dict):
                    staged["backbone"] = _renamed(staged.get("backbone"), {"taps": "out_indices"})
                    if isinstance(heads := staged.get("heads"), dict) and heads.get("depthwise") is not None:
                        raise FormatError(
                            "heads with a depthwise convolution of their own are not built any more", where="config"
                        )
            stored = msgspec.convert(plain, _Stored, str_keys=True)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise FormatError(f"not a network config: {error}") from None
        layers = stored.staged or stored.graph
        if layers is None or (stored.staged and stored.graph):
            raise FormatError("a config needs either staged or graph layers", where=stored.name)
        known = {part.name: getattr(stored, part.name) for part in fields(cls) if part.name != "layers"}
        return cls(**known, layers=layers)


def backbone_to_plain(backbone: Backbone) -> dict[str, Any]:
    """A backbone in its stored form."""
    plain: dict[str, Any] = _renamed(msgspec.to_builtins(backbone), {"out_indices": "taps"})
    return plain


def backbone_from_plain(plain: Any) -> Backbone:
    """A backbone from its stored form.

    Raises:
        msgspec.ValidationError: it is none.
    """
    return msgspec.convert(_renamed(plain, {"taps": "out_indices"}), Backbone)


def _renamed(table: Any, names: Mapping[str, str]) -> Any:
    """A table with some of its keys renamed, in its own order; all else as it is."""
    return {names.get(key, key): value for key, value in table.items()} if isinstance(table, dict) else table


@dataclass(frozen=True)
class _Stored:
    """A config as checkpoints of layout 1 keep it: the layers under ``staged`` or ``graph``, the other one null."""

    name: str
    source: str
    num_classes: int
    pixels: Preprocess
    priors: tuple[PriorMap, ...]
    detect: Postprocess
    class_names: tuple[str, ...] = ()
    staged: Staged | None = None
    graph: Graph | None = None
    loss: LossRule | None = None


MAX_CLASSES = 100_000
MAX_SIDE = 16_384
"""Pixels of an input's side."""
MAX_PRIORS = 20_000_000
MAX_LAYERS = 100_000
MAX_NUMBERS = 1 << 33
"""Numbers in one tensor."""
MAX_COUNT = 1 << 20
"""Channels, kernel sides, strides, pads, dilations, groups of a layer."""
COUNTS = frozenset(
    [
        "num_output",
        "kernel_size",
        "kernel_h",
        "kernel_w",
        "pad",
        "pad_h",
        "pad_w",
        "stride",
        "stride_h",
        "stride_w",
        "dilation",
        "group",
        "local_size",
        "tiles",
        "out_channels",
        "kernel",
        "padding",
        "groups",
    ]
)
POSITIVE = COUNTS - {"pad", "pad_h", "pad_w", "padding", "kernel_h", "kernel_w", "stride_h", "stride_w"}


def check(config: SSDConfig) -> None:
    """Refuse a config with a number that no network has.

    Raises:
        FormatError: names the field, what it may be and what it is.
    """
    where = config.name
    _within(where, "num_classes", config.num_classes, 1, MAX_CLASSES)
    for name, side in zip(("height", "width"), config.pixels.size, strict=True):
        _within(where, f"pixels.size ({name})", side, 1, MAX_SIDE)
    _check_pixels(where, config)
    _check_priors(where, config)
    detect = config.detect
    if detect.background is not None:
        _within(where, "detect.background", detect.background, -1, config.num_classes)
    for part in ("score_threshold", "nms_threshold", "nms_eta", "min_size", "nms_margin", "nms_epsilon"):
        _finite(where, f"detect.{part}", getattr(detect, part))
    for part in ("top_k", "max_per_class", "keep_top_k"):
        _within(where, f"detect.{part}", getattr(detect, part), -1, 1 << 31)
    for part, value in _numbers(config):
        if isinstance(value, float):
            _finite(where, part, value)
        elif part.rpartition(".")[2] in COUNTS:
            _within(where, part, value, 1 if part.rpartition(".")[2] in POSITIVE else 0, MAX_COUNT)
    for layer in config.layers.layers if isinstance(config.layers, Graph) else ():
        _check_layer(where, layer)


def _check_pixels(where: str, config: SSDConfig) -> None:
    pixels = config.pixels
    for part in ("unit", "scale"):
        value = getattr(pixels, part)
        _finite(where, f"pixels.{part}", value)
        if value == 0:
            raise _wrong(where, f"pixels.{part}", "other than 0", value)
    for part in ("mean", "std"):
        for value in getattr(pixels, part):
            _finite(where, f"pixels.{part}", value)
            if part == "std" and value == 0:
                raise _wrong(where, "pixels.std", "other than 0", value)


def _check_priors(where: str, config: SSDConfig) -> None:
    total = 0
    for i, found in enumerate(config.priors):
        at = f"priors[{i}]"
        for side in found.grid:
            _within(where, f"{at}.grid", side, 1, MAX_SIDE)
        for step in found.step:
            if not (math.isfinite(step) and step > 0):
                raise _wrong(where, f"{at}.step", "a positive number", step)
        for value in (v for v in found.variances if not (math.isfinite(v) and v > 0)):
            raise _wrong(where, f"{at}.variances", "positive numbers", value)
        for cell in found.box_sizes:
            for length in cell:
                if not (math.isfinite(length) and 0 <= length <= 1e6):
                    raise _wrong(where, f"{at}.box_sizes", "from 0 to 1,000,000 pixels", length)
        total += found.grid[0] * found.grid[1] * len(found.box_sizes)
    if total > MAX_PRIORS:
        raise _wrong(where, "priors", f"at most {MAX_PRIORS:,}", total)


def _check_layer(where: str, layer: LayerSpec) -> None:
    for shape in layer.blobs:
        if any(side < 0 for side in shape) or math.prod(shape) > MAX_NUMBERS:
            raise _wrong(where, f"layer {layer.name!r}, blobs", f"at most {MAX_NUMBERS:,} numbers", shape)


def _numbers(config: SSDConfig) -> Iterator[tuple[str, float | int]]:
    """Every number of the layers with the path of its field."""
    if isinstance(config.layers, Graph):
        if len(config.layers.layers) > MAX_LAYERS:
            raise _wrong(config.name, "graph.layers", f"at most {MAX_LAYERS:,}", len(config.layers.layers))
        for layer in config.layers.layers:
            yield from _inside(layer.params, f"layer {layer.name!r}, ")
    if isinstance(config.layers, Staged):
        yield from _inside(msgspec.to_builtins(config.layers), "staged.")


def _inside(value: Any, path: str) -> Iterator[tuple[str, float | int]]:
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _inside(entry, f"{path}{key}" if path.endswith((".", " ")) else f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _inside(entry, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


def _finite(where: str, field: str, value: float) -> None:
    if not math.isfinite(value):
        raise _wrong(where, field, "a finite number", value)


def _within(where: str, field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise _wrong(where, field, f"{low:,} to {high:,}", value)


def _wrong(where: str, field: str, expected: str, got: object) -> FormatError:
    return FormatError(f"no network has this {field}", where=where, expected=expected, got=got)
