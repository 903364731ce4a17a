"""Detections in COCO's results form: a JSON list of {image_id, category_id, bbox [x, y, width, height], score}."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from ssdconv.data.problems import Problems, report
from ssdconv.parity.metrics.detections import (
    ColumnCountError,
    Detections,
    UnknownCategoryError,
    check_detections,
)
from ssdconv.ssd_ref.gate import read_input


class _Result(msgspec.Struct):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


def read_coco_results(
    file: str | Path, classes: Sequence[str], category_ids: Sequence[int], keep_going: Problems | None = None
) -> Detections:
    """Read a results file; rows stay in file order, and ``xywh`` holds the file's own numbers.

    Raises:
        MissingError: no such file.
        ColumnCountError: not JSON of that form.
        UnknownCategoryError: a category id that the data set has not.
        NonFiniteError, InvertedBoxError, ZeroBoxError, DuplicateDetectionError: see ``check_detections``.
    """
    path = Path(file)
    try:
        results = msgspec.json.decode(read_input(path, "detections", "detection file"), type=list[_Result])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ColumnCountError(
            f"not a COCO results file: {error}",
            where=str(path),
            expected="a list of {image_id, category_id, bbox: [x, y, width, height], score} with finite numbers",
        ) from None
    labels = {c: label for label, c in enumerate(category_ids)}
    rows = np.arange(len(results))
    label = np.asarray([labels.get(r.category_id, -1) for r in results], np.int64)
    for row in np.flatnonzero(label < 0).tolist():
        report(
            UnknownCategoryError(
                "unknown category",
                where=f"{path}: result {row + 1}",
                got=f"category_id {results[row].category_id}",
                hint="COCO's ids run from 1 to 90 with gaps; contiguous labels must be mapped back before writing",
            ),
            keep_going,
        )
    rows = rows[label >= 0]
    table: dict[int, int] = {}
    image = np.asarray([table.setdefault(r.image_id, len(table)) for r in results], np.int64)
    xywh = np.asarray([r.bbox for r in results], np.float64).reshape(-1, 4)
    found = Detections(
        classes=tuple(classes),
        image_ids=tuple(str(i) for i in table),
        image=image[rows],
        labels=label[rows],
        scores=np.asarray([r.score for r in results], np.float64)[rows],
        boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)[rows],
        xywh=xywh[rows],
        written=True,
    )
    return check_detections(found, lambda row: f"{path}: result {rows[row] + 1}", keep_going)


def write_coco_results(file: str | Path, detections: Detections, category_ids: Sequence[int]) -> None:
    """Write a results file with every digit; image ids must be numbers.

    Raises:
        ValueError: an image id is not a number (VOC's ids have no place in this form).
    """
    from ssdconv.parity.metrics.coco import results_array

    ids = [int(i) for i in detections.image_ids]
    rows = [
        _Result(int(r[0]), int(r[6]), (r[1], r[2], r[3], r[4]), r[5])
        for r in results_array(detections, ids, category_ids).tolist()
    ]
    Path(file).write_bytes(msgspec.json.encode(rows))
