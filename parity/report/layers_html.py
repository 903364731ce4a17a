"""A parity report as one self-contained HTML page: inline SVG and JPEG, no script, nothing fetched."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from ssdconv.parity.diagnose.result import Diagnosis
from ssdconv.parity.layers.results import Boundary, ParityReport, ProbeResult, TensorResult
from ssdconv.parity.layers.tolerance import MAX_RATIO, RMS_RATIO
from ssdconv.parity.report import layers_diagnosis, layers_style, map_style
from ssdconv.parity.report.layers_pictures import Image, both_sides, label_of
from ssdconv.parity.report.layers_svg import error_svg
from ssdconv.parity.report.summary import detection_line, facts, groups, verdict
from ssdconv.ssd_ref.evidence import Claim

AROUND = 4
"""Layers shown on either side of the first difference."""
MOST_ROWS = 60


def _section(title: str, lead: str, body: str) -> str:
    return f'<section><h2>{title}</h2><p class="soft small">{lead}</p>{body}</section>' if body else ""


def _hero(report: ParityReport) -> str:
    agree = sum(bool(p) for i in report.inputs for p in i.probes)
    kind, words = ("failed", "not the same network")
    if report.outcome == "not compared":
        kind, words = ("unsure", report.headline)
    elif report.passed:
        kind, words = (
            ("unsure", "agrees; see who says so") if report.weak or not report.links else ("passed", report.headline)
        )
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts(report))
    return (
        f'<section class="hero"><div><div class="big words">{agree:,} of {report.probes:,}<small> layers agree</small></div>'
        f'<p class="soft small" style="margin:10px 0 12px">{escape(verdict(report))}</p>'
        f'<span class="badge {kind}">{words}</span></div><dl>{listed}</dl></section>'
    )


def _links(report: ParityReport) -> str:
    """The table of what the verdict rests on, with every claim that was settled."""
    rows = []
    for row in report.links:
        told = "".join(f"<div>{escape(text)}</div>" for text in row.differs or (row.text,))
        more = "".join(f"<li>{escape(str(claim))}{_effect(claim)}</li>" for claim in row.claims)
        more = (
            f'<details><summary>{len(row.claims)} claim{"s" * (len(row.claims) > 1)}</summary><ul class="small">{more}</ul></details>'
            if more
            else ""
        )
        badge = "failed" if row.differs else "unsure" if row.weak else "passed"
        rows.append(
            f'<tr class="{"bad" if row.differs else ""}"><td>{escape(row.link)}</td>'
            f'<td class="left"><span class="badge {badge}">{escape(row.says)}</span></td>'
            f'<td class="left small">{escape(row.compared or "nothing in this run")}</td>'
            f'<td class="left small">{told}{more}</td></tr>'
        )
    head = '<tr><th>link</th><th class="left">who says so</th><th class="left">compared</th><th class="left">what</th></tr>'
    lead = (
        "A comparison proves no more than the side that it is made with. Links stated in the file, or run by the source framework from "
        "the file’s own graph or by the project’s original code, do not rest on this converter’s reading; the others do."
    )
    table = f'<div class="scroll"><table class="links">{head}{"".join(rows)}</table></div>'
    return _section("Who says so", lead, table if rows else "")


def _effect(claim: Claim) -> str:
    return f" ({escape(claim.effect)})" if claim.effect else ""


def _diagnosis(report: ParityReport, diagnosis: Diagnosis | None) -> str:
    if diagnosis is None:
        return ""
    lead = (
        f"Known mistakes were undone one by one, and in pairs, until {escape(diagnosis.suspect)} computes what "
        f"{escape(diagnosis.truth)} computes."
    )
    return _section("Diagnosis", lead, layers_diagnosis.html(diagnosis))


def _layers(report: ParityReport) -> str:
    marks = [g.name.split(" … ")[0] for g in groups(report)]
    keys = (("--accent", "within rounding"), ("--false", "differs"), ("--true", f"floor, and {MAX_RATIO:g} times it"))
    legend = "".join(f'<span class="key"><i style="background:var({v})"></i>{t}</span>' for v, t in keys)
    plots = "".join(f"<h3>{escape(i.name)}</h3>{error_svg(i, marks)}" for i in report.inputs)
    lead = (
        "Each dot is a layer, in order of execution, at the oracle’s largest error against the float64 reference. The green line "
        "is the rounding floor: what float32 costs the converted network itself. Dots inside the band are explained by rounding."
    )
    rows = worst_rows(report)
    first = next((k for k, (probe, _) in enumerate(rows) if not probe), None)
    near = ""
    if first is not None:
        start = max(0, first - AROUND)
        body = "".join(_row(k + 1, *rows[k], k == first) for k in range(start, min(len(rows), first + AROUND + 1)))
        near = (
            f'<h3>Around the first difference</h3><div class="scroll"><table class="layers">{_HEAD}{body}</table></div>'
        )
    every = "".join(_row(k + 1, *row, k == first) for k, row in enumerate(rows))
    table = f'<div class="scroll"><table class="layers">{_HEAD}{every}</table></div>'
    whole = f"<details><summary>All {len(rows)} layers, worst of {len(report.inputs)} inputs</summary>{table}</details>"
    return _section("Layers", lead, f'<div style="margin:4px 0">{legend}</div>{plots}{near}{whole}')


_HEAD = (
    '<tr><th>layer</th><th class="left">reference</th><th class="left">shape</th><th class="left"></th>'
    f"<th>error / floor (≤ {MAX_RATIO:g})</th><th>rms / floor (≤ {RMS_RATIO:g})</th><th>rtol</th></tr>"
)


def worst_rows(report: ParityReport) -> list[tuple[ProbeResult, str]]:
    """Each layer once, in order of execution: its worst result, and the input that this was on."""
    found: dict[str, tuple[ProbeResult, str]] = {}
    for result in report.inputs:
        for probe in result.probes:
            held = found.get(probe.source)
            if held is None or (bool(probe.problem), probe.excess) > (bool(held[0].problem), held[0].excess):
                found[probe.source] = (probe, result.name)
    return list(found.values())


def _row(number: int, probe: ProbeResult, name: str, first: bool) -> str:
    bad = not probe
    limit = math.log10(MAX_RATIO * 100) / 8  # the meter runs from a hundredth of the floor over eight decades
    part = min(max(math.log10(max(probe.ratio, 1e-9) * 100) / 8, 0.0), 1.0)
    meter = f'<span class="meter"><i class="{"bad" if bad else ""}" style="width:{100 * part:.1f}%"></i><u style="left:{100 * limit:.1f}%"></u></span>'
    kind = "bad first" if first else ("bad" if bad else "")
    cells = f'<td class="left"><code>{escape(probe.reference)}</code></td><td class="left small">{_shape(probe.measured.shape)}</td><td class="left">{meter}</td>'
    figures = f"<td>{_number(probe.ratio)}</td><td>{_number(probe.rms_ratio)}</td><td>{probe.needed:.1e}</td>"
    title = escape(f"number {number}, worst on {name}")
    line = f'<tr class="{kind}"><td title="{title}"><code>{escape(probe.source)}</code></td>{cells}{figures}</tr>'
    why = f'<tr class="why"><td colspan="7">{escape(name)}: {escape(probe.reason)}</td></tr>' if first else ""
    return line + why


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _number(value: float) -> str:
    return f"{value:,.2f}" if value < 10_000 else f"{value:.1e}"


def _detections(report: ParityReport, images: Mapping[str, Image]) -> str:
    parts = []
    for result in report.inputs:
        found = result.detections
        if found is None:
            continue
        parts.append(f'<h3>{escape(result.name)}</h3><p class="small">{escape(detection_line(found))}</p>')
        if result.name in images:
            parts.append(both_sides(found, images[result.name], report.oracle, report.class_names))
        if found.one_sided:
            parts.append(_one_sided(found.one_sided, report.class_names))
    keys = (
        ("#17a2d4", "on both sides"),
        ("var(--object)", "one side, at a decision boundary"),
        ("var(--false)", "one side only"),
    )
    legend = "".join(f'<span class="key"><i style="background:{v}"></i>{t}</span>' for v, t in keys)
    lead = "Final boxes of both sides, paired by class, score and place within rounding."
    return _section("Detections", lead, legend + "".join(parts) if parts else "")


def _one_sided(rows: Sequence[Boundary], names: Sequence[str]) -> str:
    ordered = sorted(rows, key=lambda r: (r.explained, -r.score))
    body = "".join(
        f'<tr class="{"" if r.explained else "bad"}"><td>{r.side}</td><td class="left">{escape(label_of(r.label, names))}</td>'
        f'<td>{r.score:.6f}</td><td>{", ".join(f"{v:.4f}" for v in r.box)}</td><td class="left">{escape(r.reason)}</td></tr>'
        for r in ordered[:MOST_ROWS]
    )
    head = '<tr><th>only in</th><th class="left">class</th><th>score</th><th>box</th><th class="left">why</th></tr>'
    more = f" (the first {MOST_ROWS})" if len(rows) > MOST_ROWS else ""
    opened = "" if all(r.explained for r in rows) else " open"
    table = f'<div class="scroll"><table>{head}{body}</table></div>'
    return f"<details{opened}><summary>{len(rows)} boxes of one side only{more}</summary>{table}</details>"


def _tensors(found: TensorResult | None) -> str:
    if found is None:
        return ""
    same = found.compared - len(found.different)
    ordered = sorted(found.rows, key=lambda r: r.same)
    body = "".join(
        f'<tr class="{"" if r.same else "bad"}"><td><code>{escape(r.source)}</code></td><td class="left small">{_shape(r.source_shape)}</td>'
        f'<td class="left small">{escape(r.ops) or "as it is"}</td><td class="left"><code>{escape(r.target)}</code></td>'
        f'<td class="left small">{_shape(r.shape)}</td><td>{"same" if r.same else "differs"}</td></tr>'
        for r in ordered
    )
    kinds = ("source tensor", "shape", "operation", "reference tensor", "shape", "bits")
    head = "<tr>" + "".join(f'<th class="left">{k}</th>' for k in kinds) + "</tr>"
    dropped = "".join(
        f"<tr><td><code>{escape(n)}</code></td><td>{escape(why)}</td></tr>" for n, why in found.dropped.items()
    )
    different = "".join(f"<li>{escape(line)}</li>" for line in found.different[:20])
    told = f'<ul class="small">{different}</ul>' if different else ""
    table = f'<div class="scroll"><table>{head}{body}</table></div>'
    parts = f"{told}<details{' open' if told else ''}><summary>{len(found.rows)} tensors</summary>{table}</details>"
    if dropped:
        parts += f"<details><summary>Tensors of the source that are left out, and why: {len(found.dropped)}</summary><table>{dropped}</table></details>"
    return _section(
        "Tensor mapping",
        f"{same:,} of {found.compared:,} stored tensors are bit-identical with the source file’s.",
        parts,
    )


def _provenance(report: ParityReport) -> str:
    files = (("weights", report.weights, report.weights_sha256), ("source", report.source_file, report.source_sha256))
    rows = "".join(
        f'<tr><td>{kind}</td><td class="left">{escape(Path(path).name)}</td><td class="hash">sha256 {digest}</td></tr>'
        for kind, path, digest in files
    )
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    table = f'<div class="scroll"><table>{rows}<tr><td>oracle</td><td class="left" colspan="2">{escape(report.oracle)}</td></tr>'
    table += f'<tr><td>versions</td><td class="left" colspan="2">{escape(versions)}</td></tr>'
    table += f'<tr><td>time</td><td class="left" colspan="2">{report.seconds:.1f} s</td></tr></table></div>'
    left = "".join(
        f"<tr><td><code>{escape(n)}</code></td><td>{escape(why)}</td></tr>" for n, why in report.not_compared.items()
    )
    if left:
        table += f"<details><summary>Outputs of the oracle that are no probes, and why: {len(report.not_compared)}</summary><table>{left}</table></details>"
    return _section("Provenance", "What was compared, and with what.", table)


def html_page(
    report: ParityReport, diagnosis: Diagnosis | None = None, images: Mapping[str, Image] | None = None
) -> str:
    """The page as text, complete in itself.

    Args:
        report: what ``verify`` returned.
        diagnosis: why the networks differ, where it was asked.
        images: the input's image by its name, (height, width, 3) BGR uint8, where boxes shall be drawn.
    """
    name = escape(report.network)
    state = report.outcome
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Parity of {name}: {state}</title><style>{map_style.STYLE}{layers_style.STYLE}</style></head><body><main>"
        f'<h1>{name}</h1><p class="soft">Parity of the converted weights with their source, {escape(report.source)}</p>'
        f"{_hero(report)}{_links(report)}{_diagnosis(report, diagnosis)}{_layers(report)}{_detections(report, images or {})}"
        f"{_tensors(report.tensors)}{_provenance(report)}"
        "<footer>Written by ssdconv. Everything shown is inside this file.</footer></main></body></html>\n"
    )
