"""A config's priors and detection rule as the parameters of Caffe's PriorBox and DetectionOutput layers."""

from __future__ import annotations

from typing import Any

from ssdconv.errors import MappingError
from ssdconv.ssd_ref.cells import caffe_cells
from ssdconv.ssd_ref.config import DetectRule, PriorMap


def prior_box(priors: PriorMap) -> dict[str, Any]:
    """``prior_box_param`` of one map whose cells come from one minimum size, at most one maximum size, and ratios.

    Raises:
        MappingError: cells that Caffe's PriorBox layer cannot produce (sizes that are no integers).
    """
    low = round(priors.cells[0][0])
    rest = priors.cells[1:]
    high = [round(rest[0][0] ** 2 / low)] if rest and rest[0][0] == rest[0][1] else []
    ratios = [float(round(w / h * 1e4) / 1e4) for w, h in rest[len(high) :: 2]]
    cells = caffe_cells((low,), tuple(high), tuple(ratios))
    wrong = len(cells) != len(priors.cells) or any(
        abs(a - b) > 1e-3
        for mine, theirs in zip(cells, priors.cells, strict=True)
        for a, b in zip(mine, theirs, strict=True)
    )
    if wrong or len(set(priors.offsets)) > 1 or priors.clip == "pixels":
        raise MappingError(
            "these priors are not what Caffe's PriorBox layer makes (it casts sizes to integers)",
            expected=[tuple(round(v, 3) for v in c) for c in priors.cells],
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


def detection_output(classes: int, rule: DetectRule) -> dict[str, Any]:
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
