"""COCO, and any set in COCO's JSON form: ``annotations/instances_<split>.json`` with ``<split>/`` or a folder of
images.

Format: https://cocodataset.org/#format-data (object detection). Only the fields that detection needs are read;
category ids keep their gaps in ``category_ids`` and become labels 0..n-1 in ascending order of id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import msgspec
import numpy as np

from ssdconv.data.records import (
    AnnotationError,
    InvertedObjectError,
    Problems,
    Record,
    UnknownClassError,
    WrongRootError,
    report,
)
from ssdconv.errors import UnsafeFileError, UsageError
from ssdconv.ssd_ref.gate import MAX_CLASSES, read_input, reader

Whole = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
"""What a machine's integer holds, as arrays of ids do."""


class _Image(msgspec.Struct):
    id: Whole
    width: Whole
    height: Whole
    file_name: str = ""


class _Object(msgspec.Struct):
    id: Whole
    image_id: Whole
    category_id: Whole
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: Whole = 0


class _Category(msgspec.Struct):
    id: Whole
    name: str


class _File(msgspec.Struct):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Object]


@dataclass
class CocoDataset:
    """A set in COCO's form; see ``records.Dataset`` for the meaning of the fields."""

    name: str
    file: Path
    images: dict[int, _Image]
    objects: dict[int, list[_Object]]
    categories: tuple[_Category, ...]
    folder: Path | None
    origin: int = 0
    complete: bool = True
    problems: Problems | None = None

    def __post_init__(self) -> None:
        self._labels = {c.id: label for label, c in enumerate(self.categories)}
        self._order = tuple(self.images)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in ascending order of category id."""
        return tuple(c.name for c in self.categories)

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The file's ids (COCO: 1..90 with ten gaps)."""
        return tuple(c.id for c in self.categories)

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Ids as text, in the file's order."""
        return tuple(str(i) for i in self._order)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Record:
        image = self.images[self._order[index]]
        objects = self.objects.get(image.id, [])
        xywh = np.asarray([o.bbox for o in objects], np.float64).reshape(-1, 4)
        return Record(
            image_id=str(image.id),
            path=self.folder / image.file_name if self.folder else None,
            width=image.width,
            height=image.height,
            boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
            labels=np.asarray([self._labels[o.category_id] for o in objects], np.int64),
            difficult=np.zeros(len(objects), np.bool_),
            crowd=np.asarray([o.iscrowd != 0 for o in objects], np.bool_),
            area=np.asarray([_area(o) for o in objects], np.float64),
            object_ids=np.asarray([o.id for o in objects], np.int64),
        )

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))

    def take(self, image_ids: Sequence[str]) -> CocoDataset:
        """Only these images, in this order; a proper subset is no longer ``complete``."""
        known = {str(i): image for i, image in self.images.items()}
        strangers = [i for i in image_ids if i not in known]
        if strangers:
            raise UsageError(f"image {strangers[0]!r} is not in the data set", where=self.name)
        kept = {known[i].id: known[i] for i in image_ids}
        return replace(self, images=kept, complete=self.complete and len(kept) == len(self.images))

    def coco_form(self) -> dict[str, list[dict[str, Any]]]:
        """The file's own numbers, bit for bit (a missing ``area`` is width x height), annotations in the file's
        order.
        """
        kept = [o for i in self._order for o in self.objects.get(i, [])]
        return {
            "images": [{"id": i.id, "width": i.width, "height": i.height} for i in self.images.values()],
            "annotations": [
                {
                    "id": o.id,
                    "image_id": o.image_id,
                    "category_id": o.category_id,
                    "bbox": list(o.bbox),
                    "area": _area(o),
                    "iscrowd": o.iscrowd,
                }
                for o in kept
            ],
            "categories": [{"id": c.id, "name": c.name} for c in self.categories],
        }


def _area(o: _Object) -> float:
    return o.bbox[2] * o.bbox[3] if o.area is None else o.area


@reader
def _read(
    path: Path, keep_going: Problems | None
) -> tuple[dict[int, _Image], dict[int, list[_Object]], list[_Category]]:
    try:
        content = msgspec.json.decode(read_input(path, "coco", "annotation file"), type=_File)
    except RecursionError:
        raise AnnotationError("nested too deeply", where=str(path)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise AnnotationError(
            f"not a COCO detection file: {error}",
            where=str(path),
            expected="images, categories and annotations with integer ids and bbox [x, y, width, height]",
        ) from None
    if len(content.categories) > MAX_CLASSES:
        raise AnnotationError(
            "too many categories", where=str(path), expected=f"at most {MAX_CLASSES:,}", got=len(content.categories)
        )
    for image in content.images:
        parts = PurePosixPath(image.file_name.replace("\\", "/")).parts
        if (
            ".." in parts
            or image.file_name.startswith(("/", "\\"))
            or "\0" in image.file_name
            or ":" in "".join(parts[:1])
        ):
            raise UnsafeFileError(
                "an image lies outside the image folder",
                where=f"{path}: image {image.id}",
                got=repr(image.file_name[:200]),
            )
    images = {i.id: i for i in content.images}
    if not images:
        raise AnnotationError("the file lists no image", where=str(path))
    for what, listed, ids in (
        ("image", content.images, len(images)),
        ("category", content.categories, len({c.id for c in content.categories})),
        ("annotation", content.annotations, len({o.id for o in content.annotations})),
    ):
        if len(listed) != ids:
            raise AnnotationError(f"{what} ids repeat", where=str(path), expected=f"{len(listed)} distinct", got=ids)
    known = {c.id for c in content.categories}
    objects: dict[int, list[_Object]] = {}
    for o in content.annotations:
        where = f"{path}: annotation {o.id}"
        if o.image_id not in images:
            report(
                AnnotationError("the image is not in the file", where=where, got=f"image_id {o.image_id}"), keep_going
            )
        elif o.category_id not in known:
            report(UnknownClassError("unknown category", where=where, got=f"category_id {o.category_id}"), keep_going)
        elif min(o.bbox[2:]) < 0:
            report(InvertedObjectError("negative width or height", where=where, got=o.bbox), keep_going)
        else:
            objects.setdefault(o.image_id, []).append(o)
    return images, objects, sorted(content.categories, key=lambda c: c.id)


def open_coco(
    root: str | Path | None = None,
    split: str = "val2017",
    *,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    name: str | None = None,
    keep_going: Problems | None = None,
) -> CocoDataset:
    """Open a COCO split, or any COCO-form JSON.

    Args:
        root: folder with ``annotations/instances_<split>.json`` and ``<split>/``; not needed with ``annotations``.
        split: "val2017", "train2017", "minival2014", ...; minival's images lie in ``val2014/``.
        annotations: a COCO-form JSON instead of root and split.
        images: folder of its images; None for annotations only.
        name: for reports.
        keep_going: collector, see ``Problems``.

    Raises:
        WrongRootError: the root is not what it should be.
        MissingError: no such annotation file.
        AnnotationError and its subclasses: damaged file, repeated ids, unknown image or category, negative sides.
    """
    if annotations is not None:
        file, folder = Path(annotations), None if images is None else Path(images)
        label = name or file.stem
    elif root is not None:
        base = Path(root)
        found = [
            p
            for p in (base / "annotations" / f"instances_{split}.json", base / f"instances_{split}.json")
            if p.is_file()
        ]
        if not found:
            raise WrongRootError(
                f"no COCO {split} here",
                where=str(root),
                expected=f"a folder with annotations/instances_{split}.json",
                got="no such folder" if not base.is_dir() else ", ".join(sorted(p.name for p in base.iterdir())[:8]),
                hint="give the folder that has annotations/ and the image folders, or --annotations FILE.json",
            )
        file = found[0]
        pictures = Path(images) if images is not None else base / split.replace("minival", "val")
        folder = pictures if pictures.is_dir() else None
        label = name or f"coco-{split}"
    else:
        raise UsageError("neither a data root nor an annotation file was given")
    listed, objects, categories = _read(file, keep_going)
    return CocoDataset(label, file, listed, objects, tuple(categories), folder, problems=keep_going)
