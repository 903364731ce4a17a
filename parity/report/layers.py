"""A parity report for a reader: ``parity.html`` (complete in itself), ``parity.md`` (for a pull request) and ``parity.json``.

The page is ``templates/layers.html.j2`` with ``diagnosis.html.j2`` and ``errors.svg.j2``; here is what they show.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssdconv.errors import FormatError, MissingError
from ssdconv.parity.diagnose.result import Agreement, Diagnosis
from ssdconv.parity.layers.results import Boundary, DetectionResult, InputResult, ParityReport, ProbeResult
from ssdconv.parity.layers.tolerance import MAX_RATIO, RMS_RATIO
from ssdconv.parity.report.page import Drawn, Image, data_url, drawn, read_photo, render, write_files
from ssdconv.parity.report.summary import detection_line, facts, failures, groups, verdict
from ssdconv.ssd_ref.gate import read_input, reader
from ssdconv.text import Markdown, markdown_code, markdown_table, markdown_text

LARGEST = 1e308
"""Stands for infinity, which JSON does not have."""
AROUND = 4
"""Layers shown on either side of the first difference."""
MOST_ROWS = 60
SHOWN_TRIALS = 40
SHOWN_BOXES = 12
CLEAR = 0.3
"""Boxes with a score above it are drawn, else the best ones."""
LEFT, TOP, WIDTH, HEIGHT, BELOW = 58.0, 38.0, 940.0, 220.0, 96.0
"""Margins and size of the plot of errors."""
LOWEST, HIGHEST = -10, 2
"""Decades of its axis at most; errors of 0 stand at its lower end."""
TITLES = {
    "explained": ("passed", "the cause was found"),
    "partly explained": ("unsure", "causes were found, but something is left"),
    "unexplained": ("failed", "no known mistake explains the difference"),
    "no difference": ("passed", "nothing differs"),
}
"""A diagnosis' verdict -> its badge."""


def write_report(
    directory: Path, report: ParityReport, *, diagnosis: Diagnosis | None = None, pictures: Sequence[Path] = ()
) -> list[Path]:
    """Write the three files; each replaces an older one in one step.

    Args:
        directory: made where it does not exist.
        report: what ``verify`` returned.
        diagnosis: why the networks differ, where it was asked.
        pictures: the photos that ``verify`` was given, to draw both sides' boxes on. Those that cannot be read are left out;
            the generated picture needs none.

    Returns:
        The files: HTML, Markdown, JSON. ``load`` reads the last; its key ``diagnosis`` is null or what
        ``Diagnosis.from_json`` reads.

    Raises:
        OutputError: the folder or a file cannot be written.
    """
    texts = {
        "html": html_page(report, diagnosis, images_of(report, pictures)),
        "md": markdown(report, diagnosis),
        "json": dumps(report, diagnosis),
    }
    return list(write_files(directory, "parity", texts).values())


def dumps(report: ParityReport, diagnosis: Diagnosis | None = None) -> str:
    """Report and diagnosis as JSON text."""
    data = report.to_json() | {"diagnosis": None if diagnosis is None else diagnosis.to_json()}
    return json.dumps(_finite(data), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else math.copysign(LARGEST, value)
    return value


@reader
def load(path: Path) -> ParityReport:
    """Read a report back.

    Raises:
        MissingError: no such file.
        FormatError: not a parity report.
    """
    try:
        return ParityReport.from_json(read_input(path, "document", "report"))
    except FileNotFoundError:
        raise MissingError("no such file", where=str(path)) from None
    except FormatError as error:
        raise FormatError(error.what, where=str(path)) from None


def images_of(report: ParityReport, photos: Sequence[Path] = ()) -> dict[str, Image]:
    """The images behind the report's inputs, BGR, by the input's name.

    Photos are paired by file name and must still be readable; the generated picture is made again; noise has no picture.
    """
    from ssdconv.parity.layers.inputs import synthetic_picture

    by_name = {Path(photo).name: Path(photo) for photo in photos}
    found: dict[str, Image] = {}
    for result in report.inputs:
        generated = re.fullmatch(r"synthetic picture, seed (\d+)", result.name)
        image = read_photo(by_name[result.name]) if result.name in by_name else None
        if generated is not None:
            image = synthetic_picture(int(generated[1]))
        if image is not None:
            found[result.name] = image
    return found


def html_page(
    report: ParityReport, diagnosis: Diagnosis | None = None, images: Mapping[str, Image] | None = None
) -> str:
    """The page as text, complete in itself.

    Args:
        report: what ``verify`` returned.
        diagnosis: why the networks differ, where it was asked.
        images: the input's image by its name, (height, width, 3) BGR uint8, where boxes shall be drawn.
    """
    rows = worst_rows(report)
    marks = [g.name.split(" … ")[0] for g in groups(report)]
    return render(
        "layers.html.j2",
        report=report,
        verdict=verdict(report),
        facts=facts(report),
        state=_state(report),
        agree=sum(bool(p) for i in report.inputs for p in i.probes),
        rows=rows,
        first=next((k for k, (probe, _) in enumerate(rows) if not probe), None),
        around=AROUND,
        most={"ratio": MAX_RATIO, "rms": RMS_RATIO, "rows": MOST_ROWS},
        # the meter runs from a hundredth of the floor over eight decades
        meter=lambda ratio: 100 * min(max(math.log10(max(ratio, 1e-9) * 100) / 8, 0.0), 1.0),
        plot=lambda result: error_svg(result, marks),
        detections=[
            _both_sides(i.name, i.detections, report, (images or {}).get(i.name))
            for i in report.inputs
            if i.detections is not None
        ],
        label_of=lambda label: label_of(label, report.class_names),
        diagnosis=diagnosis,
        told=None if diagnosis is None else _told(diagnosis),
        files=[
            ("weights", Path(report.weights).name, report.weights_sha256),
            ("source", Path(report.source_file).name, report.source_sha256),
        ],
    )


def _state(report: ParityReport) -> tuple[str, str]:
    """Badge of the verdict."""
    if report.outcome == "not compared":
        return "unsure", report.headline
    if not report.passed:
        return "failed", "not the same network"
    return ("unsure", "agrees; see who says so") if report.weak or not report.links else ("passed", report.headline)


def worst_rows(report: ParityReport) -> list[tuple[ProbeResult, str]]:
    """Each layer once, in order of execution: its worst result, and the input that this was on."""
    found: dict[str, tuple[ProbeResult, str]] = {}
    for result in report.inputs:
        for probe in result.probes:
            held = found.get(probe.source)
            if held is None or (bool(probe.problem), probe.excess) > (bool(held[0].problem), held[0].excess):
                found[probe.source] = (probe, result.name)
    return list(found.values())


def error_svg(result: InputResult, marks: Sequence[str] = ()) -> str:
    """One input as SVG: the band from the floor to its limit, and a dot per layer at the oracle's error.

    Args:
        result: probes in order of execution.
        marks: names of probes to write below the axis.
    """
    probes = result.probes
    if not probes:
        return ""

    def relative(value: float, probe: ProbeResult) -> float:
        return value / probe.measured.magnitude if probe.measured.magnitude > 0 else value

    errors = [relative(p.measured.error, p) for p in probes]
    lows = [relative(p.floor.max, p) for p in probes]
    highs = [low * MAX_RATIO for low in lows]
    exponents = [math.log10(v) for v in (*errors, *lows, *highs) if 0 < v < math.inf]
    bottom = max(LOWEST, math.floor(min(exponents, default=-8.0)))
    top = max(bottom + 1, min(HIGHEST, math.ceil(max(exponents, default=0.0))))

    def x(index: float) -> float:
        return LEFT + WIDTH * (index + 0.5) / len(probes)

    def y(value: float) -> float:
        exponent = math.log10(value) if 0 < value < math.inf else (top if value else bottom)
        return TOP + HEIGHT * (1 - (min(max(exponent, bottom), top) - bottom) / (top - bottom))

    def path(values: Sequence[float], reverse: bool = False) -> str:
        points = [f"{x(i):.1f},{y(value):.1f}" for i, value in enumerate(values)]
        return " ".join(reversed(points) if reverse else points)

    places = {probe.source: x(index) for index, probe in enumerate(probes)}
    written: list[tuple[float, str]] = []
    for name in marks:
        if name in places and (not written or places[name] - written[-1][0] >= 13):
            written.append((places[name], name if len(name) <= 20 else "…" + name[-19:]))
    return render(
        "errors.svg.j2",
        name=result.name,
        probes=probes,
        errors=errors,
        lows=lows,
        highs=highs,
        decades=range(bottom, top + 1),
        first=next((i for i, p in enumerate(probes) if not p), None),
        marks=written,
        x=x,
        y=y,
        path=path,
        g={"left": LEFT, "top": TOP, "width": WIDTH, "height": HEIGHT, "below": BELOW},
    )


def label_of(label: int, names: Sequence[str]) -> str:
    """Name of a class, its number where the source tells no names."""
    return names[label] if label < len(names) else f"class {label}"


def _both_sides(name: str, found: DetectionResult, report: ParityReport, image: Image | None) -> dict[str, Any]:
    """What is shown of one input's detections; with an image the best boxes of each side on it."""
    told: dict[str, Any] = {
        "name": name,
        "line": detection_line(found),
        "one_sided": sorted(found.one_sided, key=lambda r: (r.explained, -r.score)),
        "explained": all(r.explained for r in found.one_sided),
        "sides": [],
    }
    if image is None:
        return told
    height, width = image.shape[:2]
    told |= {"url": data_url(image), "width": width, "height": height}
    for side, title, count, rows in (
        ("oracle", report.oracle, found.oracle, found.oracle_best),
        ("reference", "converted", found.reference, found.reference_best),
    ):
        shown = [r for r in rows if r.score > CLEAR][: 2 * SHOWN_BOXES] or list(rows[:SHOWN_BOXES])
        boxes = [
            _drawn(r.box, f"{label_of(r.label, report.class_names)} {r.score:.3f}", kind, width, height)
            for r in reversed(shown)
            for kind in (_kind(found.one_sided, side, r.label, r.score),)
        ]
        part = f"the best {len(shown)} of {count:,} boxes" if len(shown) < count else f"{count:,} boxes"
        told["sides"].append({"title": title, "told": part, "boxes": boxes})
    return told


def _kind(one_sided: Sequence[Boundary], side: str, label: int, score: float) -> str:
    for row in one_sided:
        if (row.side, row.label, row.score) == (side, label, score):
            return "boundary" if row.explained else "only"
    return "same"


def _drawn(box: Sequence[float], text: str, kind: str, width: int, height: int) -> Drawn:
    x1, y1, x2, y2 = (min(max(v, -0.02), 1.02) * size for v, size in zip(box, (width, height) * 2, strict=True))
    return drawn((x1, y1, x2, y2), kind, text, text, (width, height), max(width / 36, 8.0))


def _told(diagnosis: Diagnosis) -> dict[str, Any]:
    """What the diagnosis' section shows in HTML and Markdown."""
    a, b = diagnosis.before, diagnosis.after
    comparison = [
        ("first difference", a.first_divergent or "none", b.first_divergent or "none"),
        ("layers that differ", _of(a.failed, a.probes), _of(b.failed, b.probes)),
        ("largest error over its limit", f"{a.excess:.3g}", f"{b.excess:.3g}"),
        ("stored tensors that differ", _of(a.tensors_different, a.tensors), _of(b.tensors_different, b.tensors)),
        ("the truth's detections found", _found(a), _found(b)),
    ]
    return {
        "badge": TITLES[diagnosis.verdict],
        "comparison": [row for row in comparison if row[1:] != ("–", "–")],
        "left": b.first_divergent if diagnosis.verdict in ("unexplained", "partly explained") else None,
        "trials": sorted(diagnosis.trials, key=lambda t: (not t.passed, t.excess_after))[:SHOWN_TRIALS],
        "tried": f"{len(diagnosis.trials)} trials in {diagnosis.seconds:.1f} s",
    }


def _of(count: int, total: int) -> str:
    return f"{count:,} of {total:,}" if total else "–"


def _found(state: Agreement) -> str:
    return "–" if state.detections is None else _of(state.detections_matched or 0, state.detections)


def markdown(report: ParityReport, diagnosis: Diagnosis | None = None) -> str:
    """Verdict, figures per stage, the first divergent layer, the diagnosis, provenance, and every layer folded away."""
    return "\n".join(_markdown(report, diagnosis)).rstrip() + "\n"


def _markdown(report: ParityReport, diagnosis: Diagnosis | None) -> Iterator[str]:
    yield f"## Parity: {'FAILED' if report.outcome == 'failed' else report.outcome}"
    yield from ("", f"**{markdown_text(verdict(report))}**", "")
    yield from (f"- {markdown_text(label)}: {markdown_text(text)}" for label, text in facts(report))
    yield f"- versions: {', '.join(f'{k} {v}' for k, v in report.versions.items())}"
    if report.links:
        links = [
            (
                f"{row.link}{' ❌' if row.differs else ''}",
                row.says,
                row.compared or "nothing",
                "; ".join(row.differs) or row.text,
            )
            for row in report.links
        ]
        yield from ("", markdown_table(("link", "who says so", "compared", "what"), links, left=4))
    limits = (f"max error / floor (≤ {MAX_RATIO:g})", f"rms / floor (≤ {RMS_RATIO:g})")
    stages = [
        (
            _named(g.name, f" ❌ {g.failed}" if g.failed else ""),
            g.probes,
            f"{g.ratio:.2f}",
            f"{g.rms_ratio:.2f}",
            f"{g.worst.needed:.1e}",
        )
        for g in groups(report)
    ]
    yield from ("", markdown_table(("layers", "probes", *limits, "smallest rtol"), stages))
    found = list(failures(report))
    if found:
        yield from ("", "### First divergent layer", "")
        for name, probe, more in found:
            yield f"- {markdown_code(probe.source)} on {markdown_text(name)}: {markdown_text(probe.reason)} ({more} more differ behind it)"
    if diagnosis is not None:
        yield from _diagnosis_markdown(diagnosis)
    if report.tensors is not None and report.tensors.different:
        yield from ("", "### Stored tensors that differ", "")
        yield from (f"- {markdown_text(line)}" for line in report.tensors.different[:20])
    files = [("weights", markdown_code(report.weights_sha256)), ("source", markdown_code(report.source_sha256))]
    yield from ("", "### Provenance", "", markdown_table(("", "sha256"), files, left=2))
    yield from ("", "<details><summary>Every layer</summary>", "")
    for result in report.inputs:
        layers = [
            (
                _named(p.source, "" if p else " ❌"),
                "×".join(map(str, p.measured.shape)),
                f"{p.ratio:.2f}",
                f"{p.rms_ratio:.2f}",
            )
            for p in result.probes
        ]
        head = ("layer", "shape", "error / floor", "rms / floor")
        yield from (f"**{markdown_text(result.name)}**", "", markdown_table(head, layers, left=2), "")
    yield "</details>"


def _named(name: str, mark: str) -> Markdown:
    return Markdown(markdown_code(name) + mark)


def _diagnosis_markdown(diagnosis: Diagnosis) -> Iterator[str]:
    told = _told(diagnosis)
    yield from ("", f"### Diagnosis: {told['badge'][1]}", "")
    for cause in diagnosis.causes:
        detail = f" ({markdown_code(cause.detail)})" if cause.detail else ""
        yield f"- **{cause.title}**{detail}: {markdown_text(cause.explanation)} {markdown_text(cause.where)}"
        if cause.fix:
            yield f"  - next: {markdown_text(cause.fix)}"
    if diagnosis.causes:
        yield from ("", markdown_table(("", "as it is", "with the causes undone"), told["comparison"]))
    if told["left"]:
        yield from ("", f"What is left starts at {markdown_code(told['left'])}.")
    yield from ("", "; ".join([told["tried"], *map(markdown_text, diagnosis.notes)]))
