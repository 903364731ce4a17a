"""PASCAL VOC as people have it: VOCdevkit with VOC2007 and VOC2012, or any folder laid out like one of its years.

A year's folder has ``ImageSets/Main/<split>.txt`` (one id a line), ``Annotations/<id>.xml`` and, unless only annotations are
there, ``JPEGImages/<id>.jpg``. Annotations are read by expat events: entities and document types are refused, nothing is
expanded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from xml.parsers import expat

import numpy as np

from ssdconv.data.records import (
    AnnotationError,
    InvertedObjectError,
    NoObjectsError,
    Problems,
    Record,
    UnknownClassError,
    WrongRootError,
    report,
)
from ssdconv.errors import MissingError, SsdconvError, UnsafeFileError, UsageError
from ssdconv.ssd_ref.gate import read_input, read_text, reader

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


@dataclass(frozen=True)
class VocImage:
    """An image of the set: its id, annotation and picture."""

    image_id: str
    xml: Path
    image: Path


@dataclass
class VocDataset:
    """A VOC image set; see ``records.Dataset`` for the meaning of the fields."""

    name: str
    classes: tuple[str, ...]
    entries: tuple[VocImage, ...]
    origin: int = 1
    complete: bool = True
    problems: Problems | None = None
    _cache: dict[str, Record | None] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._labels = {name: label for label, name in enumerate(self.classes)}

    @property
    def category_ids(self) -> tuple[int, ...]:
        """1..n in class order, as the label maps of Caffe number them."""
        return tuple(range(1, len(self.classes) + 1))

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Ids in the order of the image set file."""
        return tuple(e.image_id for e in self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Record:
        entry = self.entries[index]
        if entry.image_id not in self._cache:
            self._cache[entry.image_id] = read_annotation(
                entry.xml, entry.image_id, entry.image, self._labels, self.problems
            )
        record = self._cache[entry.image_id]
        if record is None:
            raise AnnotationError("this annotation was unreadable and left out", where=str(entry.xml))
        return record

    def __iter__(self) -> Iterator[Record]:
        """All records; with a collector, images whose annotation cannot be read are left out."""
        for index, entry in enumerate(self.entries):
            if entry.image_id in self._cache and self._cache[entry.image_id] is None:
                continue
            try:
                record = self[index]
            except SsdconvError as error:
                report(error, self.problems)
                self._cache[entry.image_id] = None
                continue
            yield record

    def take(self, image_ids: Sequence[str]) -> VocDataset:
        """Only these images, in this order; a proper subset is no longer ``complete``."""
        entries = {e.image_id: e for e in self.entries}
        strangers = [i for i in image_ids if i not in entries]
        if strangers:
            raise UsageError(f"image {strangers[0]!r} is not in the data set", where=self.name)
        whole = self.complete and len(set(image_ids)) == len(entries)
        return replace(self, entries=tuple(entries[i] for i in image_ids), complete=whole)


def open_voc(
    root: str | Path,
    sets: Sequence[tuple[str, str]] = (("2007", "test"),),
    *,
    name: str | None = None,
    classes: Sequence[str] = VOC_CLASSES,
    origin: int = 1,
    keep_going: Problems | None = None,
) -> VocDataset:
    """Index a VOC data set; annotations are read when a record is asked for.

    Args:
        root: VOCdevkit, the folder above it, or one year's folder.
        sets: (year, split) pairs, joined in this order.
        name: for reports; default "VOC2007-test" and the like.
        classes: class names in label order.
        origin: 1 for corners as VOC writes them, 0 for a look-alike set that counts from 0.
        keep_going: collector, see ``Problems``.

    Raises:
        WrongRootError: the root is not what it should be.
        MissingError: no such split.
        AnnotationError: the split's file is empty or names an image twice.
    """
    entries: list[VocImage] = []
    for year, split in sets:
        folder = _year_folder(Path(root), year)
        listing = folder / "ImageSets" / "Main" / f"{split}.txt"
        if not listing.is_file():
            have = sorted(p.stem for p in listing.parent.glob("*.txt") if "_" not in p.stem)
            raise MissingError(
                "no such image set", where=str(listing), expected=f"one of {', '.join(have) or 'none here'}", got=split
            )
        ids = listed_ids(listing)
        if not ids:
            raise AnnotationError("the image set is empty", where=str(listing))
        entries += [VocImage(i, folder / "Annotations" / f"{i}.xml", folder / "JPEGImages" / f"{i}.jpg") for i in ids]
    check_ids([entry.image_id for entry in entries], str(root))
    label = name or "+".join(f"VOC{year}-{split}" for year, split in sets)
    return VocDataset(label, tuple(classes), tuple(entries), origin=origin, problems=keep_going)


def _year_folder(root: Path, year: str) -> Path:
    """``root`` may be VOCdevkit, the folder above it, or the year's folder itself."""
    candidates = (root / f"VOC{year}", root / "VOCdevkit" / f"VOC{year}", root)
    for folder in candidates:
        if (folder / "Annotations").is_dir() and (folder / "ImageSets" / "Main").is_dir():
            return folder
    raise WrongRootError(
        f"no VOC{year} here",
        where=str(root),
        expected=f"a folder with VOC{year}/Annotations and VOC{year}/ImageSets/Main",
        got=", ".join(sorted(p.name for p in root.iterdir())[:8]) or "an empty folder"
        if root.is_dir()
        else "no such folder",
        hint="give the VOCdevkit folder; http://host.robots.ox.ac.uk/pascal/VOC has the archives",
    )


def listed_ids(listing: Path) -> list[str]:
    """The ids of a list of images: the first word of every line."""
    return [line.split()[0] for line in read_text(listing, "list", "list of images").splitlines() if line.strip()]


def check_ids(ids: Sequence[str], where: str) -> None:
    """Raise ``AnnotationError`` where an id comes twice or leads out of the folder."""
    seen: set[str] = set()
    for image_id in ids:
        if image_id in seen:
            raise AnnotationError("an image is listed twice", where=where, got=image_id)
        if "/" in image_id or "\\" in image_id or image_id in {".", ".."}:
            raise AnnotationError("an image id leads out of the folder", where=where, got=image_id)
        seen.add(image_id)


_WANTED = {
    "annotation/size/width": "width",
    "annotation/size/height": "height",
    "annotation/object/name": "name",
    "annotation/object/difficult": "difficult",
    "annotation/object/bndbox/xmin": "xmin",
    "annotation/object/bndbox/ymin": "ymin",
    "annotation/object/bndbox/xmax": "xmax",
    "annotation/object/bndbox/ymax": "ymax",
}


def _fields(data: bytes, where: str) -> tuple[dict[str, str], list[dict[str, str]]]:
    """The wanted texts of the file: (of the image, of each object). Parts of objects (head, hand) are not descended."""
    image: dict[str, str] = {}
    objects: list[dict[str, str]] = []
    path: list[str] = []
    text: list[str] = []

    def start(tag: str, _attributes: object) -> None:
        path.append(tag)
        text.clear()
        if tag == "object" and len(path) == 2:
            objects.append({})

    def end(_tag: str) -> None:
        key = _WANTED.get("/".join(path)) if len(path) > 2 else None
        if key:
            (objects[-1] if path[1] == "object" else image)[key] = "".join(text).strip()
        path.pop()
        text.clear()

    def refuse(*_: object) -> None:
        raise UnsafeFileError(
            "the annotation declares a document type or entities",
            where=where,
            hint="VOC annotations have none; do not trust this file",
        )

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text.append
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, LookupError, ValueError) as error:  # the others for encodings that Python does not have
        raise AnnotationError(f"not well-formed XML: {error}", where=where) from None
    return image, objects


def _number(fields: Mapping[str, str], key: str, where: str) -> float:
    if key not in fields:
        raise AnnotationError(f"<{key}> is missing", where=where)
    try:
        value = float(fields[key])
    except ValueError:
        raise AnnotationError(f"<{key}> is not a number", where=where, got=fields[key]) from None
    if not math.isfinite(value):
        raise InvertedObjectError(f"<{key}> is not finite", where=where, got=fields[key])
    return value


def _box(fields: Mapping[str, str], where: str) -> tuple[float, ...]:
    x1, y1, x2, y2 = (_number(fields, key, where) for key in ("xmin", "ymin", "xmax", "ymax"))
    if x2 < x1 or y2 < y1:
        raise InvertedObjectError(
            "inverted box", where=where, expected="xmin <= xmax and ymin <= ymax", got=(x1, y1, x2, y2)
        )
    return x1, y1, x2, y2


@reader
def object_names(xml: Path) -> list[str]:
    """Class names of an annotation's objects, in the file's order. Errors as in ``read_annotation``."""
    try:
        return [fields.get("name", "") for fields in _fields(read_input(xml, "annotation"), str(xml))[1]]
    except ValueError as error:
        raise AnnotationError(f"not well-formed XML: {error}", where=str(xml)) from None


def read_annotation(
    xml: Path, image_id: str, image: Path | None, classes: Mapping[str, int], keep_going: Problems | None
) -> Record:
    """Read one annotation file.

    Args:
        xml: the annotation.
        image: where its image should be, for ``Record.path``.
        classes: class name -> label.
        keep_going: collector; objects with problems are then left out.

    Raises:
        MissingError: no such file.
        UnsafeFileError: it declares a document type or entities.
        AnnotationError and its subclasses: not XML, without size or objects, unknown class, inverted box.
    """
    try:
        data = read_input(xml, "annotation")
    except MissingError:
        raise MissingError(
            "no annotation for an image of the image set", where=str(xml), hint="is the archive fully extracted?"
        ) from None
    head, objects = _fields(data, str(xml))
    width, height = (int(_number(head, key, str(xml))) for key in ("width", "height"))
    if width <= 0 or height <= 0:
        raise AnnotationError("the image size is not positive", where=str(xml), got=f"{width}x{height}")
    if not objects:
        report(NoObjectsError("the annotation has no object", where=str(xml)), keep_going)
    boxes, labels, difficult, places = [], [], [], []
    for place, fields in enumerate(objects):
        where = f"{xml}: object {place + 1}"
        try:
            box = _box(fields, where)
            flag = _number(fields, "difficult", where) != 0 if "difficult" in fields else False
            name = fields.get("name", "")
            if name not in classes:
                raise UnknownClassError(
                    "unknown class", where=where, expected=f"one of {', '.join(classes)}", got=repr(name)
                )
        except AnnotationError as error:
            report(error, keep_going)
            continue
        boxes.append(box)
        labels.append(classes[name])
        difficult.append(flag)
        places.append(place)
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    sides = corners[:, 2:] - corners[:, :2] + 1.0
    return Record(
        image_id=image_id,
        path=image,
        width=width,
        height=height,
        boxes=corners,
        labels=np.asarray(labels, np.int64),
        difficult=np.asarray(difficult, np.bool_),
        crowd=np.zeros(len(labels), np.bool_),
        area=sides[:, 0] * sides[:, 1],
        object_ids=np.asarray(places, np.int64),
    )
