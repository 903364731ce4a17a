"""What a parity check concluded, as plain data: frozen, true when passed, and round-tripping through JSON (``ParityReport``).

That makes a failed result false: ask ``is None`` where one may be absent. Nothing here imports torch, so that reports can be read and
drawn anywhere.

A verdict rests on links: who says so, what this run compared, and where the checkpoint says something else. A link is as strong as the
weakest thing that was settled for it (``ssd_ref.evidence.STRENGTH``). What an oracle runs replaces what the plan rebuilt from facts or
read from the file; what was assumed, or given by the user, stays so whoever runs it: the oracle was told the same. A rebuilt oracle
shares the converter's facts, so its agreement proves arithmetic and no more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import msgspec

from ssdconv.errors import FormatError
from ssdconv.parity.layers.tolerance import MAX_RATIO, Floor, Measurement
from ssdconv.ssd_ref.evidence import BASES, INDEPENDENT, LINKS, STRENGTH, Basis, Claim, Link, of_link

Read = TypeVar("Read")
Outcome = Literal["passed", "failed", "not compared"]
"""What a check concluded; "not compared": nothing differs, but the oracle cannot tell about a part."""
GapCode = Literal["oracle cannot", "oracle departs", "oracle crashed", "empty", "overflow", "undecided"]
"""Why a part was not compared: the oracle does not have it, has it otherwise than the source, or ended in it; neither side
detects anything; boxes are infinite on both sides; every detection hangs on a decision within rounding."""
WORDS: Mapping[Link, str] = {"tensors": "weights", "architecture": "layers"}
"""How the headline calls a link, where not by its name."""
LONGEST = 160
"""Characters of reasons in a headline, beyond which it names the first alone."""
SETTLED_ELSEWHERE: frozenset[Basis] = frozenset({"assumed", "user"})
"""Bases that an oracle's run does not improve: it was given the same. A project's original code is given only what ``ran`` lists."""


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


def worst_of(probes: Iterable[ProbeResult]) -> ProbeResult | None:
    """The probe nearest to (or farthest beyond) its limits; one that failed for another reason first."""
    return max(probes, key=lambda p: (bool(p.problem), p.excess), default=None)


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
class Detection:
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
    oracle_best: tuple[Detection, ...] = ()
    reference_best: tuple[Detection, ...] = ()
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
        return worst_of(self.probes)


def detection_counts(inputs: Iterable[InputResult]) -> dict[str, int]:
    """Detections over all inputs: each side's, pairs, and one-sided ones, explained by rounding at a boundary or not."""
    found = [i.detections for i in inputs if i.detections is not None]
    names = ("oracle", "reference", "matched", "boundary", "unexplained")
    return {name: sum(getattr(d, name) for d in found) for name in names}


@dataclass(frozen=True)
class ComparedTensor:
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
    rows: tuple[ComparedTensor, ...] = ()
    dropped: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.compared > 0 and not self.different


@dataclass(frozen=True)
class LinkResult:
    """One link of one verdict.

    Attributes:
        link: which.
        basis: who says so; None where nobody does.
        text: what that says.
        compared: what this run compared of it; "" where nothing was.
        differs: fields of the checkpoint's config that are not what the source file gives, and both values.
        claims: everything that was settled about it, the weakest first.
    """

    link: Link
    basis: Basis | None
    text: str = ""
    compared: str = ""
    differs: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()

    def __bool__(self) -> bool:
        return not self.differs

    @property
    def independent(self) -> bool:
        """Whether it rests on nothing of the converter's own."""
        return self.basis in INDEPENDENT

    @property
    def weak(self) -> bool:
        """Whether ``--strict`` refuses it: assumed, rebuilt, or nobody says."""
        return not self.independent and self.basis != "user"

    @property
    def says(self) -> str:
        """Who says so, in words."""
        return BASES[self.basis] if self.basis is not None else "nobody says"


def link_results(
    settled: Sequence[Claim],
    ran: Sequence[Claim],
    compared: Mapping[Link, str],
    differs: Mapping[Link, Sequence[str]],
    alone: Collection[Link] = (),
) -> tuple[LinkResult, ...]:
    """The table of a verdict, a row per link.

    Args:
        settled: what the plan of the source file settled.
        ran: what the oracle runs, and which of the plan's assumptions it had to be told.
        compared: what this run compared; an oracle has no say in a link that was not.
        differs: fields in which the checkpoint's config is not the source file's.
        alone: links of which the oracle was told nothing that was assumed or given.
    """
    rows = []
    for link in LINKS:
        claims = of_link(settled, link)
        run = next((c for c in ran if c.link == link and c.basis not in SETTLED_ELSEWHERE and compared.get(link)), None)
        if run is not None:
            own = run.basis == "original code" or link in alone
            claims = of_link(
                (run, *(c for c in claims if c in ran or (c.basis in SETTLED_ELSEWHERE and not own))), link
            )
        weakest = claims[0] if claims else None
        every = of_link((*(() if run is None else (run,)), *settled), link)
        basis, text = (weakest.basis, _said(claims)) if weakest is not None else (None, "")
        rows.append(LinkResult(link, basis, text, compared.get(link, ""), tuple(differs.get(link, ())), every))
    return tuple(rows)


def _said(claims: Sequence[Claim]) -> str:
    """The texts of the weakest claims."""
    return "; ".join(dict.fromkeys(c.text for c in claims if c.basis == claims[0].basis))


def headline(links: Sequence[LinkResult]) -> str:
    """What a passed verdict may say: "same network" only where every link is independent of the converter.

    Args:
        links: the table; an empty one (of an older version's report) bears nothing but that the runs agree.
    """
    if not links:
        return "both sides agree; who vouches for what was not recorded"
    proven = [r for r in links if r.independent]
    rest = [r for r in links if not r.independent]
    absent = [r.link for r in links if r.link != "classes" and not r.compared and r.link not in ("pixels",)]
    untold = f"; not compared in this run: {_listed(absent)}" if absent else ""
    if not rest and not absent:
        return "same network"
    parts = [
        f"same {_listed([WORDS.get(r.link, r.link) for r in proven if r.compared or r.link in ('pixels', 'classes')])}"
    ]
    for basis in (*reversed(STRENGTH[:3]), None):
        found = [r for r in rest if r.basis == basis]
        if not found:
            continue
        words = _listed([WORDS.get(r.link, r.link) for r in found])
        told = _short([c.text for r in found for c in r.claims if c.basis == basis and c.text in r.text])
        verb = BASES[basis] if basis is not None else "vouched for by nobody"
        parts.append(f"{words} {verb}" + (f" ({told})" if told and basis in ("assumed", "user") else ""))
    return "; ".join(parts) + untold


def _short(texts: Sequence[str]) -> str:
    """The texts, or the first of them where all are too long for a headline."""
    kept = list(dict.fromkeys(texts))
    whole = "; ".join(kept)
    return whole if len(whole) <= LONGEST or len(kept) < 2 else f"{kept[0]}; and {len(kept) - 1} more, see the table"


def _listed(words: Iterable[str]) -> str:
    *most, last = list(words) or ["nothing"]
    return f"{', '.join(most)} and {last}" if most else last


def weak_links(links: Sequence[LinkResult]) -> tuple[LinkResult, ...]:
    """What ``--strict`` refuses: links that are assumed, rebuilt by this project, or that nobody vouches for."""
    return tuple(r for r in links if r.weak)


@dataclass(frozen=True)
class ParityReport:
    """The verdict of ``verify``: is the converted network the source network?

    Attributes:
        network, source: name of the network and system.
        weights, weights_sha256, source_file, source_sha256: the two files.
        oracle, versions: who computed the other side, and the versions of all libraries at work.
        inputs: what was fed, probe by probe.
        tensors: the stored bits; None where no mapping was at hand.
        not_compared: oracle outputs outside the declared probes, with the reason.
        notes: anything a reader should know ("no image was given ...").
        seconds: wall time.
        class_names: names of the labels; empty where the source does not tell.
        links: what the verdict rests on, a row per link; empty in reports of older versions.
    """

    network: str
    source: str
    weights: str
    weights_sha256: str
    source_file: str
    source_sha256: str
    oracle: str
    inputs: tuple[InputResult, ...]
    tensors: TensorResult | None = None
    versions: dict[str, str] = field(default_factory=dict)
    not_compared: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    class_names: tuple[str, ...] = ()
    links: tuple[LinkResult, ...] = ()

    def __bool__(self) -> bool:
        return self.outcome == "passed"

    @property
    def outcome(self) -> Outcome:
        """The verdict: failed where anything differs, else not compared where a part was compared on no input."""
        same = all(self.inputs) and all(self.links) and (self.tensors is None or bool(self.tensors))
        if not (self.inputs and same):
            return "failed"
        return "not compared" if self.gaps else "passed"

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """Parts that were compared on no input, each with its first reason."""
        compared = {p.source for i in self.inputs for p in i.probes}
        if any(i.detections is not None and "detections" not in {g.part for g in i.gaps} for i in self.inputs):
            compared.add("detections")
        found: dict[str, Gap] = {}
        for gap in (gap for i in self.inputs for gap in i.gaps if gap.part not in compared):
            found.setdefault(gap.part, gap)
        return tuple(found.values())

    @property
    def headline(self) -> str:
        """What the verdict may say: no more than its links bear."""
        if self.outcome == "not compared":
            return "nothing differs; not all is compared"
        return headline(self.links) if self else "not the same network"

    @property
    def weak(self) -> tuple[LinkResult, ...]:
        """Links that ``--strict`` refuses: assumed, rebuilt by this project, or vouched for by nobody."""
        return weak_links(self.links)

    @property
    def first_divergent(self) -> str | None:
        """Source name of the first layer that differs; else "detections", the first differing tensor, or the first field of the config
        that is not the source file's; else None."""
        failed = [i for i in self.inputs if i.first_divergent is not None]
        if failed:
            order = [p.source for p in failed[0].probes]
            names = [i.first_divergent.source for i in failed if i.first_divergent is not None]
            return min(names, key=lambda n: order.index(n) if n in order else len(order))
        if any(i.detections is not None and not i.detections for i in self.inputs):
            return "detections"
        if self.tensors is not None and not self.tensors:
            return self.tensors.different[0] if self.tensors.different else "tensors"
        return next((field for link in self.links for field in link.differs), None)

    @property
    def probes(self) -> int:
        """Probes compared over all inputs."""
        return sum(len(i.probes) for i in self.inputs)

    @property
    def worst(self) -> ProbeResult | None:
        """The worst probe over all inputs."""
        return worst_of(p for i in self.inputs for p in i.probes)

    @property
    def passed(self) -> bool:
        """Whether every part was compared and is the same."""
        return bool(self)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-ready data, with the derived figures (verdict, ratios) beside the measured ones."""
        data: dict[str, Any] = msgspec.to_builtins(self, enc_hook=str)  # notices become their texts
        for shown, result in zip(data["inputs"], self.inputs, strict=True):
            for row, probe in zip(shown["probes"], result.probes, strict=True):
                row |= {"ok": bool(probe), "ratio": probe.ratio, "rms_ratio": probe.rms_ratio, "needed": probe.needed}
        for row, link in zip(data["links"], self.links, strict=True):
            row |= {"ok": bool(link), "independent": link.independent, "says": link.says}
        summary = {
            "passed": self.passed,
            "headline": self.headline,
            "weak_links": [link.link for link in self.weak],
            "outcome": self.outcome,
            "gaps": msgspec.to_builtins(self.gaps),
            "first_divergent": self.first_divergent,
            "probes": self.probes,
            "worst_ratio": self.worst.ratio if self.worst is not None else None,
            "worst_rms_ratio": max((p.rms_ratio for i in self.inputs for p in i.probes), default=None),
            "worst_probe": self.worst.source if self.worst is not None else None,
        }
        return summary | data

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | str | bytes) -> ParityReport:
        """Read ``to_json``'s data, or its text, back; derived figures are computed anew.

        Raises:
            FormatError: not JSON, or not a parity report.
        """
        return read_back(cls, data, "a parity report")


def read_back(kind: type[Read], data: Mapping[str, Any] | str | bytes, what: str) -> Read:
    """A report from its JSON-ready data or its text.

    Raises:
        FormatError: not JSON, or not ``what``.
    """
    try:
        return msgspec.json.decode(data, type=kind) if isinstance(data, str | bytes) else msgspec.convert(data, kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"not {what}: {error}") from None
