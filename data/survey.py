"""A whole data set looked at before it is trained on: every annotation read, every image decoded, and how to mend what is found."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np

from ssdconv.data.images import OnProgress, looked_at, record_head, record_image
from ssdconv.data.records import Dataset, NoObjectsError, Problems, Record
from ssdconv.errors import SsdconvError
from ssdconv.ssd_ref.image_file import read_image

_ALWAYS_TURNED = (".tif", ".tiff")  # OpenCV turns these even when asked for the stored pixels: nothing to compare


@dataclass(frozen=True)
class Finding:
    """One thing worth knowing.

    Attributes:
        kind: stable name: an error's code, or ``ExifOrientation``, ``AlikeClasses``, ``AbsentClass``, ``SameImage``,
            ``SharedImages``, ``EmptyBox``, ``SameObject``.
        grave: training stops at it, or leaves the image or object out with ``--keep-going``.
        where: file, or part of the set.
        text: what it is.
        repair: what to do about it.
    """

    kind: str
    grave: bool
    where: str
    text: str
    repair: str | None = None


@dataclass(frozen=True)
class PartCounts:
    """One part of a set: images, those without objects, and objects of each class."""

    images: int
    empty: int
    objects: Mapping[str, int]
    difficult: int

    @property
    def text(self) -> str:
        """One line."""
        total = sum(self.objects.values())
        of = ", ".join(f"{name} {count:,}" for name, count in self.objects.items())
        extra = [f"{self.difficult:,} difficult"] if self.difficult else []
        extra += [f"{self.empty:,} images without objects"] if self.empty else []
        return f"{self.images:,} images, {total:,} objects ({of}){''.join(f', {e}' for e in extra)}"


@dataclass(frozen=True)
class Survey:
    """All parts and findings of a data set."""

    parts: Mapping[str, PartCounts]
    findings: tuple[Finding, ...]
    decoded: int

    @property
    def sound(self) -> bool:
        """Whether training can begin."""
        return not any(f.grave for f in self.findings)

    def to_json(self) -> dict[str, object]:
        """JSON-ready data."""
        parts = {name: asdict(part) for name, part in self.parts.items()}
        return {
            "sound": self.sound,
            "decoded": self.decoded,
            "parts": parts,
            "findings": [asdict(f) for f in self.findings],
        }


def count(dataset: Dataset) -> PartCounts:
    """Images and objects of a data set; all records are read."""
    objects = np.zeros(len(dataset.classes), np.int64)
    images = empty = difficult = 0
    for record in dataset:
        images, empty = images + 1, empty + (not len(record))
        objects += np.bincount(record.labels, minlength=len(objects))
        difficult += int(record.difficult.sum())
    return PartCounts(images, empty, dict(zip(dataset.classes, objects.tolist(), strict=True)), difficult)


def alike_classes(classes: Sequence[str]) -> list[Finding]:
    """Classes that may be one, written in several ways: case, blanks, hyphens and underscores apart they are equal."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        groups["".join(c for c in name.casefold() if c not in " -_")].append(name)
    return [
        Finding(
            "AlikeClasses",
            False,
            "classes",
            f"{' and '.join(repr(n) for n in names)} are {len(names)} classes: is it one, written in several ways?",
            "write it in one way in all annotations",
        )
        for names in groups.values()
        if len(names) > 1
    ]


def survey(
    parts: Mapping[str, Dataset], problems: Problems, workers: int = 1, progress: OnProgress | None = None
) -> Survey:
    """Look at everything.

    Args:
        parts: of one set, by name, opened with ``problems`` as their collector.
        problems: what the readers had to say; more may be added.
        workers: threads that decode.
        progress: told about every image.
    """
    counts = {name: count(dataset) for name, dataset in parts.items()}
    found = [_told(error) for error in problems.errors]
    records: dict[Path | str, Record] = {}
    members: dict[str, set[Path | str]] = defaultdict(set)
    for name, dataset in parts.items():
        found += _objects(dataset)
        for record in dataset:
            place = record.path or record.image_id
            records[place] = record
            members[name].add(place)
    found += alike_classes(next(iter(parts.values())).classes)
    for name, part in counts.items():
        found += [
            Finding("AbsentClass", False, name, f"no object of class {c!r}", "is the class meant to be there?")
            for c, n in part.objects.items()
            if not n
        ]
    found += _shared(members)
    looks = [look for _, look in looked_at(list(records.values()), _look, workers, "decoding images", progress)]
    found += [finding for look in looks for finding in look.findings]
    found += _same_content(looks, members)
    found = list(dict.fromkeys(found))  # an image in two parts is told once
    return Survey(counts, tuple(sorted(found, key=lambda f: (not f.grave, f.kind, f.where))), len(records))


@dataclass(frozen=True)
class _Look:
    place: Path | str
    objects: int
    digest: bytes | None = None
    findings: list[Finding] = field(default_factory=list)


def _look(record: Record) -> _Look:
    place = record.path or record.image_id
    try:
        image = record_image(record)
        orientation = record_head(record).orientation
    except SsdconvError as error:
        return _Look(place, len(record), findings=[_told(error)])
    digest = hashlib.blake2b(image.tobytes() + repr(image.shape).encode(), digest_size=16).digest()
    findings = []
    turned = orientation != 1
    path = Path(place)
    if not turned and path.suffix.lower() not in (".jpg", ".jpeg", ".bmp", *_ALWAYS_TURNED):
        turned = not np.array_equal(image, read_image(path, stored=True))
    if turned:
        findings.append(
            Finding(
                "ExifOrientation",
                False,
                str(place),
                f"an EXIF orientation{f' of {orientation}' if orientation != 1 else ''} turns this picture; its boxes are taken "
                "to be drawn on the turned one",
                "turn the pixels and drop the tag, so that no program can differ: mogrify -auto-orient FILE; or, where the "
                "boxes were drawn on the pixels as stored: exiftool -Orientation= FILE",
            )
        )
    return _Look(place, len(record), digest, findings)


def _told(error: SsdconvError) -> Finding:
    facts = [f"{k} {v}" for k, v in (("expected", error.expected), ("got", error.got)) if v is not None]
    text = f"{error.what} ({', '.join(facts)})" if facts else error.what
    grave = not isinstance(error, NoObjectsError)
    return Finding(error.code, grave, error.where or "", text, error.hint or ("correct the file" if grave else None))


def _objects(dataset: Dataset) -> Iterator[Finding]:
    """Boxes that nothing can be matched to, and objects that are there twice."""
    for record in dataset:
        where = str(record.path or record.image_id)
        for place in np.flatnonzero((record.boxes[:, 2:] <= record.boxes[:, :2]).any(1)).tolist():
            yield Finding(
                "EmptyBox",
                False,
                where,
                f"object {record.object_ids[place]} ({dataset.classes[record.labels[place]]}) has no area: "
                f"{tuple(record.boxes[place].tolist())}",
                "draw its box, or remove it; most recipes leave it out",
            )
        rows = np.column_stack([record.labels, record.boxes])
        twice = len(rows) - len(np.unique(rows, axis=0))
        if twice:
            yield Finding(
                "SameObject", False, where, f"{twice} objects are there twice, with class and box", "remove the copies"
            )


def _shared(members: Mapping[str, set[Path | str]]) -> Iterator[Finding]:
    """Parts that share images, but for trainval, which is meant to hold train and val."""
    for one, other in combinations(members, 2):
        both = members[one] & members[other]
        names = {one, other}
        if both and not ("trainval" in names and names & {"train", "val"}):
            yield Finding(
                "SharedImages",
                False,
                f"{one} and {other}",
                f"{len(both)} images are in both, {Path(min(map(str, both))).name} among them",
                "leave them out of one: scores on images that were trained on say nothing",
            )


def _same_content(looks: Sequence[_Look], members: Mapping[str, set[Path | str]]) -> Iterator[Finding]:
    groups: dict[bytes, list[_Look]] = defaultdict(list)
    for look in looks:
        if look.digest is not None:
            groups[look.digest].append(look)
    for group in groups.values():
        if len(group) < 2:
            continue
        names = [Path(look.place).name for look in group]
        where = sorted({name for name, held in members.items() if name for look in group if look.place in held})
        apart = f", in {' and '.join(where)}" if len(where) > 1 else ""
        labels = "" if len({look.objects for look in group}) == 1 else "; they differ in the number of objects"
        yield Finding(
            "SameImage",
            False,
            str(group[0].place),
            f"the very pixels of {', '.join(names[1:])}{apart}{labels}",
            "keep one; a picture both trained on and scored on makes the score too good",
        )
