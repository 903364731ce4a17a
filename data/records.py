"""The torch-free record of one annotated image, what every data set offers, and what can be wrong with one.

Boxes are (n, 4) float64, xyxy, in pixels of the original image, **as the annotation file writes them**: PASCAL VOC's
corners are 1-based and inclusive (``Dataset.origin`` 1), COCO's x, y, width, height become 0-based x, y, x+w, y+h
(``origin`` 0). Shifting is the business of an evaluation convention or of training, never of the reader.

Problems have one error type per cause, and a collector for ``--keep-going`` runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ssdconv.errors import FormatError, MissingError, SsdconvError


class WrongRootError(MissingError):
    """The folder given as a data set's root does not hold that data set."""


class MissingImageError(MissingError):
    """An annotated image is not on disk."""


class UnreadableImageError(FormatError):
    """An image file cannot be decoded."""


class SizeMismatchError(FormatError):
    """Width and height of an image file differ from its annotation."""


class AnnotationError(FormatError):
    """An annotation file is damaged, hostile, or lacks something it must have."""


class NoObjectsError(AnnotationError):
    """A VOC annotation without any object."""


class UnknownClassError(AnnotationError):
    """An object's class is not one of the data set's classes."""


class InvertedObjectError(AnnotationError):
    """An object's box has its right or bottom edge before its left or top edge, or numbers that are not finite."""


class OutsideImageError(AnnotationError):
    """An object's box lies outside its image, wholly or by more than rounding."""


class EmptySetError(AnnotationError):
    """A data set without images, classes, or objects to train on."""


class Problems:
    """Collects errors instead of stopping at the first.

    Readers take ``keep_going: Problems | None``. With None they raise; with a collector they record the error, leave
    the offending item out (or keep the record without objects) and go on.
    """

    def __init__(self) -> None:
        self.errors: list[SsdconvError] = []

    def __len__(self) -> int:
        return len(self.errors)

    def add(self, error: SsdconvError) -> None:
        """Record one error."""
        self.errors.append(error)

    def hand_over(self, keep_going: Problems | None) -> None:
        """Give everything to a collector; without one raise the first, which then counts the others, so that they can be
        mended together.
        """
        if keep_going is not None:
            keep_going.errors += self.errors
        elif self.errors:
            first = self.errors[0]
            if len(self) > 1:
                kinds = ", ".join(f"{count} x {code}" for code, count in self.counts.items())
                first.hint = "; ".join(
                    filter(None, [first.hint, f"of {len(self)} problems in all ({kinds}) this is the first"])
                )
                first.args = (str(first),)
            raise first

    @property
    def counts(self) -> dict[str, int]:
        """Error code -> how often, most frequent first."""
        return dict(Counter(e.code for e in self.errors).most_common())

    def lines(self, limit: int = 20) -> list[str]:
        """Counts first, then the first ``limit`` errors, each on one line."""
        head = [f"{count} x {code}" for code, count in self.counts.items()]
        shown = [str(e).replace("\n", " ") for e in self.errors[:limit]]
        rest = len(self.errors) - len(shown)
        return head + shown + ([f"... and {rest} more"] if rest > 0 else [])

    def to_json(self) -> dict[str, object]:
        """Counts and every error, JSON-ready."""
        return {"counts": self.counts, "errors": [e.to_json() for e in self.errors]}


def report(error: SsdconvError, keep_going: Problems | None) -> None:
    """Raise ``error``, or record it where a collector is given."""
    if keep_going is None:
        raise error
    keep_going.add(error)


Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Record:
    """One image and its objects.

    Attributes:
        image_id: the data set's own id as text ("000001", "139").
        path: where the image should be; None when the data set was opened without images.
        width, height: of the original image in pixels, as annotated.
        boxes: (n, 4) float64 xyxy, see the module's text.
        labels: (n,) int64, index into ``Dataset.classes`` (no background).
        difficult: (n,) bool, VOC's flag (always False for COCO).
        crowd: (n,) bool, COCO's ``iscrowd`` (always False for VOC).
        area: (n,) float64: COCO's ``area`` (of the mask), for VOC (x2-x1+1)*(y2-y1+1) with 1-based inclusive corners.
        object_ids: (n,) int64, the annotation's own ids (COCO), or the object's place in the file (VOC).
    """

    image_id: str
    path: Path | None
    width: int
    height: int
    boxes: Floats
    labels: Ints
    difficult: Bools
    crowd: Bools
    area: Floats
    object_ids: Ints

    def __len__(self) -> int:
        return len(self.labels)


class Dataset(Protocol):
    """What evaluation and training need of a data set; records are read when asked for and then kept."""

    @property
    def name(self) -> str:
        """Short name for reports ("voc07", "coco-val2017")."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order, without background."""

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The data set's own number of each class, in label order (COCO: 1..90 with gaps)."""

    @property
    def origin(self) -> int:
        """0 or 1: the coordinate of the first pixel in ``Record.boxes``."""

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Ids of all images, in the data set's order."""

    @property
    def complete(self) -> bool:
        """False for a subset (``take``): numbers on it do not compare with published ones."""

    @property
    def problems(self) -> Problems | None:
        """The collector given at opening."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def __iter__(self) -> Iterator[Record]: ...

    def take(self, image_ids: Sequence[str]) -> Dataset:
        """The same data set with only these images, in this order.

        Raises:
            UsageError: an id is not in the set.
        """
