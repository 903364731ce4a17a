"""COCO-form annotations of a user's own, with classes in an order of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ssdconv.data.coco import CocoDataset, open_coco
from ssdconv.data.problems import AnnotationError, EmptySetError, Problems, UnknownClassError, report


def open_coco_part(
    annotations: Path, images: Path | None, name: str, classes: Sequence[str] | None, keep_going: Problems | None
) -> CocoDataset:
    """Open one split.

    Args:
        annotations: the JSON file.
        images: folder of its images.
        name: for reports.
        classes: category names in label order; None for all of the file's, in ascending order of id. Categories that are not
            among them may stand in the file unused.
        keep_going: collector.

    Raises:
        MissingError, AnnotationError: see ``open_coco``.
        EmptySetError: no category.
        UnknownClassError: an object of a category that is not among ``classes``, or a class that no category has.
    """
    dataset = open_coco(annotations=annotations, images=images, name=name, keep_going=keep_going)
    if classes is None:
        if not dataset.categories:
            raise EmptySetError("the file names no category", where=str(annotations))
        return dataset
    by_name = {c.name: c for c in dataset.categories}
    if len(by_name) != len(dataset.categories) or len(set(classes)) != len(classes):
        raise AnnotationError("two categories have one name", where=str(annotations))
    absent = [c for c in classes if c not in by_name]
    if absent:
        raise UnknownClassError(
            "no category of the file has this class's name",
            where=str(annotations),
            expected=f"one of {', '.join(by_name)}",
            got=", ".join(absent),
        )
    chosen = tuple(by_name[c] for c in classes)
    known = {c.id for c in chosen}
    names = {c.id: c.name for c in dataset.categories}
    for image_id, listed in list(dataset.objects.items()):
        for o in listed:
            if o.category_id not in known:
                report(
                    UnknownClassError(
                        "unknown class",
                        where=f"{annotations}: annotation {o.id}",
                        expected=f"one of {', '.join(classes)}",
                        got=repr(names[o.category_id]),
                    ),
                    keep_going,
                )
        dataset.objects[image_id] = [o for o in listed if o.category_id in known]
    return replace(dataset, categories=chosen)
