"""A MultiBoxLoss layer as a ``LossRule``: what the net itself says that it was trained with.

Names and defaults are caffe.proto's of the SSD branch (weiliu89/caffe@4817bf8b), meanings those of
src/caffe/layers/multibox_loss_layer.cpp and src/caffe/util/bbox_util.cpp.
"""

from __future__ import annotations

from math import log
from typing import Any, Literal

from ssdconv.converters.caffe.net import CaffeLayer, CaffeNet
from ssdconv.converters.caffe.rule import CODES
from ssdconv.converters.caffe.specs import short_float
from ssdconv.ssd_ref.caffe_layers.params import Params
from ssdconv.ssd_ref.loss_rule import LossRule, MatchRule, MiningRule

FLT_MIN = 2.0**-126
NORMALIZERS: dict[str, Literal["positives", "priors", "images", "one"]] = {
    "VALID": "positives",
    "FULL": "priors",
    "BATCH_SIZE": "images",
    "NONE": "one",
}
MINING: dict[str, Literal["negatives", "examples", "none"]] = {
    "MAX_NEGATIVE": "negatives",
    "HARD_EXAMPLE": "examples",
    "NONE": "none",
}
TYPE = "MultiBoxLoss"


def loss_of(net: CaffeNet) -> LossRule | None:
    """The rule of the net's MultiBoxLoss layer; None where it has none.

    Raises:
        FormatError: several that differ, or values out of range.
    """
    layers = [layer for layer in net.layers if layer.type == TYPE and layer.phase != "TEST"]
    rules = {loss_rule(layer): layer.name for layer in layers}
    if len(rules) > 1:
        raise Params({}, f"net {net.name!r}").fail(
            "the net has several MultiBoxLoss layers that differ", expected="one", got=", ".join(rules.values())
        )
    return next(iter(rules), None)


def loss_rule(layer: CaffeLayer) -> LossRule:
    """The rule of one layer.

    Raises:
        FormatError: a value that Caffe refuses, or fields that contradict each other.
    """
    p = Params(layer.params.get("multibox_loss_param", {}), f"layer {layer.name!r} ({TYPE})")
    nms = p.message("nms_param")
    mining = MINING[_mining(p)]
    share = p.flag("share_location", True)
    samples = p.integer("sample_size", 64)
    if mining != "none" and not share:
        raise p.fail(
            "negatives can be mined only where boxes are shared among classes",
            expected="share_location: true, or mining_type: NONE",
            got=f"share_location: false, mining_type: {_mining(p)}",
        )
    if mining == "examples" and samples < 1:
        raise p.fail("sample_size must be positive", got=samples)
    background = p.integer("background_label_id", 0, low=-1)
    conf: Literal["softmax", "logistic"] = (
        "softmax" if p.choice("conf_loss_type", "SOFTMAX", ("SOFTMAX", "LOGISTIC")) == "SOFTMAX" else "logistic"
    )
    classes = p.integer("num_classes", 0)
    if classes < 1:
        raise p.fail("num_classes is missing")
    if background >= classes or (background < 0 and conf == "softmax"):
        raise p.fail("background_label_id is no class", expected=f"0 to {classes - 1}", got=background)
    per_prior = p.choice("match_type", "PER_PREDICTION", ("BIPARTITE", "PER_PREDICTION")) == "PER_PREDICTION"
    return LossRule(
        MatchRule(
            threshold=short_float(p.number("overlap_threshold", 0.5)) if per_prior else None,
            boxes="priors" if p.flag("use_prior_for_matching", True) else "predicted",
            inside_only=p.flag("ignore_cross_boundary_bbox", False),
        ),
        MiningRule(
            kind=mining,
            ratio=short_float(p.number("neg_pos_ratio", 3.0)),
            overlap=short_float(p.number("neg_overlap", 0.5)),
            samples=samples,
            nms=short_float(nms.number("nms_threshold", 0.3)) if "nms_param" in p else 0.0,
            nms_top_k=nms.integer("top_k", -1, low=-1) if "nms_param" in p else -1,
            nms_boxes="priors" if p.flag("use_prior_for_nms", False) else "predicted",
        ),
        loc="smooth_l1" if p.choice("loc_loss_type", "SMOOTH_L1", ("L2", "SMOOTH_L1")) == "SMOOTH_L1" else "l2",
        conf=conf,
        normalizer=NORMALIZERS[_normalization(layer)],
        loc_weight=short_float(p.number("loc_weight", 1.0)),
        largest=-log(FLT_MIN),
        background=background,
        agnostic=p.flag("map_object_to_agnostic", False),
        code=CODES[p.choice("code_type", "CORNER", tuple(CODES))],
        variance_in_target=p.flag("encode_variance_in_target", False),
        inside_only=p.flag("bp_inside", False),
        share_location=share,
        use_difficult=p.flag("use_difficult_gt", True),
    )


def _mining(p: Params) -> str:
    """``mining_type``; nets from before it existed say ``do_neg_mining``."""
    kinds = tuple(MINING)
    if "do_neg_mining" not in p:
        return p.choice("mining_type", "MAX_NEGATIVE", kinds)
    wanted = p.flag("do_neg_mining", True)
    kind = p.choice("mining_type", "MAX_NEGATIVE" if wanted else "NONE", kinds)
    if wanted != (kind != "NONE"):
        raise p.fail(
            "do_neg_mining and mining_type contradict each other", expected="both or neither mine", got=(wanted, kind)
        )
    return kind


def _normalization(layer: CaffeLayer) -> str:
    """``loss_param.normalization``; its forerunner ``normalize`` counts where it is alone."""
    told: dict[str, Any] = dict(layer.params.get("loss_param", {}))
    p = Params(told, f"layer {layer.name!r} ({TYPE}), loss_param")
    if "normalization" not in told and "normalize" in told:
        return "VALID" if p.flag("normalize", True) else "BATCH_SIZE"
    return p.choice("normalization", "VALID", tuple(NORMALIZERS))
