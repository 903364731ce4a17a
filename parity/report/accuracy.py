"""How well a network detects, for a reader: an evaluation as HTML (``templates/evaluation.html.j2``) and Markdown, and a
comparison of two as text and Markdown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from ssdconv.parity.accuracy.bootstrap import Interval
from ssdconv.parity.accuracy.compare import Compared, Comparison
from ssdconv.parity.accuracy.published import DATASET_TITLES, Verdict
from ssdconv.parity.accuracy.result import ClassScore, Curve, EvaluationResult, Shown, WorstImage
from ssdconv.parity.report.page import (
    NOT_MEASURED,
    Drawn,
    data_url,
    drawn,
    percent,
    points,
    read_photo,
    render,
    spread,
    write_files,
)
from ssdconv.text import markdown_code, markdown_table, markdown_text

COMPARISON_HEAD = ("class", "objects", "A", "B", "B − A", "95 % interval")
_ABOVE = {"object": 0, "difficult": 0, "ignored": 1, "true": 2, "false": 3}
"""What is drawn above what."""


def data_title(result: EvaluationResult | Comparison) -> str:
    """ "VOC2007 test, 4,952 images"."""
    name = DATASET_TITLES.get(result.dataset, result.dataset)
    part = f"{result.images:,} of {result.of_images:,}" if result.images != result.of_images else f"{result.images:,}"
    return f"{name}, {part} images"


def main_verdicts(result: EvaluationResult) -> tuple[Verdict, ...]:
    """The verdicts on the number that matters most, those that count first."""
    mine = [v for v in result.verdicts if v.metric == result.main]
    return tuple(sorted(mine, key=lambda v: (not v.counts, v.row.dataset != result.dataset)))


def cited(verdict: Verdict) -> str:
    """System and document of a published row."""
    row = verdict.row
    return f"{row.system}, {row.title}" + ("" if row.checked else " (recalled, not read again)")


def class_table(
    result: EvaluationResult, count: Callable[[int], str] = "{:,}".format
) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of classes; published numbers are columns where one counts."""
    published = {v.metric[3:]: v for v in result.verdicts if v.counts and v.metric.startswith("AP:")}
    head = ["class", "AP %", "95 % interval", "objects", "detections", "found"]
    rows = []
    for c in result.classes:
        cells = [c.name, percent(c.ap), "–" if c.ap is None else spread(c.interval, 1)]
        cells += map(count, (c.objects, c.detections, c.true_positives))
        if published:
            verdict = published.get(c.name)
            cells += [verdict.row.text, points(verdict.difference)] if verdict is not None else ["", ""]
        rows.append(cells)
    return head + (["published %", "difference"] if published else []), rows


def write_report(result: EvaluationResult, folder: Path) -> dict[str, Path]:
    """Write ``evaluation.json``, ``.md`` and ``.html``; each replaces an older one in one step. Returns form -> path.

    Raises:
        OutputError: the folder cannot be written.
    """
    texts = {"json": result.to_json() + "\n", "md": markdown(result), "html": html_page(result)}
    return write_files(folder, "evaluation", texts)


def markdown(result: EvaluationResult) -> str:
    """The whole evaluation as one Markdown document, for a README or a model card."""
    lines = [f"# {markdown_text(result.network or result.source)} on {markdown_text(data_title(result))}", ""]
    lines += [f"- protocol: {markdown_text(result.protocol)}"]
    lines += [f"- detections: {result.detections:,} from {markdown_code(result.source)}"]
    lines += [f"- objects: {result.objects:,}", f"- evaluator: {result.evaluator}"]
    lines += [f"- left out: {count} x {code}" for code, count in result.problems.items()]
    lines += [f"- verdict: **{result.outcome}**"] if result.network else []
    numbers = [(n, percent(v), spread(result.intervals.get(n))) for n, v in result.numbers.items()]
    lines += ["", "## Numbers (%)", "", markdown_table(("number", "measured", "95 % interval"), numbers), ""]
    verdicts = [(cited(v), v.row.text, points(v.difference), v.outcome, v.why) for v in main_verdicts(result)]
    if verdicts:
        head = ("source", "published", "difference", "verdict", "why")
        lines += ["## Against published numbers", "", markdown_table(head, verdicts), ""]
    lines += ["## Classes (%)", "", markdown_table(*class_table(result, str))]
    return "\n".join(lines) + "\n"


def html_page(result: EvaluationResult) -> str:
    """The page as text, complete in itself."""
    interval = result.intervals.get(result.main)
    verdicts = main_verdicts(result)
    heads, rows = class_table(result)
    data = result.histogram
    bars = _bars(result, verdicts)
    top = max([0.01, *(high for _, _, _, high, _ in bars)])
    return render(
        "evaluation.html.j2",
        result=result,
        name=result.network or result.source,
        data_title=data_title(result),
        number=result.numbers[result.main],
        interval=interval,
        band=f"95 % interval {spread(interval)} ({interval.resamples:,} resamples of the images)"
        if interval
        else f"interval {NOT_MEASURED}",
        facts=[
            ("data set", data_title(result)),
            ("objects", f"{result.objects:,}"),
            ("detections", f"{result.detections:,} from {result.source}"),
            ("protocol", result.protocol),
            ("evaluator", f"{result.evaluator}, {result.seconds:.2f} s"),
            *((f"left out: {code}", f"{count:,}") for code, count in result.problems.items()),
        ],
        verdicts=verdicts,
        bars=[dict(zip(("name", "text", "value", "high", "kind"), bar, strict=True)) for bar in bars],
        scale=360.0 / min(1.0, math.ceil(top * 10 + 0.5) / 10),
        heads=heads,
        classes=list(zip(result.classes, rows, strict=True)),
        curves=[_curve(c, s) for c, s in zip(result.curves, result.classes, strict=True) if s.objects],
        decades=max(1, math.ceil(math.log10(max([1, *data.true, *data.false]) + 1))),
        log10=math.log10,
        photos=_photos(result),
    )


def _bars(result: EvaluationResult, verdicts: Sequence[Verdict]) -> list[tuple[str, str, float, float, str]]:
    """(name, text, low end, high end, kind) of the measured number, then of every published one."""
    value = result.numbers[result.main]
    bars = [] if value is None else [("measured here", percent(value), value, value, "measured")]
    for v in verdicts:
        place = "" if v.row.dataset == result.dataset else f", {v.row.dataset}"
        low = v.row.value / 100
        high = low if v.row.high is None else v.row.high / 100
        name = f"{v.row.system}: {v.row.weights}{place}"
        bars.append((name, v.row.text, low, high, v.outcome.replace(" ", "-")))
    return bars


def _curve(curve: Curve, score: ClassScore) -> dict[str, object]:
    """The curve's points, and those of its envelope: the best precision at each recall or beyond."""
    best = 0.0
    envelope: list[tuple[float, float]] = []
    for recall, precision in zip(reversed(curve.recall), reversed(curve.precision), strict=True):
        envelope += [(recall, best)] if envelope else []
        best = max(best, precision)
        envelope.append((recall, best))
    envelope.append((0.0, best))
    line = list(zip(curve.recall, curve.precision, strict=True))
    return {"name": score.name, "ap": score.ap, "line": line, "envelope": envelope[::-1]}


def _photos(result: EvaluationResult) -> list[tuple[WorstImage, str, list[Drawn]]]:
    """The worst images that are on disk, each as a data URL with its boxes."""
    names = [c.name for c in result.classes]
    found = []
    for image in result.worst:
        picture = None if image.path is None else read_photo(image.path)
        if picture is not None:
            boxes = [_drawn(b, names, image) for b in sorted(image.boxes, key=lambda b: _ABOVE[b.status])]
            found.append((image, data_url(picture, 460), boxes))
    return found


def _drawn(shown: Shown, names: Sequence[str], image: WorstImage) -> Drawn:
    name = names[shown.label]
    text = None if shown.score is None else f"{name} {shown.score:.2f}"
    size = max(image.width / 30, 9.0)
    return drawn(shown.box, shown.status, f"{name}, {shown.status}", text, (image.width, image.height), size)


def comparison_headline(result: Comparison) -> str:
    """One sentence: both numbers, the difference, its interval."""
    m = result.mean
    return (
        f"{m.name}: A {percent(m.a)}, B {percent(m.b)}; B − A = {_gap(m.difference)} points"
        f" (95 % interval {_range(m.interval)}): {m.outcome}"
    )


def comparison_lines(result: Comparison) -> list[str]:
    """What is compared, on what, by which rule."""
    resamples = f"{result.resamples:,} paired resamples of the images" if result.resamples else "no resamples"
    return [f"A = {result.a}", f"B = {result.b}", f"{data_title(result)}; {result.protocol}; {resamples}"]


def comparison_rows(result: Comparison) -> list[Sequence[str]]:
    """One row per class in ``COMPARISON_HEAD``'s columns, the mean last."""
    return [_row(entry) for entry in (*result.classes, result.mean)]


def comparison_markdown(result: Comparison) -> str:
    """The whole comparison."""
    share = result.mean.share_better
    sure = [] if share is None else [f"B is better in {100 * share:.1f} % of the resamples.", ""]
    lines = [f"- {markdown_text(line)}" for line in comparison_lines(result)]
    table = markdown_table(COMPARISON_HEAD, comparison_rows(result))
    return "\n".join(["# Comparison", "", *lines, "", f"**{comparison_headline(result)}**", "", *sure, table]) + "\n"


def _row(entry: Compared) -> Sequence[str]:
    numbers = (percent(entry.a), percent(entry.b), _gap(entry.difference), _range(entry.interval))
    return (entry.name, str(entry.objects), *numbers)


def _gap(value: float | None) -> str:
    return points(None if value is None else 100 * value)


def _range(interval: Interval | None) -> str:
    return NOT_MEASURED if interval is None else f"{_gap(interval.low)} … {_gap(interval.high)}"
