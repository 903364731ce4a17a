"""The outcome of an evaluation as one frozen object with a JSON round trip; everything the reports show is in it.

Numbers are 0..1; None stands for "not measured" or "nothing to be found". JSON has no NaN, and neither has this.
``thinned``, ``histogram`` and ``worst_images`` make the parts that are drawn from the match tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from ssdconv.data.records import Dataset
from ssdconv.errors import FormatError
from ssdconv.parity.accuracy.bootstrap import Interval
from ssdconv.parity.accuracy.coco import CocoRule
from ssdconv.parity.accuracy.detections import DetectionSet, Ints, Truth
from ssdconv.parity.accuracy.matching import FALSE, IGNORED, TRUE, MatchTable, curve
from ssdconv.parity.accuracy.published import Outcome, Verdict
from ssdconv.parity.accuracy.voc import Convention

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class ClassScore:
    """One class: AP with its interval, and the counts behind it (COCO: at IoU .50, crowds not counted)."""

    name: str
    ap: float | None
    interval: Interval | None
    objects: int
    detections: int
    true_positives: int


@dataclass(frozen=True)
class Curve:
    """Precision over recall of one class (COCO: at IoU .50), thinned to at most 200 points."""

    name: str
    recall: tuple[float, ...]
    precision: tuple[float, ...]


@dataclass(frozen=True)
class Histogram:
    """Scores of true and false detections; ``edges`` has one more entry than the counts."""

    edges: tuple[float, ...]
    true: tuple[int, ...]
    false: tuple[int, ...]


@dataclass(frozen=True)
class Shown:
    """A box to draw: 0-based xyxy in image pixels; ``status`` "true", "false", "ignored", "object" or "difficult"."""

    label: int
    box: Box
    status: str
    score: float | None = None


@dataclass(frozen=True)
class WorstImage:
    """An image with many mistakes among confident detections.

    Attributes:
        path: of the image, None when it is not on disk.
        false: false detections with a score of at least ``EvaluationResult.shown_from``.
        missed: objects that no such detection found.
        boxes: objects and those detections.
    """

    image_id: str
    path: str | None
    width: int
    height: int
    false: int
    missed: int
    boxes: tuple[Shown, ...]


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """One evaluation. True unless a published number that counts differs.

    Attributes:
        dataset, network: names; network None when only detections were given.
        images, of_images: evaluated, and in the whole data set.
        objects, detections: how many.
        source: where the detections came from.
        metric: "voc" or "coco".
        numbers: "mAP" (voc) or COCO's twelve.
        intervals: of "mAP", or of "AP", "AP50", "AP75".
        convention: under which (voc); ``rule`` (coco) likewise.
        input_size: height, width of the network's input where the convention needs it.
        evaluator: who computed.
        classes, curves, histogram, worst: see there.
        shown_from: score from which detections count as confident in ``worst``.
        verdicts: against the published rows.
        problems: error code -> count, of a run that kept going.
        seconds: matching and scoring, without reading and resampling.
    """

    dataset: str
    network: str | None
    images: int
    of_images: int
    objects: int
    detections: int
    source: str
    metric: Literal["voc", "coco"]
    numbers: Mapping[str, float | None]
    intervals: Mapping[str, Interval]
    convention: Convention | None
    rule: CocoRule | None
    input_size: tuple[int, int] | None
    evaluator: str
    classes: tuple[ClassScore, ...]
    curves: tuple[Curve, ...]
    histogram: Histogram
    worst: tuple[WorstImage, ...]
    shown_from: float
    verdicts: tuple[Verdict, ...]
    problems: Mapping[str, int]
    seconds: float

    def __bool__(self) -> bool:
        return not any(v.outcome == "differs" for v in self.verdicts if v.counts)

    @property
    def main(self) -> str:
        """The number that matters most: "mAP" or "AP"."""
        return "mAP" if self.metric == "voc" else "AP"

    @property
    def outcome(self) -> Outcome | Literal["not published"]:
        """Over the verdicts that count: differs if one does, reproduced if one is and none differs."""
        outcomes = {v.outcome for v in self.verdicts if v.counts}
        ranked: tuple[Outcome, ...] = ("differs", "reproduced", "not comparable")
        for candidate in ranked:
            if candidate in outcomes:
                return candidate
        return "not published"

    @property
    def protocol(self) -> str:
        """One line that says how the number came about."""
        if self.metric == "coco":
            rule = self.rule or CocoRule()
            parts = ["COCO boxes", f"rule {rule.name}"]
            parts += [f"scores from {rule.score_floor:g}"] if rule.score_floor else []
            parts += [f"best {rule.per_image} an image"] if rule.per_image else []
        else:
            c = self.convention or Convention()
            parts = [
                "11-point AP" if c.ap == "11point" else "area AP",
                f"IoU {'>' if c.strict else '>='} {c.iou_threshold:g}",
            ]
            parts += [f"convention {c.name}", "widths + 1" if c.plus_one else "widths without + 1"]
            parts += [f"difficult objects: {c.difficult}"]
            parts += [f"objects {c.gt_shift:+g} px"] if c.gt_shift else []
        return ", ".join(parts)

    def to_json(self) -> str:
        """One line of JSON; ``from_json`` gives an equal result back."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> EvaluationResult:
        """Read ``to_json``'s output back.

        Raises:
            FormatError: not JSON, or not a result.
        """
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise FormatError(f"not an evaluation result: {error}") from None


POINTS = 200
BINS = 20
_STATUS = {TRUE: "true", FALSE: "false", IGNORED: "ignored"}


def thinned(name: str, table: MatchTable) -> Curve:
    """The precision-recall curve after each true detection, at most ``POINTS`` of them, the last included."""
    found = np.flatnonzero(table.status == TRUE)
    if not table.npos or not len(found):
        return Curve(name, (), ())
    recall, precision = curve(table)
    if len(found) > POINTS:
        found = found[np.unique(np.linspace(0, len(found) - 1, POINTS).round().astype(int))]
    return Curve(name, tuple(recall[found].round(5).tolist()), tuple(precision[found].round(5).tolist()))


def histogram(tables: Sequence[MatchTable]) -> Histogram:
    """Counts of true and false detections in 20 score bins from 0 to the best score (at least 1)."""
    top = max([1.0, *(float(t.scores.max()) for t in tables if len(t.scores))])
    low = min([0.0, *(float(t.scores.min()) for t in tables if len(t.scores))])
    edges = np.linspace(low, top, BINS + 1)
    counts = []
    for status in (TRUE, FALSE):
        scores = [t.scores[t.status == status] for t in tables]
        counts.append(np.histogram(np.concatenate(scores) if scores else np.zeros(0), edges)[0])
    return Histogram(tuple(edges.tolist()), tuple(counts[0].tolist()), tuple(counts[1].tolist()))


def _box(values: np.ndarray, shift: float) -> Box:
    x1, y1, x2, y2 = (round(float(v) - shift, 2) for v in values)
    return x1, y1, x2, y2


def worst_images(
    dataset: Dataset,
    truth: Truth,
    detections: DetectionSet,
    tables: Sequence[MatchTable],
    order: Ints,
    count: int,
    floor: float,
    frame: float = 0.0,
) -> tuple[WorstImage, ...]:
    """The images with most mistakes: false detections with a score of at least ``floor``, and objects not found by
    such.

    Args:
        detections: aligned with ``truth``.
        frame: the coordinate that the first pixel has in the detections.
        order: rows of the detections in the order of the joined tables.
    """
    images = len(truth.image_ids)
    status = np.concatenate([t.status for t in tables]) if tables else np.zeros(0, np.int8)
    sure = detections.scores[order] >= floor
    image = detections.image[order]
    false = np.bincount(image[sure & (status == FALSE)], minlength=images)
    found = np.bincount(image[sure & (status == TRUE)], minlength=images)
    missed = sum((t.positives for t in tables), np.zeros(images, np.int64)) - found
    worst = np.argsort(-(false + missed), kind="stable")[:count]
    paths = {r.image_id: r for r in dataset.take([truth.image_ids[i] for i in worst.tolist()])}
    result = []
    for i in worst.tolist():
        if false[i] + missed[i] == 0:
            break
        name = truth.image_ids[i]
        record = paths[name]
        boxes = [
            Shown(
                int(truth.labels[o]),
                _box(truth.boxes[o], truth.origin),
                "difficult" if truth.difficult[o] else "object",
            )
            for o in np.flatnonzero(truth.image == i).tolist()
        ]
        for place in np.flatnonzero(sure & (image == i)).tolist():
            row = int(order[place])
            boxes.append(
                Shown(
                    int(detections.labels[row]),
                    _box(detections.boxes[row], frame),
                    _STATUS[int(status[place])],
                    round(float(detections.scores[row]), 4),
                )
            )
        path = str(record.path) if record.path is not None and record.path.is_file() else None
        result.append(WorstImage(name, path, record.width, record.height, int(false[i]), int(missed[i]), tuple(boxes)))
    return tuple(result)
