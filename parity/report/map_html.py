"""An evaluation as one self-contained HTML page: inline SVG and JPEG, no script, nothing fetched."""

from __future__ import annotations

from html import escape

from ssdconv.parity.accuracy.published import Verdict
from ssdconv.parity.accuracy.result import ClassScore, EvaluationResult
from ssdconv.parity.report.map_images import gallery, listing
from ssdconv.parity.report.map_style import STYLE
from ssdconv.parity.report.map_svg import bars_svg, curve_svg, histogram_svg
from ssdconv.parity.report.map_text import (
    data_title,
    headline,
    percent,
    points,
    published_per_class,
    spread,
)


def _badge(outcome: str) -> str:
    return f'<span class="badge {outcome.replace(" ", "-")}">{escape(outcome)}</span>'


def _section(title: str, lead: str, body: str) -> str:
    return f'<section><h2>{title}</h2><p class="soft small">{lead}</p>{body}</section>'


def _hero(result: EvaluationResult) -> str:
    interval = result.intervals.get(result.main)
    band = (
        f"95 % interval {spread(interval)} ({interval.resamples:,} resamples of the images)"
        if interval
        else "interval not measured"
    )
    facts = [
        ("data set", data_title(result)),
        ("objects", f"{result.objects:,}"),
        ("detections", f"{result.detections:,} from {result.source}"),
        ("protocol", result.protocol),
        ("evaluator", f"{result.evaluator}, {result.seconds:.2f} s"),
        *((f"left out: {code}", f"{count:,}") for code, count in result.problems.items()),
    ]
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts)
    verdict = _badge(result.outcome) if result.network else ""
    number = result.numbers[result.main]
    shown = "not measured" if number is None else f"{percent(number)}<small> % {result.main}</small>"
    return (
        f'<section class="hero"><div><div class="big">{shown}</div>'
        f'<p class="soft small" style="margin:10px 0 12px">{escape(band)}</p>{verdict}</div><dl>{listed}</dl></section>'
    )


def _source(v: Verdict) -> str:
    title = escape(v.row.title)
    linked = f'<a href="{escape(v.row.url)}">{title}</a>' if v.row.url else title
    recalled = "" if v.row.checked else " (recalled, not read again)"
    return f"{escape(v.row.system)}, {linked}{recalled}"


def _published(result: EvaluationResult) -> str:
    verdicts = headline(result)
    if not verdicts:
        return ""
    body = "".join(
        f'<tr><td class="source">{_source(v)}<br><span class="soft small">'
        f"{escape(v.row.weights)}; {escape(v.row.train_data)}</span></td>"
        f"<td>{v.row.text}</td><td>{points(v.difference)}</td>"
        f'<td class="left">{_badge(v.outcome)}</td><td class="left small">{escape(v.why)}</td></tr>'
        for v in verdicts
    )
    head = (
        "<tr><th>source</th><th>published %</th><th>difference</th>"
        '<th class="left">verdict</th><th class="left">why</th></tr>'
    )
    lead = (
        "Agreement means that the bootstrap interval and the rounding of the published digits meet. "
        "Numbers measured under another protocol or with other weights are listed as not comparable."
    )
    table = f'<div class="scroll" style="margin-top:14px"><table>{head}{body}</table></div>'
    return _section("Published and measured", lead, bars_svg(result) + table)


def _meter(score: ClassScore) -> str:
    if score.ap is None:
        return '<span class="soft">no objects</span>'
    whisker = ""
    if score.interval is not None:
        low, high = 100 * score.interval.low, 100 * score.interval.high
        whisker = f'<s style="left:{low:.1f}%;width:{max(high - low, 0.4):.1f}%"></s>'
    return f'<span class="meter"><i style="width:{100 * score.ap:.1f}%"></i>{whisker}</span>'


def _classes(result: EvaluationResult) -> str:
    published = published_per_class(result)
    heads = ["objects", "detections", "found", "AP %", "95 % interval"]
    heads += ["published %", "difference"] if published else []
    head = "".join(f"<th>{h}</th>" for h in heads)
    rows = []
    for c in result.classes:
        cells = [f"{c.objects:,}", f"{c.detections:,}", f"{c.true_positives:,}", f"<b>{percent(c.ap)}</b>"]
        cells.append(spread(c.interval, 1) if c.ap is not None else "–")
        if published:
            verdict = published.get(c.name)
            cells += [verdict.row.text, points(verdict.difference)] if verdict is not None else ["", ""]
        line = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f'<tr><td>{escape(c.name)}</td><td class="left" style="width:26%">{_meter(c)}</td>{line}</tr>')
    table = f'<div class="scroll"><table><tr><th>class</th><th></th>{head}</tr>{"".join(rows)}</table></div>'
    return _section("Classes", "Bars show AP; the dark line is its 95 % interval.", table)


def _numbers(result: EvaluationResult) -> str:
    if result.metric == "voc":
        return ""
    rows = "".join(
        f"<tr><td>{escape(n)}</td><td><b>{percent(v)}</b></td><td>{spread(result.intervals.get(n))}</td></tr>"
        for n, v in result.numbers.items()
    )
    table = f'<div class="scroll"><table><tr><th>number</th><th>%</th><th>95 % interval</th></tr>{rows}</table></div>'
    return _section("COCO's twelve numbers", "AP over IoU .50 to .95 unless the name says otherwise.", table)


def _worst(result: EvaluationResult) -> str:
    if not result.worst:
        return ""
    lead = (
        f"Most false detections and missed objects, counting detections with a score of at least {result.shown_from:g}."
    )
    photos = gallery(result)
    if photos:
        keys = (("--object", "object (dashed: difficult)"), ("--true", "true"), ("--false", "false"))
        legend = "".join(f'<span class="key"><i style="background:var({v})"></i>{t}</span>' for v, t in keys)
        return _section("Worst images", lead, f'{legend}<div class="photos">{photos}</div>')
    table = f"<table><tr><th>image</th><th>size</th><th>false</th><th>missed</th></tr>{listing(result)}</table>"
    return _section(
        "Worst images", lead + " The images themselves are not on this machine.", f'<div class="scroll">{table}</div>'
    )


def html_page(result: EvaluationResult) -> str:
    """The page as text, complete in itself."""
    name = escape(result.network or result.source)
    at = "" if result.metric == "voc" else ", at IoU .50"
    curves = "".join(curve_svg(c, s) for c, s in zip(result.curves, result.classes, strict=True) if s.objects)
    keys = (("--true", "true detections"), ("--false", "false detections"))
    legend = "".join(f'<span class="key"><i style="background:var({v})"></i>{t}</span>' for v, t in keys)
    lead = (
        f"Precision (upright) over recall{at}, down to the last true detection; "
        "the envelope is filled, the number is AP in percent."
    )
    grid = f'<div class="curves">{curves}</div>'
    scores = _section(
        "Scores", "How many detections have which score; logarithmic axis.", legend + histogram_svg(result.histogram)
    )
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{name} on {escape(result.dataset)}</title><style>{STYLE}</style></head><body><main>"
        f'<h1>{name}</h1><p class="soft">Detection accuracy on {escape(data_title(result))}</p>'
        f"{_hero(result)}{_published(result)}{_numbers(result)}{_classes(result)}"
        f"{_section('Precision and recall', lead, grid)}{scores}{_worst(result)}"
        "<footer>Written by ssdconv. Everything shown is inside this file.</footer></main></body></html>\n"
    )
