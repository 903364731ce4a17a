"""What the parts of a parity check concluded, as plain data: frozen, and true when passed.

That makes a failed result false: ask ``is None`` where one may be absent.

Nothing here imports torch, so that reports can be read and drawn anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ssdconv.parity.tolerance import MAX_RATIO, Floor, Measurement
from ssdconv.ssd_ref.evidence import Link

Outcome = Literal["passed", "failed", "not compared"]
"""What a check concluded; "not compared": nothing differs, but the oracle cannot tell about a part."""

GapCode = Literal["oracle cannot", "oracle departs", "oracle crashed", "empty", "overflow", "undecided"]
"""Why a part was not compared: the oracle does not have it, has it otherwise than the source, or ended in it; neither side
detects anything; boxes are infinite on both sides; every detection hangs on a decision within rounding."""


@dataclass(frozen=True)
class Gap:
    """A part of the network that was not compared on one input: neither passed nor failed.

    Attributes:
        part: the source's name of the layer, or "detections".
        link: which link of the evidence stays open.
        code: kind of reason.
        reason: why, in words.
    """

    part: str
    link: Link
    code: GapCode
    reason: str


@dataclass(frozen=True)
class ProbeResult:
    """One probe of one input, judged.

    Attributes:
        source: the probe's name in the source network.
        reference: path of the reference module, or ``@loc``, ``@conf``, ``@scores``, ``@priors``.
        measured: the raw figures.
        floor: the floor that they were judged by.
        problem: why it failed for another reason than size (missing, other shape, NaN), "" where there is none.
    """

    source: str
    reference: str
    measured: Measurement
    floor: Floor
    problem: str = ""

    @property
    def ratio(self) -> float:
        """max|oracle - ref64| over the floor."""
        return self.measured.error / self.floor.max

    @property
    def rms_ratio(self) -> float:
        """rms(oracle - ref64) over the floor's rms."""
        return self.measured.error_rms / self.floor.rms

    @property
    def excess(self) -> float:
        """The worse of both ratios, each over its limit: above 1 the probe fails."""
        return max(self.ratio / MAX_RATIO, self.rms_ratio / self.measured.rms_limit)

    @property
    def needed(self) -> float:
        """The smallest tolerance, relative to the probe's largest value, that would let the oracle pass."""
        if self.measured.magnitude > 0:
            return self.measured.error / self.measured.magnitude
        return self.measured.error

    def __bool__(self) -> bool:
        return not self.problem and self.excess <= 1.0

    @property
    def reason(self) -> str:
        """Why it failed, "" where it passed."""
        if self.problem or self:
            return self.problem
        m = self.measured
        return (
            f"off by {self.ratio:.3g} x the rounding floor (rms {self.rms_ratio:.3g} x); worst at {m.at}: "
            f"oracle {m.oracle:.9g}, reference {m.reference:.9g}; would pass with rtol {self.needed:.2g}"
        )


@dataclass(frozen=True)
class Boundary:
    """A detection that only one side reports, and why.

    Attributes:
        side: who reports it: "oracle" or "reference".
        label, score, box: the detection; the box is xyxy, normalised.
        reason: the decision that it hangs on ("score threshold", "nms", ...), or why nothing explains it.
        explained: whether rounding explains it.
    """

    side: str
    label: int
    score: float
    box: tuple[float, float, float, float]
    reason: str
    explained: bool


@dataclass(frozen=True)
class Found:
    """One detection of one side.

    Attributes:
        label, score: class index and score.
        box: xyxy, normalised to the image.
    """

    label: int
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class DetectionResult:
    """Final detections of one input, compared as sets.

    Attributes:
        oracle, reference: detections of each side.
        matched: pairs of one label, score and box within rounding.
        score_error, box_error: largest difference over the pairs (box: in units of its larger side or coordinate, at least 1).
        score_tolerance, box_tolerance: the limits, from the measured floor.
        one_sided: detections of one side only.
        problem: why no comparison was possible, "" where it was.
        oracle_best, reference_best: each side's best detections by score (a hundred at most), for pictures.
        overflow: boxes of both sides are infinite, so nothing could be compared.
    """

    oracle: int = 0
    reference: int = 0
    matched: int = 0
    score_error: float = 0.0
    box_error: float = 0.0
    score_tolerance: float = 0.0
    box_tolerance: float = 0.0
    one_sided: tuple[Boundary, ...] = ()
    problem: str = ""
    oracle_best: tuple[Found, ...] = ()
    reference_best: tuple[Found, ...] = ()
    overflow: bool = False

    @property
    def boundary(self) -> int:
        """Detections on one side only that rounding at a decision boundary explains."""
        return sum(b.explained for b in self.one_sided)

    @property
    def unexplained(self) -> int:
        """Detections on one side only that nothing explains."""
        return len(self.one_sided) - self.boundary

    def __bool__(self) -> bool:
        return not self.problem and not self.unexplained


@dataclass(frozen=True)
class InputResult:
    """All probes of one input, in the reference's order of execution, and its detections.

    Attributes:
        name: what was fed ("photo.jpg", "noise, seed 0", ...).
        probes: every declared probe once.
        detections: None where the network has no detection rule or the oracle no detections.
        gaps: parts that were to be compared and could not be.
    """

    name: str
    probes: tuple[ProbeResult, ...]
    detections: DetectionResult | None = None
    gaps: tuple[Gap, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.probes) and all(self.probes) and (self.detections is None or bool(self.detections))

    @property
    def first_divergent(self) -> ProbeResult | None:
        """The first probe that failed, in order of execution."""
        return next((p for p in self.probes if not p), None)

    @property
    def worst(self) -> ProbeResult | None:
        """The probe nearest to (or farthest beyond) its limits; one that failed for another reason first."""
        return max(self.probes, key=lambda p: (bool(p.problem), p.excess), default=None)


@dataclass(frozen=True)
class TensorRow:
    """The way of one stored tensor.

    Attributes:
        source, source_shape: in the source file.
        target, shape: in the checkpoint.
        ops: what the mapping does to it, "" where it is taken as it is.
        same: whether both hold the same bits.
    """

    source: str
    source_shape: tuple[int, ...]
    target: str
    shape: tuple[int, ...]
    ops: str
    same: bool


@dataclass(frozen=True)
class TensorResult:
    """Stored tensors against the source file's, through the mapping, bit for bit.

    Attributes:
        compared: number of tensors.
        different: names of the reference tensors whose bits differ, with how far.
        rows: the mapping, tensor by tensor.
        dropped: source tensors that the reference does not hold, with the reason.
    """

    compared: int
    different: tuple[str, ...] = ()
    rows: tuple[TensorRow, ...] = ()
    dropped: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.compared > 0 and not self.different
