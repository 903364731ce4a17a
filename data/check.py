"""A look at every object of a user's data set before hours of training: boxes inside their images, something to train on."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ssdconv.data.coco import CocoDataset
from ssdconv.data.problems import (
    EmptySetError,
    NoObjectsError,
    OutsideImageError,
    Problems,
)
from ssdconv.data.records import Record
from ssdconv.data.voc import VocDataset
from ssdconv.errors import SsdconvError

Set = TypeVar("Set", VocDataset, CocoDataset)

MARGIN = 1.0
"""Pixels that a box may pass its image's edge by: annotation tools round, and count from 0 or from 1."""


def check_objects(dataset: Set, keep_going: Problems | None = None) -> Set:
    """The same data set with every annotation read and checked; images without objects are fine.

    With a collector, unreadable annotations are recorded and their images left out, and objects outside their image are
    recorded and left out. Without one, all is read before the first problem is raised.

    Raises:
        OutsideImageError: names file, object, box and image size.
        EmptySetError: no image or not one object.
        AnnotationError and its subclasses: what the readers raise.
    """
    own, found = Problems(), Problems()
    if isinstance(dataset, VocDataset):
        dataset.problems = own
    records: dict[str, Record] = {}
    for index, image_id in enumerate(dataset.image_ids):
        before = len(own)
        try:
            record = dataset[index]
        except SsdconvError as error:
            found.add(error)
            continue
        for problem in own.errors[before:]:
            if not isinstance(problem, NoObjectsError):  # an image of nothing but background is worth training on
                found.add(problem)
        inside = _inside(record, dataset, found)
        records[image_id] = record if inside.all() else _only(record, inside)
    found.hand_over(keep_going)
    if isinstance(dataset, VocDataset):
        dataset = replace(dataset, entries=tuple(e for e in dataset.entries if e.image_id in records))
        dataset._cache.update(records)
        dataset.problems = keep_going
    else:
        for image_id, record in records.items():
            kept = set(record.object_ids.tolist())
            if int(image_id) in dataset.objects:
                dataset.objects[int(image_id)] = [o for o in dataset.objects[int(image_id)] if o.id in kept]
    if not records:
        raise EmptySetError("the data set has no usable image", where=dataset.name)
    if not any(len(r) for r in records.values()):
        raise EmptySetError("no image of the data set has an object", where=dataset.name)
    return dataset


def _inside(record: Record, dataset: VocDataset | CocoDataset, found: Problems) -> npt.NDArray[np.bool_]:
    """(n,) which boxes are within the image, or pass it by no more than the margin, and touch it."""
    boxes = record.boxes
    size = np.asarray([record.width, record.height], np.float64)
    low, high = dataset.origin - MARGIN, size + dataset.origin + MARGIN
    fine = (boxes[:, :2] >= low).all(1) & (boxes[:, 2:] <= high).all(1)
    fine &= (boxes[:, :2] < size + dataset.origin).all(1) & (boxes[:, 2:] >= dataset.origin).all(1)
    for place in np.flatnonzero(~fine).tolist():
        number = record.object_ids[place]
        if isinstance(dataset, VocDataset):
            file = next(e.xml for e in dataset.entries if e.image_id == record.image_id)
            where = f"{file}: object {number + 1}"
        else:
            where = f"{dataset.file}: annotation {number}"
        found.add(
            OutsideImageError(
                f"the box of this {dataset.classes[record.labels[place]]} is outside its image",
                where=where,
                expected=f"within {record.width}x{record.height}",
                got=tuple(boxes[place].tolist()),
                hint="correct the annotation, or the image size in it",
            )
        )
    return np.asarray(fine)


def _only(record: Record, keep: npt.NDArray[np.bool_]) -> Record:
    return replace(
        record,
        boxes=record.boxes[keep],
        labels=record.labels[keep],
        difficult=record.difficult[keep],
        crowd=record.crowd[keep],
        area=record.area[keep],
        object_ids=record.object_ids[keep],
    )
