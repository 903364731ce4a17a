"""The objects of a whole data set as columns, ready for vectorised matching."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssdconv.data.records import Dataset
from ssdconv.errors import UsageError
from ssdconv.parity.metrics.detections import Bools, Floats, Ints


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
