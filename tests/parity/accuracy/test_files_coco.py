"""COCO results files, good and bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ssdconv.data.records import Problems
from ssdconv.errors import MissingError, SsdconvError
from ssdconv.parity.accuracy.detections import (
    ColumnCountError,
    DuplicateDetectionError,
    InvertedBoxError,
    UnknownCategoryError,
    ZeroBoxError,
)
from ssdconv.parity.accuracy.files import read_coco_results

GOOD = {"image_id": 139, "category_id": 90, "bbox": [1.1, 2.2, 3.3, 4.4], "score": 0.5}


def write(path: Path, *results: Any) -> Path:
    file = path / "r.json"
    file.write_text(json.dumps(results))
    return file


def test_plain(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD, GOOD | {"image_id": 7, "score": 1, "category_id": 1})
    found = read_coco_results(file, ("person", "toothbrush"), (1, 90))
    assert found.image_ids == ("139", "7") and found.labels.tolist() == [1, 0] and found.scores.tolist() == [0.5, 1.0]
    assert found.xywh is not None and found.xywh[0].tolist() == [1.1, 2.2, 3.3, 4.4]
    assert found.boxes[0].tolist() == [1.1, 2.2, 1.1 + 3.3, 2.2 + 4.4]


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"category_id": 2}, UnknownCategoryError, "result 2.*category_id 2"),
        ({"bbox": [1, 2, -3, 4]}, InvertedBoxError, "result 2"),
        ({"bbox": [1, 2, 0, 4]}, ZeroBoxError, "result 2"),
        ({}, DuplicateDetectionError, "result 2"),
    ],
)
def test_each_fault_has_its_error(
    tmp_path: Path, fields: dict[str, Any], kind: type[SsdconvError], message: str
) -> None:
    file = write(tmp_path, GOOD, GOOD | fields, GOOD | {"score": 0.25})
    with pytest.raises(kind, match=message):
        read_coco_results(file, ("person", "toothbrush"), (1, 90))
    problems = Problems()
    found = read_coco_results(file, ("person", "toothbrush"), (1, 90), problems)
    assert found.scores.tolist() == [0.5, 0.25] and problems.counts == {kind.__name__: 1}


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"image_id": 1}]', json.dumps([GOOD | {"score": float("nan")}]),
                                  json.dumps([GOOD | {"bbox": [1, 2, 3]}]), json.dumps([GOOD | {"image_id": "139"}])])  # fmt: skip
def test_other_forms(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ColumnCountError, match="not a COCO results file"):
        read_coco_results(tmp_path / "r.json", ("a",), (1,))


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        read_coco_results(tmp_path / "none.json", ("a",), (1,))
