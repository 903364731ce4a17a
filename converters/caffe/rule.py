"""DetectionOutput and MultiBoxLoss parameters as a ``DetectRule``, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ssdconv.converters.caffe.deploy_params import detection_output
from ssdconv.converters.caffe.specs import short_float
from ssdconv.ssd_ref.caffe_layers.params import Params
from ssdconv.ssd_ref.config import DetectRule, LayerSpec
from ssdconv.ssd_ref.evidence import RULE_ASSUMED, Notice

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

    rule: DetectRule
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
    rule = DetectRule(
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
    rule = DetectRule(
        activation=kinds[p.choice("conf_loss_type", "SOFTMAX", tuple(kinds))],
        background=_background(p),
        code=CODES[p.choice("code_type", "CORNER", tuple(CODES))],
        variance_encoded=p.flag("encode_variance_in_target", False),
        share_location=p.flag("share_location", True),
    )
    return Told(rule, _classes(p), (assumed(rule),))


def assumed(rule: DetectRule) -> Notice:
    """The warning that thresholds are not the source's."""
    return Notice(
        RULE_ASSUMED,
        "the net has no DetectionOutput layer: SSD's own are assumed (score > "
        f"{rule.score_threshold}, top_k {rule.top_k}, NMS {rule.nms_threshold}, keep_top_k {rule.keep_top_k})",
    )


def output_params(num_classes: int, rule: DetectRule) -> dict[str, Any]:
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
