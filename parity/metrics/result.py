"""The outcome of an evaluation as one frozen object with a JSON round trip; everything the reports show is in it.

Numbers are 0..1; None stands for "not measured" or "nothing to be found". JSON has no NaN, and neither has this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from ssdconv.errors import FormatError
from ssdconv.parity.bootstrap import Interval
from ssdconv.parity.metrics.coco import CocoRule
from ssdconv.parity.metrics.conventions import Convention
from ssdconv.parity.verdict import Outcome, Verdict

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
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise FormatError(f"not an evaluation result: {error}") from None
