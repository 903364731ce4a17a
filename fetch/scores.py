"""What is known about a record's accuracy and proof, as short texts: published by whom, measured here, or not measured."""

from __future__ import annotations

from collections.abc import Iterable

from ssdconv.fetch.record import Record
from ssdconv.parity.accuracy import published
from ssdconv.parity.accuracy.published import PublishedRow

NOT_MEASURED = "not measured"
NONE = "none published"
COCO = ("AP", "AP50", "AP75")


def text(rows: Iterable[PublishedRow]) -> str:
    """mAP of VOC2007 (11-point), or AP/AP50/AP75 of COCO, in percent; several where several were published."""
    rows = list(rows)
    voc = dict.fromkeys(r.text for r in rows if r.dataset == "voc07" and r.metric == "mAP" and r.ap != "area")
    if voc:
        return ", ".join(voc)
    triple = [next((r.text for r in rows if r.metric == m and r.dataset.startswith("coco")), None) for m in COCO]
    return "/".join(t for t in triple if t) if triple[0] else NONE


def own_rows(record: Record) -> tuple[PublishedRow, ...]:
    """The published rows about exactly these weights, measured by those who released them."""
    if record.published is None:
        return ()
    mine = [r for r in published.rows(record.published.network) if r.weights == record.published.weights]
    primary = tuple(r for r in mine if r.role == "primary")
    return primary or tuple(r for r in mine if r.role == "alternative")


def own(record: Record) -> str:
    """What those who released the weights say they score."""
    return text(own_rows(record))


def paper(record: Record) -> str:
    """What the paper says the same architecture scores; "–" where the paper has no such network."""
    return "–" if record.paper_network is None else text(published.rows(record.paper_network, role="primary"))


def here(record: Record) -> str:
    """What this project measured on a data set."""
    return ", ".join(f"{s.value:.2f} {s.metric} on {s.dataset}" for s in record.scores) or NOT_MEASURED


def proof(record: Record) -> str:
    """The layer-by-layer comparison with the source framework."""
    told = (f"{p.agreeing} of {p.probes} probes ({p.oracle})" for p in record.parity)
    return ", ".join(told) or NOT_MEASURED


def checksum(record: Record) -> str:
    """How the file is recognised: the algorithm of the published checksum, or that there is none."""
    given = record.file.checksum
    if given is None:
        return "none published" if available(record) else "–"
    return given.algorithm if record.file.expected.vouched else f"{given.algorithm} prefix"


def available(record: Record) -> bool:
    """Whether an address of the file itself is known."""
    return any(not origin.url.startswith("page:") for origin in record.file.origins)
