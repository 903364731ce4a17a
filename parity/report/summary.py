"""The lines that every form of the parity report shows: verdict, groups of layers, detections, tensors. Plain data."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

from ssdconv.parity.layers.results import DetectionResult, ParityReport, ProbeResult

MOST_GROUPS = 14


@dataclass(frozen=True)
class Group:
    """Probes that stand together, over all inputs.

    Attributes:
        name: first and last layer, or what they are.
        probes: how many.
        failed: how many of them failed.
        worst: the one nearest to its limits.
        ratio, rms_ratio: the largest of the group.
    """

    name: str
    probes: int
    failed: int
    worst: ProbeResult
    ratio: float
    rms_ratio: float


def groups(report: ParityReport) -> list[Group]:
    """The probes in order of execution, worst over the inputs; a line per stage of the network, heads and outputs last."""
    if not report.inputs:
        return []
    every: dict[str, list[ProbeResult]] = {}
    for result in report.inputs:
        for probe in result.probes:
            every.setdefault(probe.source, []).append(probe)
    runs = [list(run) for _, run in groupby(report.inputs[0].probes, _stage)]
    while len(runs) > MOST_GROUPS:  # join the two neighbours that make the shortest run
        sizes = [len(a) + len(b) for a, b in pairwise(runs)]
        at = sizes.index(min(sizes))
        runs[at : at + 2] = [runs[at] + runs[at + 1]]
    return [_group(run[0].source, run[-1].source, [p for probe in run for p in every[probe.source]]) for run in runs]


def _group(first: str, last: str, probes: list[ProbeResult]) -> Group:
    return Group(
        first if first == last else f"{first} … {last}",
        len(probes),
        sum(not p for p in probes),
        max(probes, key=lambda p: (bool(p.problem), p.excess)),
        max(p.ratio for p in probes),
        max(p.rms_ratio for p in probes),
    )


def _stage(probe: ProbeResult) -> str:
    if probe.reference.startswith("@"):
        return probe.reference if probe.reference == "@input" else "outputs"
    if "mbox" in probe.source:
        return "heads"
    match = re.match(r"\D*(\d+)", probe.source)
    return match.group(1) if match else probe.source


def verdict(report: ParityReport) -> str:
    """One sentence: passed, with figures, or where the networks part."""
    if report.passed:
        every = [p for i in report.inputs for p in i.probes]
        most, rms = max(p.ratio for p in every), max(p.rms_ratio for p in every)
        return (
            f"{report.headline}: {report.probes} probes on {len(report.inputs)} inputs, 100 % within float32 rounding "
            f"(error at most {most:.2f} x the rounding floor, rms {rms:.2f} x)"
        )
    if report.outcome == "not compared":
        parts = ", ".join(gap.part for gap in report.gaps[:4]) + (" and others" if len(report.gaps) > 4 else "")
        return f"nothing differs in {report.probes} probes, but the oracle cannot tell about {parts}: not compared"
    if report.first_divergent == "detections":
        return "not the same detections, though every layer agrees"
    if report.first_divergent is not None and all(i.first_divergent is None for i in report.inputs):
        if report.tensors is not None and not report.tensors:
            return f"every layer agrees, but stored tensors differ: {report.first_divergent}"
        return f"not the same network: {report.first_divergent}"
    return f"not the same network: first divergent layer is {report.first_divergent or 'unknown'}"


def facts(report: ParityReport) -> list[tuple[str, str]]:
    """Labelled lines: files, oracle, tensors, detections, notes."""
    lines = [
        ("network", f"{report.network} ({report.source})"),
        ("weights", f"{Path(report.weights).name}  sha256 {report.weights_sha256[:16]}…"),
        ("source", f"{Path(report.source_file).name}  sha256 {report.source_sha256[:16]}…"),
        ("oracle", report.oracle),
    ]
    if report.tensors is not None:
        lines.append(("tensors", tensor_line(report)))
    lines += [
        (f"detections, {i.name}", detection_line(i.detections)) for i in report.inputs if i.detections is not None
    ]
    if all(i.detections is None for i in report.inputs):
        lines.append(("detections", "not compared: the source network ends before its detections"))
    lines += [("not compared", f"{gap.part}: {gap.reason}") for gap in report.gaps]
    lines += [("note", note) for note in report.notes]
    return lines


def tensor_line(report: ParityReport) -> str:
    """How many stored tensors equal the source's bit for bit."""
    assert report.tensors is not None
    different = report.tensors.different
    if not different:
        return f"{report.tensors.compared} bit-identical with the source file"
    more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
    return f"{len(different)} of {report.tensors.compared} differ: {different[0]}{more}"


def detection_line(found: DetectionResult) -> str:
    """Pairs, errors and one-sided rows."""
    if found.problem:
        return f"not comparable: {found.problem}"
    if found.overflow:
        return "not compared: boxes of both sides are infinite"
    if not found.oracle and not found.reference:
        return "not compared: neither side detects anything"
    text = f"{found.matched} of {max(found.oracle, found.reference)} equal"
    if found.matched:
        text += f" (score within {found.score_error:.1e}, boxes within {found.box_error:.1e})"
    if found.boundary:
        text += f", {found.boundary} at a decision boundary within rounding"
    if found.unexplained:
        text += f", {found.unexplained} unexplained"
    return text


def failures(report: ParityReport) -> Iterable[tuple[str, ProbeResult, int]]:
    """(input, first divergent probe, number of further ones behind it) of each input that has any."""
    for result in report.inputs:
        failed = [p for p in result.probes if not p]
        if failed:
            yield result.name, failed[0], len(failed) - 1
