"""What a diagnosis concluded: plain data (frozen, round-tripping through JSON, without torch), and its text for a terminal.

``Diagnosis.causes`` is in the order in which the causes were found, which is the network's order of execution: undoing the
first moves the first divergent layer to where the second acts, and so on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from ssdconv.parity.layers.results import read_back
from ssdconv.text import console as safe_console

if TYPE_CHECKING:
    from rich.console import Console


Kind = Literal["pixels", "weights", "config"]
Verdict = Literal["explained", "partly explained", "unexplained", "no difference"]
HEADS = {
    "explained": "the difference is explained",
    "partly explained": "part of the difference is explained",
    "unexplained": "no known mistake explains the difference",
    "no difference": "no difference: both compute the same",
}
Line = tuple[str, str]


@dataclass(frozen=True)
class Cause:
    """One known mistake, found in the suspect.

    Attributes:
        name: stable name of the hypothesis ("channel-order"); ``diagnose.configs.TABLE`` has them all.
        title: what is wrong, in a few words.
        explanation: one sentence: how it happens and what it does.
        where: the thread, or the fact about a source, that it comes from.
        kind: what it changes.
        detail: where exactly, and with which figures ("conv1_1: input channels reversed"); "" where the title says all.
        probe: source name of the first divergent layer that it explains.
        fix: the next step for the user, a command where there is one.
    """

    name: str
    title: str
    explanation: str
    where: str
    kind: Kind
    detail: str = ""
    probe: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Trial:
    """One attempt: causes undone together, and what was left.

    Attributes:
        causes: names of the hypotheses, with their detail ("bn-eps: 1e-05 instead of 0.001").
        probe: the first divergent layer that the trial was to explain.
        excess_before, excess_after: error of that layer over its limit (above 1 fails), before and after.
        first_divergent: first divergent layer afterwards, None where none is left or where only ``probe`` was computed.
        passed: the trial removed the difference at ``probe``.
        scope: ``layer`` computed that layer alone from recorded inputs, ``network`` the whole network.
    """

    causes: tuple[str, ...]
    probe: str
    excess_before: float
    excess_after: float
    first_divergent: str | None = None
    passed: bool = False
    scope: Literal["tensors", "layer", "network"] = "network"


@dataclass(frozen=True)
class Agreement:
    """How far the suspect agrees, before or after the causes are undone.

    Attributes:
        first_divergent: source name of the first layer (or "detections", "pixels", a tensor) that differs; None where all agree.
        probes, failed: layers compared and layers that differ, over all inputs.
        excess: largest error over its limit (above 1 fails) over all layers.
        tensors, tensors_different: stored tensors compared and those whose bits differ.
        detections, detections_matched: detections of the truth on the first input, and those that the suspect has too; None
            where they were not compared.
    """

    first_divergent: str | None = None
    probes: int = 0
    failed: int = 0
    excess: float = 0.0
    tensors: int = 0
    tensors_different: int = 0
    detections: int | None = None
    detections_matched: int | None = None


@dataclass(frozen=True)
class Diagnosis:
    """Why ``suspect`` does not compute what ``truth`` computes.

    Attributes:
        verdict: ``explained``: undoing the causes makes everything pass; ``partly explained``: the causes are real but
            something is left, which starts at ``after.first_divergent``; ``unexplained``: no known mistake helps; ``no difference``.
        suspect, truth: names of both sides.
        first_divergent: source name of the first layer that differs, before anything is undone.
        causes: what is wrong, in order of execution.
        trials: what was tried, in order.
        before, after: agreement without and with the causes undone.
        seconds: wall time.
        notes: anything a reader should know.
    """

    verdict: Verdict
    suspect: str
    truth: str
    first_divergent: str | None = None
    causes: tuple[Cause, ...] = ()
    trials: tuple[Trial, ...] = ()
    before: Agreement = Agreement()
    after: Agreement = Agreement()
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Nothing differs."""
        return self.verdict == "no difference"

    def to_json(self) -> dict[str, Any]:
        """The diagnosis as JSON-ready data."""
        data: dict[str, Any] = msgspec.to_builtins(self, enc_hook=str)  # notices become their texts
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | str | bytes) -> Diagnosis:
        """Read ``to_json``'s data, or its text, back.

        Raises:
            FormatError: not JSON, or not a diagnosis.
        """
        return read_back(cls, data, "a diagnosis")


def lines(diagnosis: Diagnosis) -> Iterator[Line]:
    """(style, text) of every line."""
    good = diagnosis.verdict in ("explained", "no difference")
    yield (
        "bold green" if good else "bold red",
        f"{diagnosis.suspect} against {diagnosis.truth}: {HEADS[diagnosis.verdict]}",
    )
    if diagnosis.first_divergent is not None:
        yield ("", f"  starts at {diagnosis.first_divergent}")
    for index, cause in enumerate(diagnosis.causes, 1):
        yield ("", "")
        yield ("bold", f"{index}. {cause.title}  [{cause.name}]")
        if cause.detail:
            yield ("", f"   {cause.detail}")
        yield ("", f"   {cause.explanation}")
        yield ("dim", f"   known from: {cause.where}")
        if cause.probe:
            yield ("dim", f"   first shows at: {cause.probe}")
        if cause.fix:
            yield ("", f"   to fix: {cause.fix}")
    if not diagnosis.passed:
        yield ("", "")
        yield ("", f"  as it is          {state_text(diagnosis.before)}")
        if diagnosis.causes:
            yield ("", f"  with this undone  {state_text(diagnosis.after)}")
    for note in diagnosis.notes:
        yield ("dim", f"  note: {note}")
    tried = sum(len(t.causes) > 0 for t in diagnosis.trials)
    yield ("dim", f"  {tried} trials in {diagnosis.seconds:.1f} s")


def state_text(found: Agreement) -> str:
    """How far both sides agree."""
    text = f"{found.probes - found.failed} of {found.probes} layers agree"
    if found.tensors:
        text += f", {found.tensors - found.tensors_different} of {found.tensors} tensors are bit-identical"
    if found.detections is not None:
        text += f", {found.detections_matched} of {found.detections} detections equal"
    if found.first_divergent is not None:
        text += f"; first difference at {found.first_divergent}"
    return text


def show(diagnosis: Diagnosis, console: Console | None = None) -> None:
    """Print the diagnosis on stdout."""
    from rich.text import Text

    console = console or safe_console()
    for style, text in lines(diagnosis):
        console.print(Text(text, style), soft_wrap=True)
