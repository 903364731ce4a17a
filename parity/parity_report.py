"""The verdict of ``verify`` with all that it rests on: frozen, true when passed, and round-tripping through JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ssdconv.errors import FormatError
from ssdconv.parity.links import LinkResult, headline, weak_links
from ssdconv.parity.results import Gap, InputResult, Outcome, ProbeResult, TensorResult


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
        found = [i.worst for i in self.inputs if i.worst is not None]
        return max(found, key=lambda p: (bool(p.problem), p.excess), default=None)

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
        try:
            if isinstance(data, str | bytes):
                return msgspec.json.decode(data, type=cls)
            return msgspec.convert(data, cls)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise FormatError(f"not a parity report: {error}") from None
