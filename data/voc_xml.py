"""One VOC annotation file -> Record, by expat events: entities and document types are refused, nothing is expanded.

Source: VOCdevkit ``Annotations/*.xml`` (development kit of the PASCAL VOC challenges 2007 and 2012).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from xml.parsers import expat

import numpy as np

from ssdconv.data.problems import (
    AnnotationError,
    InvertedObjectError,
    NoObjectsError,
    Problems,
    UnknownClassError,
    report,
)
from ssdconv.data.records import Record
from ssdconv.errors import MissingError, UnsafeFileError
from ssdconv.ssd_ref.gate import read_input

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
