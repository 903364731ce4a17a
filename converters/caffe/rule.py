"""What a Caffe net says of priors, detection rule and pixels, as data of a config; priors and rule also the other way.

Priors are PriorBox layers of the SSD branch, the rule is DetectionOutput's parameters or, in a train net, MultiBoxLoss'; pixels are
the input blob's size and the ``transform_param`` of the data layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from ssdconv.converters.caffe.net import CaffeLayer, Shape, short_float
from ssdconv.errors import FormatError, MappingError
from ssdconv.ssd_ref.box_sizes import caffe_box_sizes
from ssdconv.ssd_ref.config import LayerSpec, Postprocess, Preprocess, PriorMap
from ssdconv.ssd_ref.evidence import PIXELS_ASSUMED, PIXELS_RESIZE, RULE_ASSUMED, Notice
from ssdconv.ssd_ref.graph.params import INT_MAX, Params


def prior_box(priors: PriorMap) -> dict[str, Any]:
    """``prior_box_param`` of one map whose cells come from one minimum size, at most one maximum size, and ratios.

    Raises:
        MappingError: cells that Caffe's PriorBox layer cannot produce (sizes that are no integers).
    """
    low = round(priors.box_sizes[0][0])
    rest = priors.box_sizes[1:]
    high = [round(rest[0][0] ** 2 / low)] if rest and rest[0][0] == rest[0][1] else []
    ratios = [float(round(w / h * 1e4) / 1e4) for w, h in rest[len(high) :: 2]]
    cells = caffe_box_sizes((low,), tuple(high), tuple(ratios))
    wrong = len(cells) != len(priors.box_sizes) or any(
        abs(a - b) > 1e-3
        for mine, theirs in zip(cells, priors.box_sizes, strict=True)
        for a, b in zip(mine, theirs, strict=True)
    )
    if wrong or len(set(priors.offsets)) > 1 or priors.clip == "pixels":
        raise MappingError(
            "these priors are not what Caffe's PriorBox layer makes (it casts sizes to integers)",
            expected=[tuple(round(v, 3) for v in c) for c in priors.box_sizes],
            got=[tuple(round(v, 3) for v in c) for c in cells],
        )
    params: dict[str, Any] = {"min_size": [float(low)]}
    if high:
        params["max_size"] = [float(high[0])]
    params |= {"aspect_ratio": ratios, "flip": True, "clip": priors.clip == "corners"}
    params |= {"variance": list(priors.variances), "offset": priors.offsets[0]}
    if priors.step[0] == priors.step[1]:
        params["step"] = float(priors.step[0])
    else:
        params |= {"step_h": float(priors.step[0]), "step_w": float(priors.step[1])}
    return params


def detection_output(classes: int, rule: Postprocess) -> dict[str, Any]:
    """``detection_output_param`` for a rule; what Caffe has no word for is left out."""
    params: dict[str, Any] = {
        "num_classes": classes,
        "share_location": rule.share_location,
        "background_label_id": -1 if rule.background is None else rule.background,
        "nms_param": {"nms_threshold": rule.nms_threshold, "top_k": rule.top_k},
        "code_type": rule.code.upper(),
        "keep_top_k": rule.keep_top_k,
        "confidence_threshold": rule.score_threshold,
    }
    if rule.nms_eta != 1.0:
        params["nms_param"]["eta"] = rule.nms_eta
    if rule.variance_encoded:
        params["variance_encoded_in_target"] = True
    return params


Activation = Literal["softmax", "sigmoid", "none"]
CODES: dict[str, Literal["center_size", "corner", "corner_size"]] = {
    "CORNER": "corner",
    "CENTER_SIZE": "center_size",
    "CORNER_SIZE": "corner_size",
}
LOWEST = -3.4028234663852886e38
"""-FLT_MAX: without a confidence_threshold every score passes."""


@dataclass(frozen=True)
class Told:
    """What the detection layer tells: the rule, the class count (0 if unknown), and what had to be assumed."""

    rule: Postprocess
    num_classes: int
    warnings: tuple[str, ...] = ()


def told_by_detection_output(spec: LayerSpec, activation: Activation) -> Told:
    """The rule of a DetectionOutput layer; absent fields have Caffe's defaults (code CORNER, NMS at 0.3 …).

    Raises:
        FormatError: values out of range.
    """
    p = Params(spec.params, f"layer {spec.name!r} ({spec.type})")
    nms = p.message("nms_param")
    threshold = p.number("confidence_threshold", LOWEST)
    overlap, eta = nms.number("nms_threshold", 0.3), nms.number("eta", 1.0)
    if overlap < 0 or not 0 < eta <= 1:
        raise p.fail("nms_param is out of range", expected="nms_threshold >= 0, 0 < eta <= 1", got=(overlap, eta))
    rule = Postprocess(
        activation=activation,
        background=_background(p),
        score_threshold=threshold if threshold == LOWEST else short_float(threshold),
        top_k=nms.integer("top_k", -1, low=-1),
        nms_threshold=short_float(overlap),
        keep_top_k=p.integer("keep_top_k", -1, low=-1),
        clip="before_nms" if p.flag("clip", False) else "none",
        code=CODES[p.choice("code_type", "CORNER", tuple(CODES))],
        variance_encoded=p.flag("variance_encoded_in_target", False),
        share_location=p.flag("share_location", True),
        nms_eta=short_float(eta),
    )
    return Told(rule, _classes(p))


def told_by_loss(spec: LayerSpec) -> Told:
    """The rule that a net trained by this MultiBoxLoss needs; thresholds are those of SSD's own deploy nets.

    Raises:
        FormatError: values out of range.
    """
    p = Params(spec.params, f"layer {spec.name!r} ({spec.type})")
    kinds: dict[str, Activation] = {"SOFTMAX": "softmax", "LOGISTIC": "sigmoid"}
    rule = Postprocess(
        activation=kinds[p.choice("conf_loss_type", "SOFTMAX", tuple(kinds))],
        background=_background(p),
        code=CODES[p.choice("code_type", "CORNER", tuple(CODES))],
        variance_encoded=p.flag("encode_variance_in_target", False),
        share_location=p.flag("share_location", True),
    )
    return Told(rule, _classes(p), (assumed(rule),))


def assumed(rule: Postprocess) -> Notice:
    """The warning that thresholds are not the source's."""
    return Notice(
        RULE_ASSUMED,
        "the net has no DetectionOutput layer: SSD's own are assumed (score > "
        f"{rule.score_threshold}, top_k {rule.top_k}, NMS {rule.nms_threshold}, keep_top_k {rule.keep_top_k})",
    )


def output_params(num_classes: int, rule: Postprocess) -> dict[str, Any]:
    """``detection_output_param`` that says ``rule``."""
    params = detection_output(num_classes, rule)
    return {**params, "clip": True} if rule.clip == "before_nms" else params


def _background(p: Params) -> int | None:
    background = p.integer("background_label_id", 0, low=-1)
    return None if background < 0 else background


def _classes(p: Params) -> int:
    classes = p.integer("num_classes", 0, low=1)
    if not classes:
        raise p.fail("num_classes is missing")
    return classes


def prior_map(spec: LayerSpec, grid: tuple[int, int], image: tuple[int, int]) -> PriorMap:
    """The priors of one PriorBox layer, as Caffe's ``PriorBoxLayer`` makes them.

    Args:
        spec: the layer; ``params`` is its ``prior_box_param``.
        grid: (rows, columns) of the feature map it reads.
        image: (height, width) in pixels of the input blob.

    Raises:
        FormatError: sizes, ratios or variances that Caffe refuses.
    """
    p = Params(spec.params, f"layer {spec.name!r} (PriorBox)")
    declared = _image(p)
    step = _step(p, grid, declared or image)
    try:
        cells = caffe_box_sizes(
            p.numbers("min_size"), p.numbers("max_size"), p.numbers("aspect_ratio"), flip=p.flag("flip", True)
        )
    except FormatError as error:
        raise FormatError(error.what, where=p.where, expected=error.expected, got=error.got) from None
    return PriorMap(
        grid=grid,
        step=step,
        box_sizes=cells,
        offset=short_float(p.number("offset", 0.5)),
        clip="corners" if p.flag("clip", False) else "none",
        variances=_variances(p),
        image=declared if declared != image else None,
    )


def _image(p: Params) -> tuple[int, int] | None:
    """``img_size``, or ``img_h`` and ``img_w``: the image size (height, width) that sizes and steps refer to."""
    if "img_h" in p or "img_w" in p:
        if "img_size" in p:
            raise p.fail("img_size is given together with img_h or img_w")
        return p.integer("img_h", 0, low=1), p.integer("img_w", 0, low=1)
    return (p.integer("img_size", 0, low=1),) * 2 if "img_size" in p else None


def _step(p: Params, grid: tuple[int, int], image: tuple[int, int]) -> tuple[float, float]:
    if "step_h" in p or "step_w" in p:
        if "step" in p:
            raise p.fail("step is given together with step_h or step_w")
        step = p.number("step_h", 0.0), p.number("step_w", 0.0)
    else:
        step = (p.number("step", 0.0),) * 2
        if "step" not in p:
            return image[0] / grid[0], image[1] / grid[1]
    if min(step) <= 0:
        raise p.fail("steps must be positive", got=step)
    return short_float(step[0]), short_float(step[1])


def _variances(p: Params) -> tuple[float, float, float, float]:
    values = p.numbers("variance") or (0.1,)
    if len(values) not in (1, 4) or min(values) <= 0:
        raise p.fail("variances must be positive", expected="1 or 4 of them", got=values)
    first, second, third, last = (short_float(v) for v in (values * 4 if len(values) == 1 else values))
    return first, second, third, last


def input_size(shape: Shape, data: Iterable[CaffeLayer], where: str) -> tuple[int, int] | None:
    """(height, width) in pixels: from the input blob's shape, else from ``resize_param`` or ``crop_size``, None where none tells.

    Raises:
        FormatError: neither a colour nor a grey image, or a size out of range.
    """
    if shape:
        if len(shape) != 4 or shape[1] not in (1, 3) or not all(0 < side <= INT_MAX for side in shape):
            expected = "(N, 3, height, width), or (N, 1, height, width) for grey"
            raise FormatError("the input is no image", where=where, expected=expected, got=shape)
        return shape[2], shape[3]
    for layer in data:
        p = _transform(layer)
        resize = p.message("resize_param")
        height, width = resize.integer("height", 0), resize.integer("width", 0)
        if not height or not width:
            crop = p.integer("crop_size", 0)
            height, width = p.integer("crop_h", crop), p.integer("crop_w", crop)
        if height and width:
            return height, width
    return None


def channels_told(data: Iterable[CaffeLayer]) -> int:
    """1 where a data layer reads pictures in grey (``force_gray``, ``is_color: false``), 3 where one forces colour, else 0."""
    for layer in data:
        p = _transform(layer)
        if p.flag("force_gray", False):
            return 1
        if p.flag("force_color", False):
            return 3
        image = Params(layer.params, f"layer {layer.name!r} ({layer.type})").message("image_data_param")
        if not image.flag("is_color", True):
            return 1
    return 0


def pixels(size: tuple[int, int], data: Iterable[CaffeLayer], channels: int = 3) -> tuple[Preprocess, tuple[str, ...]]:
    """Pixels (BGR as OpenCV reads them, or grey) and what had to be assumed.

    The mean is ``mean_value`` (one, or one per channel: blue, green, red), the scale ``scale``; Caffe subtracts first, then multiplies.
    The first data layer that tells either is believed.

    Raises:
        FormatError: a mean of neither one value nor one per channel.
    """
    order: Literal["BGR", "GRAY"] = "BGR" if channels == 3 else "GRAY"
    for layer in data:
        p = _transform(layer)
        told = [name for name in ("mean_value", "mean_file", "scale") if name in p]
        if not told:
            continue
        means = p.numbers("mean_value") or (0.0,)
        if len(means) not in (1, channels):
            raise p.fail(f"mean_value must be given once, or for each of {channels} channels", got=means)
        mean = tuple(short_float(v) for v in (means * channels if len(means) == 1 else means))
        warnings = []
        if "mean_file" in p and "mean_value" not in p:
            warnings.append(Notice(PIXELS_ASSUMED, "the mean is in a file of its own (mean_file): mean 0 is assumed"))
        elif "mean_value" not in p:
            warnings.append(Notice(PIXELS_ASSUMED, "the net does not tell its pixel mean: mean 0 is assumed"))
        mode = p.message("resize_param").data.get("resize_mode", "WARP")
        if mode != "WARP":
            text = f"the net was fed with resize_mode {mode}; images are warped to the input size instead"
            warnings.append(Notice(PIXELS_RESIZE, text))
        return Preprocess(size, order, mean, (1.0,) * channels, scale=short_float(p.number("scale", 1.0))), tuple(
            warnings
        )
    untold = "the net does not tell its pixel mean and scale: mean 0 and scale 1 are assumed"
    return Preprocess(size, order), (Notice(PIXELS_ASSUMED, untold),)


def _transform(layer: CaffeLayer) -> Params:
    return Params(layer.params, f"layer {layer.name!r} ({layer.type})").message("transform_param")
