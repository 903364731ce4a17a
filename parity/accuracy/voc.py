"""PASCAL VOC evaluation, vectorised over the whole data set, float64, under a named convention.

The rule (VOCevaldet.m): in order of score, each detection looks at the object of its image and class that it overlaps
best, taken or not. If the overlap reaches the threshold, it is ignored when that object is difficult, true when the
object was not yet found, and false otherwise; below the threshold it is false. Since the choice of object does not
depend on what was matched before, all overlaps are computed at once and the first claim of each object wins.

Published VOC numbers differ in conventions: each is a named field of ``Convention``, ``PRESETS`` bundle them. Where the facts
come from: the evaluation code of the PASCAL VOC development kit (VOCevaldet.m, VOCap.m), ChainerCV
(evaluations/eval_detection_voc.py), GluonCV (utils/metrics/voc_detection.py and scripts/detection/ssd), amdegroot's
ssd.pytorch (eval.py) and weiliu89's Caffe (detection_evaluate_layer.cpp, bbox_util.cpp).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ssdconv.errors import UsageError
from ssdconv.parity.accuracy.detections import DetectionSet, Floats, Ints, Truth
from ssdconv.parity.accuracy.matching import (
    FALSE,
    IGNORED,
    TRUE,
    MatchTable,
    average_precision,
    box_overlaps,
    first_best,
    first_claims,
    mean_ap,
    pair_up,
)


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


def written(detections: DetectionSet, rule: Convention, sizes: Floats, origin: int = 1) -> DetectionSet:
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
    rule: Convention, truth: Truth, detections: DetectionSet, input_size: tuple[int, int] | None
) -> tuple[NDArray[np.float64], DetectionSet]:
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
                hint="give the network (--network), whose input size is known",
            )
        scale = np.tile(np.asarray([input_size[1], input_size[0]], np.float64) / truth.sizes, 2)
        boxes = boxes * scale[truth.image]
        detections = replace(detections, boxes=detections.boxes * scale[detections.image])
    return boxes, detections


@dataclass(frozen=True, eq=False)
class VocScores:
    """Outcome of a VOC evaluation.

    Attributes:
        classes: names in label order.
        ap: AP per class, 0..1, NaN for classes without objects.
        mean: mean over the classes that have objects.
        tables: per class, what was matched.
        order: (n,) int64: the rows of the detections in the order of the concatenated tables.
    """

    classes: tuple[str, ...]
    ap: tuple[float, ...]
    mean: float
    tables: tuple[MatchTable, ...]
    order: Ints


def _by_class_and_score(detections: DetectionSet, classes: int, ties: str) -> tuple[Ints, list[int]]:
    """Row numbers by class, then descending score, then as ``ties`` says; and where each class begins."""
    small = detections.labels.astype(np.int16)  # 16 bits: numpy then sorts by radix
    rows = np.argsort(small, kind="stable")
    edges = np.searchsorted(small[rows], np.arange(classes + 1)).tolist()
    for a, b in pairwise(edges):
        mine = rows[a:b] if ties == "given" else rows[a:b][::-1]
        rows[a:b] = mine[np.argsort(-detections.scores[mine], kind="stable")]
    return rows, edges


def match(
    truth: Truth, detections: DetectionSet, rule: Convention, input_size: tuple[int, int] | None = None
) -> tuple[tuple[MatchTable, ...], Ints]:
    """Match detections with objects.

    Args:
        detections: aligned with ``truth`` (``Detections.aligned``).
        input_size: see ``conventions.frames``.

    Returns:
        One table per class, and the order of rows in them.
    """
    boxes, detections = frames(rule, truth, detections, input_size)
    gt_image, gt_labels, difficult = truth.image, truth.labels, truth.difficult
    if rule.difficult == "drop":
        kept = ~difficult
        boxes, gt_image, gt_labels, difficult = boxes[kept], gt_image[kept], gt_labels[kept], difficult[kept]
    elif rule.difficult == "count":
        difficult = np.zeros_like(difficult)
    images, classes = len(truth.image_ids), len(truth.classes)
    claim = np.full(len(detections), -1, np.int64)  # the object that each detection reaches
    group = detections.labels * images + detections.image
    pairs = pair_up(group, gt_labels * images + gt_image, classes * images)
    if len(pairs.owner):
        extra = 1.0 if rule.plus_one else 0.0
        overlap = box_overlaps(detections.boxes[pairs.detection], boxes[pairs.object], extra)
        best, found = first_best(pairs, overlap)
        hit = best > rule.iou_threshold if rule.strict else best >= rule.iou_threshold
        claim[pairs.owner[hit]] = found[hit]
    order, edges = _by_class_and_score(detections, classes, rule.ties)
    status = np.full(len(order), FALSE, np.int8)
    claimed = claim[order]
    places = np.flatnonzero(claimed >= 0)
    hard = difficult[claimed[places]]
    status[places[hard]] = IGNORED
    easy = places[~hard]
    status[easy[first_claims(claimed[easy], len(boxes))]] = TRUE
    positives = np.bincount((gt_labels * images + gt_image)[~difficult], minlength=classes * images)
    tables = tuple(
        MatchTable(
            detections.scores[order[a:b]],
            detections.image[order[a:b]],
            status[a:b],
            positives[c * images : (c + 1) * images].astype(np.int64),
        )
        for c, (a, b) in enumerate(pairwise(edges))
    )
    return tables, order


def evaluate_voc(
    truth: Truth, detections: DetectionSet, rule: Convention, input_size: tuple[int, int] | None = None
) -> VocScores:
    """AP per class and their mean; arguments as for ``match``."""
    tables, order = match(truth, detections, rule, input_size)
    ap = tuple(average_precision(table, rule.ap) for table in tables)
    return VocScores(truth.classes, ap, mean_ap(ap), tables, order)
