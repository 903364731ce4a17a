"""COCO evaluation of boxes: twelve numbers and AP per category.

Two evaluators with one interface: ``pycocotools`` is the referee, ``hotcoco`` 1.3.0 the default. hotcoco was chosen
among hotcoco 1.3.0, ultrafast-pycocotools 0.1.14 and faster-coco-eval 1.8.0 by ``bench/coco_fuzz.py``: over 20,000
random small sets (seed 7) its twelve numbers and every cell of its precision and recall tables were bit-identical to
pycocotools'; ultrafast-pycocotools' were too, but its wheels are built per Python version and it calls itself alpha;
faster-coco-eval differed in the last bit (at most 3.4e-16) in half of the sets. The version is pinned, because
equality was shown for it.

hotcoco gets the ground truth as a dictionary in COCO's form and the detections as the (n, 7) array of COCO's results
form, which the tests compare with the referee too.

``match_coco`` gives COCO's matching as match tables (area "all", 100 detections) for resampling, curves and worst images. It is
our own because the evaluators hand their matches out as a dictionary per image and category: with 200,000 detections on 5,000
images hotcoco's took 19 s, this 1 s. The rule (pycocotools, cocoeval.py): per image, category and threshold, in order of score, a detection takes the free
object it overlaps best, if the overlap reaches the threshold; of equal ones the last. Crowds are never used up, come
second to any free ordinary object, and what matches them is ignored; the overlap with a crowd is intersection over the
detection's own area. Since an object's being free depends on the detections before, all groups advance together, one
rank at a time: at most 100 steps for a whole data set.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from ssdconv.errors import MissingError, UsageError
from ssdconv.parity.accuracy.detections import DetectionSet, Floats, Ints, Truth
from ssdconv.parity.accuracy.matching import FALSE, IGNORED, TRUE, MatchTable, Pairs, pair_up

Evaluator = Literal["hotcoco", "pycocotools"]
EVALUATORS: tuple[Evaluator, ...] = ("hotcoco", "pycocotools")

NUMBERS = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
"""COCO's twelve numbers in COCO's order: AP over IoU .50:.95, at .50, at .75, by area; AR with 1, 10, 100
detections.
"""


@dataclass(frozen=True)
class CocoRule:
    """What happens to detections before COCO's evaluation.

    Attributes:
        name: preset name.
        score_floor: detections below it are left out (GluonCV's metric: 0.05).
        per_image: best so many of an image over all classes are kept; None keeps all. COCO itself looks at 100 per
            image and category.
        plus_one: width and height are written as x2-x1+1 (GluonCV's metric).
    """

    name: str = "coco"
    score_floor: float = 0.0
    per_image: int | None = None
    plus_one: bool = False


COCO_RULES = {r.name: r for r in (CocoRule(), CocoRule("gluoncv", score_floor=0.05, per_image=100, plus_one=True))}


@dataclass(frozen=True, eq=False)
class CocoScores:
    """Outcome of a COCO evaluation.

    Attributes:
        numbers: the twelve, 0..1, NaN where COCO says -1 (nothing of that kind to be found).
        classes: category names in label order.
        ap: AP over IoU .50:.95 per category, NaN without objects.
        precision: (10 IoU, 101 recalls, categories, 4 areas, 3 limits) as pycocotools' ``eval["precision"]``.
        recall: (10 IoU, categories, 4 areas, 3 limits).
        evaluator: who computed it, with version.
    """

    numbers: Mapping[str, float]
    classes: tuple[str, ...]
    ap: tuple[float, ...]
    precision: Floats
    recall: Floats
    evaluator: str


def prepared(detections: DetectionSet, rule: CocoRule) -> DetectionSet:
    """Apply a rule's floor, limit and box convention; rows keep their order, and doing it twice changes nothing."""
    if rule.plus_one and detections.xywh is None:
        corner = detections.boxes[:, :2]
        detections = replace(detections, xywh=np.hstack([corner, detections.boxes[:, 2:] - corner + 1.0]))
    if rule.score_floor > 0.0:
        detections = detections.select(detections.scores >= rule.score_floor)
    if rule.per_image is not None:
        best = np.lexsort((-detections.scores, detections.image))
        image = detections.image[best]
        rank = np.arange(len(best)) - np.searchsorted(image, image)
        detections = detections.select(np.sort(best[rank < rule.per_image]))
    return detections


def results_array(detections: DetectionSet, image_ids: Sequence[int], category_ids: Sequence[int]) -> Floats:
    """COCO's results form: (n, 7) float64: image id, x, y, width, height, score, category id."""
    xywh = detections.xywh
    if xywh is None:
        corner = detections.boxes[:, :2]
        xywh = np.hstack([corner, detections.boxes[:, 2:] - corner])
    images = np.asarray(image_ids, np.float64)[detections.image]
    categories = np.asarray(category_ids, np.float64)[detections.labels]
    return np.column_stack([images, xywh, detections.scores, categories])


def _library(evaluator: str) -> tuple[Any, Any, str]:
    """(COCO, COCOeval, name with version)."""
    modules = {"hotcoco": ("hotcoco", "hotcoco"), "pycocotools": ("pycocotools.coco", "pycocotools.cocoeval")}
    if evaluator not in modules:
        raise UsageError(f"unknown COCO evaluator {evaluator!r}", expected=f"one of {', '.join(EVALUATORS)}")
    try:
        first, second = (importlib.import_module(m) for m in modules[evaluator])
        version = importlib.import_module("importlib.metadata").version(evaluator)
    except ImportError:
        raise MissingError(
            f"{evaluator} is not installed", hint="pip install 'ssdconv[coco]' brings both COCO evaluators"
        ) from None
    return first.COCO, second.COCOeval, f"{evaluator} {version}"


def _dictionaries(rows: Floats) -> list[dict[str, Any]]:
    return [{"image_id": int(r[0]), "bbox": r[1:5], "score": r[5], "category_id": int(r[6])} for r in rows.tolist()]


def evaluate_coco(
    form: Mapping[str, Any], detections: DetectionSet, rule: CocoRule | None = None, evaluator: str = "hotcoco"
) -> CocoScores:
    """COCO's numbers.

    Args:
        form: the data set in COCO's form (``Dataset.coco_form()``).
        detections: aligned with the form's images and categories (``Detections.aligned``).
        rule: what to leave out first; default ``COCO_RULES["coco"]``.
        evaluator: "hotcoco" or "pycocotools".

    Raises:
        MissingError: the evaluator is not installed.
        UsageError: unknown evaluator.
    """
    coco_class, eval_class, name = _library(evaluator)
    rule = rule or COCO_RULES["coco"]
    categories = form["categories"]
    rows = results_array(prepared(detections, rule), [i["id"] for i in form["images"]], [c["id"] for c in categories])
    with redirect_stdout(StringIO()):
        if evaluator == "pycocotools":
            truth = coco_class()
            truth.dataset = {**form, "annotations": [dict(a) for a in form["annotations"]]}
            truth.createIndex()
            found = coco_class()
            if len(rows):
                truth.dataset.setdefault("info", {})
                found = truth.loadRes(_dictionaries(rows))
            else:  # loadRes refuses an empty list
                found.dataset = {**form, "annotations": []}
                found.createIndex()
        else:
            truth = coco_class(dict(form))
            found = truth.load_res(rows if len(rows) else [])
        evaluation = eval_class(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = np.asarray(evaluation.eval["precision"], np.float64)
    recall = np.asarray(evaluation.eval["recall"], np.float64)
    stats = [float(v) for v in evaluation.stats[:12]]

    def mean(cells: Floats) -> float:
        known = cells[cells > -1]
        return float(np.mean(known)) if known.size else float("nan")

    return CocoScores(
        numbers={n: float("nan") if v == -1.0 else v for n, v in zip(NUMBERS, stats, strict=True)},
        classes=tuple(c["name"] for c in categories),
        ap=tuple(mean(precision[:, :, k, 0, -1]) for k in range(len(categories))),
        precision=precision,
        recall=recall,
        evaluator=name,
    )


THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)
PER_GROUP = 100
_LIMIT = 1e10  # COCO's area range "all" ends at (1e5)^2


def _overlaps(det: Floats, gt: Floats, crowd: np.ndarray) -> Floats:
    """Rows of xywh boxes: IoU, or intersection over the detection's area for crowds."""
    ax, ay, aw, ah = det.T
    bx, by, bw, bh = gt.T
    width = np.minimum(ax + aw, bx + bw) - np.maximum(ax, bx)
    height = np.minimum(ay + ah, by + bh) - np.maximum(ay, by)
    shared = np.where((width > 0) & (height > 0), width * height, 0.0)
    own = aw * ah
    union = np.where(crowd, own, own + bw * bh - shared)
    result: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return result


def _steps(pairs: Pairs, rank: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Owners (positions in ``pairs.owner``) by rank within their group."""
    order = np.argsort(rank[pairs.owner], kind="stable")
    ranks = rank[pairs.owner][order]
    edges = np.flatnonzero(np.diff(ranks, prepend=-1, append=ranks[-1] + 1 if len(ranks) else 0))
    return [(order[a:b], ranks[a:b]) for a, b in pairwise(edges.tolist())]


def match_coco(truth: Truth, detections: DetectionSet) -> tuple[list[tuple[MatchTable, ...]], Ints]:
    """Per IoU threshold, one table per category; and the rows of the detections in the order of the joined tables.

    Args:
        truth: boxes x, y, x+w, y+h (a set of origin 0).
        detections: aligned with ``truth``.
    """
    images, classes = len(truth.image_ids), len(truth.classes)
    groups = images * classes
    group = detections.labels * images + detections.image
    order = np.lexsort((-detections.scores, group))
    rank = np.arange(len(order)) - np.searchsorted(group[order], group[order])
    order, rank = order[rank < PER_GROUP], rank[rank < PER_GROUP]
    group = group[order]
    corners = detections.boxes[order]
    det = (
        detections.xywh[order]
        if detections.xywh is not None
        else np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
    )
    gt = np.hstack([truth.boxes[:, :2], truth.boxes[:, 2:] - truth.boxes[:, :2]])
    spare = truth.crowd | (truth.area > _LIMIT)
    gt_group = truth.labels * images + truth.image
    pairs = pair_up(group, gt_group, groups)
    count, status = len(THRESHOLDS), np.full((len(THRESHOLDS), len(order)), FALSE, np.int8)
    status[:, det[:, 2] * det[:, 3] > _LIMIT] = IGNORED
    overlap = _overlaps(det[pairs.detection], gt[pairs.object], truth.crowd[pairs.object])
    needed = np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]
    free = np.ones((count, len(gt)), np.bool_)
    for owners, _ in _steps(pairs, rank):
        sizes = pairs.count[owners]
        starts = np.cumsum(sizes) - sizes
        rows = np.arange(int(sizes.sum())) + np.repeat(pairs.start[owners] - starts, sizes)
        objects, value = pairs.object[rows], overlap[rows]
        crowd = truth.crowd[objects]
        reaches = (value >= needed) & (free[:, objects] | crowd)
        # ordinary objects first: lift them above every crowd (overlaps are at most 1)
        lifted = np.where(reaches, value + np.where(spare[objects], 0.0, 2.0), -1.0)
        best = np.maximum.reduceat(lifted, starts, axis=1)
        at = np.where(lifted == np.repeat(best, sizes, axis=1), np.arange(len(rows)), -1)
        chosen = objects[np.maximum.reduceat(at, starts, axis=1)]
        hit = best >= 0
        outcome = np.where(spare[chosen], IGNORED, TRUE).astype(np.int8)
        columns = pairs.owner[owners]
        status[:, columns] = np.where(hit, outcome, status[:, columns])
        level, place = np.nonzero(hit)
        free[level, chosen[level, place]] = False
    positives = np.bincount(gt_group[~spare], minlength=groups).reshape(classes, images).astype(np.int64)
    label, image, score = group // images, group % images, detections.scores[order]
    # within a category COCO joins the images in ascending id, then sorts by score, ties in that order
    final = np.lexsort((-score, label))
    edges = np.searchsorted(label[final], np.arange(classes + 1)).tolist()
    tables = [
        tuple(
            MatchTable(score[final[a:b]], image[final[a:b]], status[t, final[a:b]], positives[c])
            for c, (a, b) in enumerate(pairwise(edges))
        )
        for t in range(count)
    ]
    return tables, order[final]
