"""What a diagnosis says about a state of the suspect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from ssdconv.parity.diagnose.evidence import Evidence
from ssdconv.parity.diagnose.judge import Outcome, excess_of, missed
from ssdconv.parity.diagnose.net import Net
from ssdconv.parity.diagnose.result import State, Verdict
from ssdconv.ssd_ref.config import SSDConfig


def state(outcome: Outcome, evidence: Evidence) -> State:
    """How far the suspect agrees: layers, stored tensors, detections."""
    probes, found = outcome.probes, outcome.found
    return State(
        outcome.name or evidence.first,
        len(probes),
        sum(not p for p in probes),
        max((excess_of(p) for p in probes), default=0.0),
        len(evidence.truth),
        len(evidence.different),
        None if found is None else found.oracle,
        None if found is None else found.matched,
    )


def excess_at(outcome: Outcome, place: int) -> float:
    """Error over the limit at a place of the outcome; behind the last probe stand the detections."""
    return missed(outcome.found) if place >= len(outcome.probes) else excess_of(outcome.probes[place])


def verdict_of(before: State, after: State, causes: int) -> Verdict:
    """The verdict, from both states and the number of causes."""
    if before.first_divergent is None:
        return "no difference"
    if after.first_divergent is None:
        return "explained"
    return "partly explained" if causes else "unexplained"


def unseen(net: Net, truth: SSDConfig) -> Iterator[str]:
    """Settings of pixels and detection rule that differ from the truth's."""
    for part in ("pixels", "detect"):
        mine, theirs = getattr(net.config, part), getattr(truth, part)
        for one in fields(mine):
            own, other = getattr(mine, one.name), getattr(theirs, one.name)
            if own != other:
                yield f"{part}.{one.name} is {own}, the truth has {other}"
