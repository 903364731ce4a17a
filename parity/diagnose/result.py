"""What a diagnosis concluded, as plain data: frozen, round-tripping through JSON, without torch.

``Diagnosis.causes`` is in the order in which the causes were found, which is the network's order of execution: undoing the
first moves the first divergent layer to where the second acts, and so on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from ssdconv.errors import FormatError

Kind = Literal["pixels", "weights", "config"]
Verdict = Literal["explained", "partly explained", "unexplained", "no difference"]


@dataclass(frozen=True)
class Cause:
    """One known mistake, found in the suspect.

    Attributes:
        name: stable name of the hypothesis ("channel-order"); ``diagnose.hypotheses.TABLE`` has them all.
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
class State:
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
    before: State = State()
    after: State = State()
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
        try:
            if isinstance(data, str | bytes):
                return msgspec.json.decode(data, type=cls)
            return msgspec.convert(data, cls)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise FormatError(f"not a diagnosis: {error}") from None
