"""Final detections of two sides as sets: one-to-one pairs, and a reason for every detection that only one side has.

Threshold, top-k and non-maximum suppression turn a difference of one rounding into a detection more or less. So a row may
stand on one side only when the float64 reference shows that its place hangs on a decision within rounding:

* its score lies within the score tolerance of the score threshold, of the class's top-k-th score, or of the lowest score
  that survived the image's keep-top-k cut (or that cut moved because of other explained rows);
* on the other side it is suppressed by a kept box, and their IoU lies within its rounding of the NMS threshold, or the two
  scores are a tie within tolerance (so their order is open), or the suppressor is itself a one-sided row with a reason.

A class that one side lacks altogether has no such excuse where its best candidate is past threshold and keep-top-k cut: it
is never suppressed. Every row is listed with its reason; a row without one fails the check. Tolerances are eight times the measured floor:
the largest |float32 - float64| over the scores, and over the decoded boxes in units of its larger side or coordinate (exp in the
decoder amplifies rounding in proportion to the box; boxes below 1 count in units of the image). The IoU's tolerance follows
from the boxes'. Adaptive NMS (``nms_eta`` below 1) is judged by its first threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ssdconv.errors import SsdconvError
from ssdconv.parity.layers.activations import Heads
from ssdconv.parity.layers.results import Boundary, Detection, DetectionResult, Gap
from ssdconv.parity.layers.tolerance import HALF_ULP, MAX_RATIO, Array
from ssdconv.ssd_ref.boxes import decode
from ssdconv.ssd_ref.config import Postprocess, SSDConfig
from ssdconv.ssd_ref.postprocess import detect
from ssdconv.ssd_ref.priors import Priors

Explained = tuple[str, bool]


@dataclass(frozen=True)
class Rows:
    """Detections of one image: labels (n,), scores (n,), boxes (n, 4) xyxy normalised to the image."""

    labels: Array
    scores: Array
    boxes: Array

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Candidates:
    """All that a side's rows are chosen from, for one image, from the reference.

    Attributes:
        scores64, scores32: (P, C) after softmax or sigmoid.
        boxes64, boxes32: (P, 4) decoded, xyxy, normalised; (P, C, 4) where every class has its own.
    """

    scores64: Array
    boxes64: Array
    scores32: Array
    boxes32: Array

    @cached_property
    def score_tolerance(self) -> float:
        """Eight times the largest rounding error of a score."""
        return MAX_RATIO * max(float(np.abs(self.scores32 - self.scores64).max(initial=0.0)), HALF_ULP)

    @cached_property
    def box_tolerance(self) -> float:
        """Eight times the largest rounding error of a coordinate, in units of the box's larger side or coordinate (at least 1).

        A side is exp of a number whose last bit alone changes it by that number's own size, so boxes far larger than the image,
        which only untrained weights give, are never judged finer than by the exponent of the largest.
        """
        units = unit(self.boxes64)
        error = np.abs(self.boxes32 - self.boxes64) / units[..., None]
        exponent = float(np.log(units[np.isfinite(units)].max(initial=1.0)))
        return MAX_RATIO * max(float(error.max(initial=0.0)), HALF_ULP * max(exponent, 1.0))


def compare_detections(
    config: SSDConfig, theirs: Sequence[Rows] | None, heads64: Heads, heads32: Heads
) -> DetectionResult | None:
    """Final detections of the first image on both sides; None where the oracle gives none.

    The reference's come from its float32 heads, as a user gets them.

    Args:
        config: the reference network.
        theirs: the oracle's detections per image.
        heads64, heads32: the ``@`` values of the reference's two runs.
    """
    if theirs is None:
        return None
    rows = theirs[0]
    if not config.priors:
        return DetectionResult(problem="the checkpoint knows no priors, so it has no boxes")
    if "@conf" not in heads32:
        return DetectionResult(problem="the reference gave no heads")
    infinite = not np.isfinite(rows.boxes).all()
    try:
        found = detect(heads32["@loc"], heads32["@conf"], config.priors, config.pixels.size, config.detect)[0].numpy()
    except SsdconvError as error:
        if infinite and not torch.isfinite(_boxes(config, heads32)).all():
            return DetectionResult(len(rows), overflow=True)
        return DetectionResult(len(rows), problem=error.what)
    if infinite and not np.isfinite(found["boxes"]).all():
        return DetectionResult(len(rows), len(found["boxes"]), overflow=True)
    exact, rounded = (_boxes(config, heads).numpy() for heads in (heads64, heads32))
    candidates = Candidates(heads64["@scores"][0].numpy(), exact, heads32["@scores"][0].numpy(), rounded)
    ours = Rows(found["labels"], found["scores"], found["boxes"])
    matched = match_detections(rows, ours, candidates, config.detect)
    return replace(matched, oracle_best=_best(rows), reference_best=_best(ours))


def nothing_to_compare(found: DetectionResult | None) -> Gap | None:
    """Why detections that do not differ were not compared either; None where they were, or differ."""
    if not found:
        return None
    if found.overflow:
        return Gap("detections", "detection rule", "overflow", "boxes of both sides are infinite")
    if not found.oracle and not found.reference:
        return Gap("detections", "detection rule", "empty", "neither side detects anything")
    if not found.matched:
        why = "every detection of either side hangs on a decision within rounding (tied scores)"
        return Gap("detections", "detection rule", "undecided", why)
    return None


def _boxes(config: SSDConfig, heads: Heads) -> Tensor:
    """Decoded boxes of the first image: (P, 4) xyxy, normalised; (P, C, 4) where every class has its own."""
    rule = config.detect
    loc = heads["@loc"][0].reshape(heads["@loc"].shape[1], -1, 4)
    priors = Priors.of(config.priors, config.pixels.size, loc.dtype)
    form, variances = priors.form(rule.code)[:, None], priors.variances[:, None]
    box = decode(loc, form, variances, rule.code, rule.variance_encoded, rule.max_exponent)
    box = box.clamp(0, 1) if rule.clip != "none" else box
    return box[:, 0] if rule.share_location else box


def _best(rows: Rows, count: int = 100) -> tuple[Detection, ...]:
    """The ``count`` best detections by score, best first."""
    order = np.argsort(-rows.scores, kind="stable")[:count]
    found = zip(rows.labels[order], rows.scores[order], rows.boxes[order], strict=True)
    return tuple(Detection(int(n), float(s), (float(b[0]), float(b[1]), float(b[2]), float(b[3]))) for n, s, b in found)


def match_detections(oracle: Rows, reference: Rows, candidates: Candidates, rule: Postprocess) -> DetectionResult:
    """Pair the rows of both sides and explain what is left.

    Args:
        oracle: the source framework's rows.
        reference: the float32 reference's.
        candidates: what they were chosen from.
        rule: the detection rule.
    """
    pairs = _pairs(oracle, reference, candidates)
    mine = {a for a, _ in pairs}
    yours = {b for _, b in pairs}
    lonely = ([i for i in range(len(oracle)) if i not in mine], [j for j in range(len(reference)) if j not in yours])
    court = _Court((oracle, reference), (set(lonely[0]), set(lonely[1])), candidates, rule)
    one_sided = []
    for side, name in enumerate(("oracle", "reference")):
        rows = (oracle, reference)[side]
        for k in lonely[side]:
            reason, explained = court.explain(side, k)
            x0, y0, x1, y1 = (float(v) for v in rows.boxes[k])
            row = Boundary(name, int(rows.labels[k]), float(rows.scores[k]), (x0, y0, x1, y1), reason, explained)
            one_sided.append(row)
    score_error = max((abs(float(oracle.scores[a]) - float(reference.scores[b])) for a, b in pairs), default=0.0)
    units = unit(reference.boxes) if len(reference) else np.ones(0)
    box_error = max(
        (float(np.abs(oracle.boxes[a] - reference.boxes[b]).max() / units[b]) for a, b in pairs), default=0.0
    )
    return DetectionResult(
        len(oracle),
        len(reference),
        len(pairs),
        score_error,
        box_error,
        candidates.score_tolerance,
        candidates.box_tolerance,
        tuple(one_sided),
    )


def _pairs(oracle: Rows, reference: Rows, candidates: Candidates) -> list[tuple[int, int]]:
    """A largest set of one-to-one pairs with equal label, and score and box within tolerance (Kuhn's algorithm)."""
    near: list[list[int]] = []
    limits = candidates.box_tolerance * unit(reference.boxes) if len(reference) else np.ones(0)
    for k in range(len(oracle)):
        close = (
            (reference.labels == oracle.labels[k])
            & (np.abs(reference.scores - oracle.scores[k]) <= candidates.score_tolerance)
            & (np.abs(reference.boxes - oracle.boxes[k]).max(axis=1, initial=0.0) <= limits)
        )
        found = np.flatnonzero(close)
        near.append(found[np.argsort(np.abs(reference.scores[found] - oracle.scores[k]), kind="stable")].tolist())
    owner: dict[int, int] = {}
    for start in range(len(near)):
        _augment(start, near, owner)
    return [(a, b) for b, a in owner.items()]


def _augment(start: int, near: Sequence[Sequence[int]], owner: dict[int, int]) -> None:
    came: dict[int, int] = {}
    frontier = [start]
    while frontier:
        row = frontier.pop(0)
        for target in near[row]:
            if target in came:
                continue
            came[target] = row
            if target in owner:
                frontier.append(owner[target])
                continue
            while True:  # flip the path: each row takes the target found, its old one goes to the row before
                taker = came[target]
                previous = next((t for t, r in owner.items() if r == taker), None)
                owner[target] = taker
                if previous is None or taker == start:
                    return
                target = previous


class _Court:
    """Looks for the decision that a one-sided row hangs on."""

    def __init__(
        self, sides: tuple[Rows, Rows], lonely: tuple[set[int], set[int]], candidates: Candidates, rule: Postprocess
    ) -> None:
        self.sides = sides
        self.lonely = lonely
        self.c = candidates
        self.rule = rule
        self.known: dict[tuple[int, int], Explained] = {}

    def explain(self, side: int, k: int) -> Explained:
        key = (side, k)
        if key not in self.known:
            self.known[key] = ("two rows that suppress each other", False)  # stands while its own reason is looked for
            self.known[key] = self._explain(side, k)
        return self.known[key]

    def _explain(self, side: int, k: int) -> Explained:
        rows, other = self.sides[side], self.sides[1 - side]
        label, tolerance = int(rows.labels[k]), self.c.score_tolerance
        scores = self.c.scores64[:, label]
        fits = np.abs(scores - rows.scores[k]) <= tolerance
        boxes = self.c.boxes64 if self.c.boxes64.ndim == 2 else self.c.boxes64[:, label]
        fits &= np.abs(boxes - rows.boxes[k]).max(axis=1) <= self.c.box_tolerance * unit(boxes)
        if not fits.any():
            return "no candidate of the reference has this score and box", False
        score = float(scores[np.flatnonzero(fits)[0]])
        if abs(score - self.rule.score_threshold) <= tolerance:
            return "score threshold", True
        lowest = float(other.scores.min()) if len(other) else -1.0
        full = 0 <= self.rule.keep_top_k <= len(other)
        if self._class_is_missing(label, other, max(lowest, 0.0) if full else 0.0):
            return "the other side has nothing of this class, whose best candidate no rule removes", False
        if self._at_top_k(score, scores):
            return "top-k cut", True
        if (
            self.rule.nms_scope != "class"
            and (np.abs(self._objects()[fits] - score) <= tolerance).sum(axis=1).max() > 1
        ):
            return "best class of a prior with two tied scores", True
        if full and abs(score - lowest) <= tolerance:
            return "keep-top-k cut", True
        verdict = self._suppressed(side, k, score)
        if verdict is not None:
            return verdict
        if full and score < lowest and any(self.explain(1 - side, i)[1] for i in self.lonely[1 - side]):
            return "keep-top-k cut, moved by other rows at a boundary", True
        return "nothing on the other side explains its absence", False

    def _objects(self) -> Array:
        """(P, objects) scores of all classes but the background."""
        return np.delete(self.c.scores64, [] if self.rule.background is None else self.rule.background, axis=1)

    def _class_is_missing(self, label: int, other: Rows, lowest: float) -> bool:
        """Whether ``other`` lacks a class although its best candidate, which nothing suppresses, is past every cut."""
        if (other.labels == label).any() or self.rule.top_k_scope == "image":
            return False
        best = float(self.c.scores64[:, label].max())
        return best > max(self.rule.score_threshold, lowest) + self.c.score_tolerance

    def _at_top_k(self, score: float, scores: Array) -> bool:
        count = self.rule.top_k
        if self.rule.top_k_scope == "image":
            scores = self._objects()
            scores = scores.ravel() if self.rule.nms_scope == "class" else scores.max(axis=1)
        if count < 0 or count >= scores.size:
            return False
        edge = np.sort(scores)[scores.size - count - 1 :][:2]  # the best one cut away, and the last one kept
        return bool((np.abs(edge - score) <= self.c.score_tolerance).any())

    def _suppressed(self, side: int, k: int, score: float) -> Explained | None:
        rows, other = self.sides[side], self.sides[1 - side]
        rivals = (other.labels == rows.labels[k]) | (self.rule.nms_scope == "image")
        same = np.flatnonzero(rivals & (other.scores >= score - self.c.score_tolerance))
        if not same.size:
            return None
        low, high = iou_range(rows.boxes[k], other.boxes[same], self.c.box_tolerance)
        over = high > self.rule.nms_threshold
        for i, least, most in zip(same[over], low[over], high[over], strict=True):
            if least <= self.rule.nms_threshold:
                return f"IoU {least:.7f} to {most:.7f} with a kept box is at the NMS threshold", True
            if int(i) not in self.lonely[1 - side]:
                continue  # kept on this row's side too
            if abs(float(other.scores[i]) - score) <= self.c.score_tolerance:
                return "NMS order of two tied scores", True
            if self.explain(1 - side, int(i))[1]:
                return "suppressed by a row that is at a boundary itself", True
        return ("both this row and its suppressor were kept", False) if over.any() else None


def unit(boxes: Array) -> Array:
    """(..., 4) xyxy -> (...) what a coordinate's rounding is in proportion to: the larger side or coordinate, at least 1."""
    side = np.abs(boxes[..., 2:] - boxes[..., :2]).max(axis=-1, initial=0.0)
    larger: Array = np.maximum(np.maximum(side, np.abs(boxes).max(axis=-1, initial=0.0)), 1.0)
    return larger


def iou_range(box: Array, boxes: Array, tolerance: float) -> tuple[Array, Array]:
    """Smallest and largest IoU of one box with (n, 4) others when every coordinate may be off by its tolerance."""
    box, boxes = box.astype(np.float64)[None], boxes.astype(np.float64)
    step = tolerance * np.maximum(unit(boxes), unit(box))[:, None]
    inner = np.minimum(box[:, 2:], boxes[:, 2:]) - np.maximum(box[:, :2], boxes[:, :2])
    sides, others = box[:, 2:] - box[:, :2], boxes[:, 2:] - boxes[:, :2]
    least, most = area_of(inner - 2 * step), area_of(inner + 2 * step)
    small = area_of(sides - 2 * step) + area_of(others - 2 * step)
    large = area_of(sides + 2 * step) + area_of(others + 2 * step)
    tiny = np.finfo(np.float64).tiny
    return least / np.maximum(large - least, tiny), most / np.maximum(np.maximum(small - most, most), tiny)


def area_of(sides: Array) -> Array:
    """(n, 2) widths and heights -> (n,) areas, negative sides as 0."""
    area: Array = np.maximum(sides, 0.0).prod(axis=1)
    return area
