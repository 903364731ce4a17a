"""The conventions in which published VOC numbers differ, each as a named field, and the presets that bundle them.

Where the facts come from: the evaluation code of the PASCAL VOC development kit (VOCevaldet.m, VOCap.m), ChainerCV
(evaluations/eval_detection_voc.py), GluonCV (utils/metrics/voc_detection.py and scripts/detection/ssd), amdegroot's
ssd.pytorch (eval.py) and weiliu89's Caffe (detection_evaluate_layer.cpp, bbox_util.cpp).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ssdconv.errors import UsageError
from ssdconv.parity.metrics.detections import Detections, Floats
from ssdconv.parity.metrics.truth import Truth


@dataclass(frozen=True)
class Convention:
    """How detections are compared with objects and turned into an average precision.

    Attributes:
        name: the preset's name, or "custom".
        iou_threshold: a detection matches an object whose overlap reaches it; 0.5 in every published VOC number.
        strict: overlap must exceed the threshold (the Python voc_eval.py of py-faster-rcnn and its descendants,
            ssd.pytorch among them); otherwise reaching it is enough (VOCevaldet.m, ChainerCV, GluonCV, Caffe).
        plus_one: widths and heights are x2-x1+1, y2-y1+1. VOC corners are inclusive pixel indices, so the kit adds 1;
            ChainerCV and GluonCV add 1 to both right and bottom edges, which is the same; Caffe does it in
            JaccardOverlap for boxes in pixels. ssd.pytorch leaves it out.
        gt_shift: added to the corners as the XML has them (1-based). -1 in ChainerCV, GluonCV and ssd.pytorch; 0 in the
            kit and in Caffe (which divides the unshifted corners by the image size).
        det_shift: added to the network's corners before scoring. ssd.pytorch's eval.py writes x+1 although its network
            was trained on corners minus 1, and scores against corners minus 1: a systematic shift of one pixel that is
            part of its published 77.26 and 77.43.
        clip: the network's boxes are clipped to the image first (Caffe's OutputBBox; GluonCV's script, to its input).
        box_decimals: the network's corners are rounded to so many decimals, as written files have them (ssd.pytorch and
            simple-ssd: 1); None keeps them.
        truncate: the network's corners lose their fraction, as in the text files that Caffe writes for the Matlab kit.
        score_decimals: the same for scores (ssd.pytorch: 3); None keeps them. Rounded scores tie.
        difficult: "ignore" = difficult objects need not be found, and what matches them counts neither way (every
            published number); "count" = like any other object; "drop" = as if they were not there: what matches them
            is false.
        ties: order of detections with equal scores: "given" = as in the file (a stable sort; the kit's sort is stable);
            "reversed" = the last given comes first (argsort()[::-1] of ChainerCV and GluonCV, as far as numpy's
            unstable sort allows to say).
        ap: "11point" = mean of the best precision at recall >= 0, 0.1, ... 1 (VOC2007); "area" = area under the
            envelope (VOC2010 and later).
        coordinates: "original" pixels of the image, or "resized": pixels of the network's input, so that plus_one is a
            pixel of the 300 or 512 image (GluonCV's script).

    Both shifts exist because VOC counts from 1: on a set that counts from 0 (COCO's form) neither is applied.
    det_shift, clip and the roundings apply to boxes as the network gives them; detection files have them behind them.
    """

    name: str = "custom"
    iou_threshold: float = 0.5
    strict: bool = False
    plus_one: bool = True
    gt_shift: float = 0.0
    det_shift: float = 0.0
    clip: bool = False
    box_decimals: int | None = None
    truncate: bool = False
    score_decimals: int | None = None
    difficult: Literal["ignore", "count", "drop"] = "ignore"
    ties: Literal["given", "reversed"] = "given"
    ap: Literal["11point", "area"] = "11point"
    coordinates: Literal["original", "resized"] = "original"

    def __post_init__(self) -> None:
        if not 0.0 < self.iou_threshold <= 1.0:
            raise UsageError("the IoU threshold lies outside (0, 1]", got=self.iou_threshold)

    def changed(self, **fields: Any) -> Convention:
        """The same with some fields changed; its name tells which."""
        marks = ",".join(f"{key}={value}" for key, value in fields.items() if key != "name")
        return replace(self, **{"name": f"{self.name}[{marks}]" if marks else self.name, **fields})


PRESETS: dict[str, Convention] = {
    c.name: c
    for c in (
        # VOCevaldet.m and VOCap.m: corners as in the XML, +1, >=; boxes are scored as given.
        Convention("devkit"),
        Convention("chainercv", gt_shift=-1.0, ties="reversed"),
        Convention("gluoncv", gt_shift=-1.0, ties="reversed", clip=True, coordinates="resized"),
        Convention(
            "ssd.pytorch", strict=True, plus_one=False, gt_shift=-1.0, det_shift=1.0, box_decimals=1, score_decimals=3
        ),
        # DetectionEvaluate inside the network: XML corners divided by the size and scaled back, boxes clipped.
        Convention("caffe", clip=True),
    )
}


def convention(name: str) -> Convention:
    """A preset by name.

    Raises:
        UsageError: no such preset.
    """
    if name not in PRESETS:
        near = get_close_matches(name, PRESETS, 1)
        raise UsageError(
            f"unknown convention {name!r}",
            expected=f"one of {', '.join(PRESETS)}",
            hint=f"did you mean {near[0]}?" if near else None,
        )
    return PRESETS[name]


def _rounded(values: Floats, decimals: int) -> Floats:
    """Through text, as a writer does it: numpy's own rounding differs on some halves."""
    return np.asarray([float(f"{v:.{decimals}f}") for v in values.ravel().tolist()], np.float64).reshape(values.shape)


def written(detections: Detections, rule: Convention, sizes: Floats, origin: int = 1) -> Detections:
    """Detections as the convention's writer would put them into a file; rows and order stay.

    Args:
        sizes: (images, 2) width and height of each of ``detections.image_ids``.
        origin: of the data set; with 0 the shift is left out.
    """
    if detections.written:
        return detections
    boxes, scores = detections.boxes, detections.scores
    if rule.clip:
        limits = np.tile(sizes[detections.image], 2)
        boxes = np.clip(boxes, 0.0, limits)
    if rule.det_shift and origin == 1:
        boxes = boxes + rule.det_shift
    if rule.truncate:
        boxes = np.trunc(boxes)
    if rule.box_decimals is not None:
        boxes = _rounded(boxes, rule.box_decimals)
    if rule.score_decimals is not None:
        scores = _rounded(scores, rule.score_decimals)
    return replace(detections, boxes=boxes, scores=scores, written=True)


def frames(
    rule: Convention, truth: Truth, detections: Detections, input_size: tuple[int, int] | None
) -> tuple[NDArray[np.float64], Detections]:
    """Object boxes (n, 4) and detections in the frame in which the convention compares them.

    Args:
        detections: aligned with ``truth.image_ids``.
        input_size: height and width of the network's input, needed for ``coordinates="resized"``.

    Raises:
        UsageError: the convention needs the input size and none was given.
    """
    detections = written(detections, rule, truth.sizes, truth.origin)
    boxes = truth.boxes + rule.gt_shift if rule.gt_shift and truth.origin == 1 else truth.boxes
    if rule.coordinates == "resized":
        if input_size is None:
            raise UsageError(
                f"the convention {rule.name!r} compares boxes in pixels of the network's input",
                hint="give the network, or the input size (--input-size 300)",
            )
        scale = np.tile(np.asarray([input_size[1], input_size[0]], np.float64) / truth.sizes, 2)
        boxes = boxes * scale[truth.image]
        detections = replace(detections, boxes=detections.boxes * scale[detections.image])
    return boxes, detections
