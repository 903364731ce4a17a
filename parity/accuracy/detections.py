"""A data set's detections and objects as columns, and the checks that detections pass before anything is computed from them.

Boxes are (n, 4) float64, xyxy, in pixels of the original image. ``written`` says in which frame: False = as the network
gives them (0..width, 0..height); True = as a detection file of the VOC kit holds them, after whatever shift and
rounding the writer applied. Conventions shift and round only what is not yet written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ssdconv.data.records import Dataset, Problems, report
from ssdconv.errors import FormatError, UsageError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class DetectionsError(FormatError):
    """Something is wrong with a set of detections; one subclass per cause."""


class NonFiniteError(DetectionsError):
    """A score or a corner is NaN or infinite."""


class InvertedBoxError(DetectionsError):
    """A box's right or bottom edge lies before its left or top edge."""


class ZeroBoxError(DetectionsError):
    """A box has no width or no height."""


class UnknownImageError(DetectionsError):
    """A detection's image is not in the data set."""


class UnknownCategoryError(DetectionsError):
    """A detection's class is not one of the data set's."""


class DuplicateDetectionError(DetectionsError):
    """The same detection (image, class, score and box) stands there twice, or an image was written twice."""


class EmptyClassFileError(DetectionsError):
    """A class's detection file is empty."""


class ColumnCountError(DetectionsError):
    """A line has not the columns it should have, or one of them is not a number."""


class IncompleteDetectionsError(DetectionsError):
    """Images of the data set were never run: the detections come from an interrupted or limited run."""


@dataclass(frozen=True, eq=False)
class DetectionSet:
    """A set of detections.

    Attributes:
        classes: class names in label order.
        image_ids: the images it speaks about.
        image: (n,) int64, index into ``image_ids``.
        labels: (n,) int64, index into ``classes``.
        scores: (n,) float64.
        boxes: (n, 4) float64 xyxy, see the module's text.
        xywh: (n, 4) float64, a COCO file's own numbers, where it came from one: x+w-x is not w in floating point.
        written: frame of the boxes, see the module's text.
        covers: True when ``image_ids`` lists every image that was run, those without detections too.
    """

    classes: tuple[str, ...]
    image_ids: tuple[str, ...]
    image: Ints
    labels: Ints
    scores: Floats
    boxes: Floats
    xywh: Floats | None = None
    written: bool = False
    covers: bool = False

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, keep: Bools | Ints) -> DetectionSet:
        """The rows that ``keep`` (mask or indices) picks."""
        return replace(
            self,
            image=self.image[keep],
            labels=self.labels[keep],
            scores=self.scores[keep],
            boxes=self.boxes[keep],
            xywh=None if self.xywh is None else self.xywh[keep],
        )

    def aligned(
        self, image_ids: Sequence[str], classes: Sequence[str], keep_going: Problems | None = None
    ) -> DetectionSet:
        """The same rows with ``image`` and ``labels`` counted in a data set's order.

        Raises:
            UnknownImageError, UnknownCategoryError: a detection that the data set has no place for.
            IncompleteDetectionsError: ``covers`` is set and images of the data set are missing.
        """
        images = {name: i for i, name in enumerate(image_ids)}
        labels = {name: i for i, name in enumerate(classes)}
        to_image = np.asarray([images.get(name, -1) for name in self.image_ids], np.int64)
        to_label = np.asarray([labels.get(name, -1) for name in self.classes], np.int64)
        image, label = to_image[self.image], to_label[self.labels]
        for table, index, names, kind in (
            (image, self.image, self.image_ids, UnknownImageError),
            (label, self.labels, self.classes, UnknownCategoryError),
        ):
            for stranger in np.unique(index[table < 0]):
                count = int((index == stranger).sum())
                what = "image" if kind is UnknownImageError else "class"
                report(
                    kind(
                        f"{count} detections of {what} {names[stranger]!r}, which is not in the data set",
                        hint="were they made on another data set or split?",
                    ),
                    keep_going,
                )
        if self.covers:
            missing = [name for name in image_ids if name not in set(self.image_ids)]
            if missing:
                report(
                    IncompleteDetectionsError(
                        f"{len(missing)} images of the data set were never run",
                        expected=len(image_ids),
                        got=len(image_ids) - len(missing),
                        hint=f"first missing: {missing[0]}; run again to resume, or evaluate with limit",
                    ),
                    keep_going,
                )
        kept = (image >= 0) & (label >= 0)
        moved = replace(
            self, classes=tuple(classes), image_ids=tuple(image_ids), image=image, labels=label, covers=False
        )
        return moved if kept.all() else moved.select(kept)


def make_detections(
    classes: Sequence[str],
    image_ids: Sequence[str],
    rows: Sequence[tuple[int, int, float, float, float, float, float]] | NDArray[np.float64],
    *,
    written: bool = False,
    covers: bool = True,
) -> DetectionSet:
    """Detections from rows (image index, label, score, x1, y1, x2, y2)."""
    table = np.asarray(rows, np.float64).reshape(-1, 7)
    found = DetectionSet(
        tuple(classes),
        tuple(image_ids),
        table[:, 0].astype(np.int64),
        table[:, 1].astype(np.int64),
        table[:, 2].copy(),
        table[:, 3:].copy(),
        written=written,
        covers=covers,
    )
    for what, index, size in (("image", found.image, len(image_ids)), ("class", found.labels, len(classes))):
        if len(index) and (index.min() < 0 or index.max() >= size):
            raise UsageError(
                f"{what} index out of range", expected=f"0..{size - 1}", got=f"{index.min()}..{index.max()}"
            )
    return found


def _twice(detections: DetectionSet) -> Bools:
    """True for rows that repeat an earlier one."""
    columns = np.column_stack([detections.image, detections.labels, detections.scores, detections.boxes])
    repeated = np.zeros(len(columns), np.bool_)
    if len(columns):
        bits = np.ascontiguousarray(columns + 0.0).view(np.uint64)  # + 0.0: -0.0 and 0.0 are the same number
        mixed = np.zeros(len(bits), np.uint64)
        for column in bits.T:  # a cheap hash finds the few rows that deserve an exact look
            mixed = (mixed ^ column ^ (column >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)
        _, inverse, counts = np.unique(mixed, return_inverse=True, return_counts=True)
        suspects = np.flatnonzero(counts[inverse] > 1)
        _, first, back = np.unique(columns[suspects], axis=0, return_index=True, return_inverse=True)
        repeated[suspects] = first[back.ravel()] != np.arange(len(suspects))
    return repeated


def check_detections(
    detections: DetectionSet,
    where: Callable[[int], str],
    keep_going: Problems | None = None,
    *,
    zero_boxes: bool = False,
    repeats: bool = False,
) -> DetectionSet:
    """Check every row; what comes back has only good ones.

    Args:
        where: row number -> text that names file and line.
        keep_going: collector; bad rows are then recorded and left out.
        zero_boxes: accept x2 == x1 or y2 == y1 (a one-pixel box where corners are inclusive).
        repeats: accept equal rows.

    Raises:
        NonFiniteError, InvertedBoxError, ZeroBoxError, DuplicateDetectionError: each names the first bad row.
    """
    boxes = detections.boxes
    sides = boxes[:, 2:] - boxes[:, :2]
    bad_number = ~(np.isfinite(detections.scores) & np.isfinite(boxes).all(axis=1))
    inverted = ~bad_number & (sides < 0).any(axis=1)
    zero = ~bad_number & ~inverted & (sides == 0).any(axis=1) & (not zero_boxes)
    repeated = np.zeros_like(zero) if repeats else ~(bad_number | inverted | zero) & _twice(detections)
    for kind, mask, what in (
        (NonFiniteError, bad_number, "a score or corner is not finite"),
        (InvertedBoxError, inverted, "inverted box"),
        (ZeroBoxError, zero, "box without width or height"),
        (DuplicateDetectionError, repeated, "the same detection twice"),
    ):
        for row in np.flatnonzero(mask):
            name = detections.image_ids[detections.image[row]]
            got = f"image {name}, score {detections.scores[row]:g}, box {boxes[row].tolist()}"
            report(
                kind(what, where=where(int(row)), got=got, hint="keep_going leaves such rows out and counts them"),
                keep_going,
            )
    good = ~(bad_number | inverted | zero | repeated)
    return detections if good.all() else detections.select(good)


@dataclass(frozen=True, eq=False)
class Truth:
    """All objects.

    Attributes:
        classes, image_ids, origin: of the data set (images whose annotation was left out are not among them).
        sizes: (images, 2) float64, width and height in pixels.
        image: (n,) int64, index into ``image_ids``, ascending.
        labels: (n,) int64, index into ``classes``.
        boxes: (n, 4) float64 xyxy as annotated.
        difficult, crowd: (n,) bool.
        area: (n,) float64.
    """

    classes: tuple[str, ...]
    image_ids: tuple[str, ...]
    origin: int
    sizes: Floats
    image: Ints
    labels: Ints
    boxes: Floats
    difficult: Bools
    crowd: Bools
    area: Floats

    def __len__(self) -> int:
        return len(self.labels)


def gather(dataset: Dataset) -> Truth:
    """Read every annotation of a data set.

    Raises:
        UsageError: no image is left.
        The data set's own errors, unless it was opened with a collector.
    """
    records = list(dataset)
    if not records:
        raise UsageError("the data set has no image", where=dataset.name)
    return Truth(
        classes=dataset.classes,
        image_ids=tuple(r.image_id for r in records),
        origin=dataset.origin,
        sizes=np.asarray([(r.width, r.height) for r in records], np.float64),
        image=np.repeat(np.arange(len(records), dtype=np.int64), [len(r) for r in records]),
        labels=np.concatenate([r.labels for r in records]),
        boxes=np.concatenate([r.boxes for r in records]),
        difficult=np.concatenate([r.difficult for r in records]),
        crowd=np.concatenate([r.crowd for r in records]),
        area=np.concatenate([r.area for r in records]),
    )
