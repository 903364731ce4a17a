"""A sheet of augmented samples with their boxes: what the network will be shown, to look at before training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from ssdconv.errors import OutputError
from ssdconv.ssd_ref.draw import colour
from ssdconv.ssd_ref.files import atomic_path

if TYPE_CHECKING:
    from ssdconv.train.loader import Sample, TrainingSet

_GAP = 6
_LETTERS = 0.42


def preview(
    training_set: TrainingSet, path: str | Path, rows: int = 4, columns: int = 6, epoch: int = 0, cell: int = 300
) -> int:
    """Write a PNG with one sample per cell: images spread evenly over the set, and further epochs when it is small.

    Args:
        training_set: what training would see.
        path: of the PNG.
        rows, columns: of the sheet.
        epoch: the first epoch shown.
        cell: larger samples are shrunk to this many pixels.

    Returns:
        Number of samples drawn.

    Raises:
        OutputError: the file cannot be written.
        SsdconvError: an image cannot be used.
    """
    count = rows * columns
    whole = len(training_set)
    places = [(n * whole // count, epoch) if whole >= count else (n % whole, epoch + n // whole) for n in range(count)]
    names = channel_names(training_set)
    drawn = [draw_sample(training_set.sample(index, turn), names, cell) for index, turn in places]
    with atomic_path(Path(path)) as target:
        done, data = cv2.imencode(".png", sheet(drawn, columns))
        if not done:
            raise OutputError("the picture could not be encoded", where=str(path))
        target.write_bytes(data.tobytes())
    return count


def channel_names(training_set: TrainingSet) -> dict[int, str]:
    """Class name of each conf channel."""
    return {int(c): name for c, name in zip(training_set.channels, training_set.dataset.classes, strict=True)}


def draw_sample(sample: Sample, names: dict[int, str], cell: int = 300) -> npt.NDArray[np.uint8]:
    """A sample's image with its boxes and class names: (height, width, 3) uint8, BGR, no side above ``cell``."""
    image = np.clip(np.rint(sample.image), 0, 255).astype(np.uint8)
    shrink = min(cell / max(image.shape[:2]), 1.0)
    if shrink < 1:
        image = np.asarray(cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA), np.uint8)
    image = np.ascontiguousarray(image).copy()
    height, width = image.shape[:2]
    for box, label in zip(sample.boxes[sample.keep], sample.labels[sample.keep].tolist(), strict=True):
        x0, y0, x1, y1 = np.rint(box * np.tile([width - 1, height - 1], 2)).astype(int).tolist()
        cv2.rectangle(image, (x0, y0), (x1, y1), colour(label), 2, cv2.LINE_AA)
        place = (x0 + 3, y0 + 13 if y0 < height - 16 else y0 - 4)
        for ink, weight in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(
                image, names.get(label, str(label)), place, cv2.FONT_HERSHEY_SIMPLEX, _LETTERS, ink, weight, cv2.LINE_AA
            )
    return image


def sheet(cells: Sequence[npt.NDArray[np.uint8]], columns: int) -> npt.NDArray[np.uint8]:
    """Pictures of one size in rows of ``columns`` on white."""
    height, width = cells[0].shape[:2]
    rows = -(-len(cells) // columns)
    out = np.full((rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3), 255, np.uint8)
    for number, picture in enumerate(cells):
        top, left = _GAP + number // columns * (height + _GAP), _GAP + number % columns * (width + _GAP)
        out[top : top + height, left : left + width] = picture
    return out
