"""Folders of per-class detection files, good and bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ssdconv.data.records import Problems
from ssdconv.data.voc import VOC_CLASSES
from ssdconv.errors import FormatError, MissingError, SsdconvError
from ssdconv.parity.accuracy.detections import (
    ColumnCountError,
    DuplicateDetectionError,
    EmptyClassFileError,
    InvertedBoxError,
    NonFiniteError,
    make_detections,
)
from ssdconv.parity.accuracy.files import read_voc_detections, write_voc_detections

CLASSES = ("car", "dog")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "comp4_det_test_car.txt").write_text("000004 0.9 1 2 3 4\n000006 0.8 5.5 6.5 7.5 8.5\n")
    (tmp_path / "comp4_det_test_dog.txt").write_text("000004 0.7 1 1 1 2\n")
    return tmp_path


def test_plain(folder: Path) -> None:
    found = read_voc_detections(folder, CLASSES)
    assert found.image_ids == ("000004", "000006") and found.image.tolist() == [0, 1, 0]
    assert found.labels.tolist() == [0, 0, 1] and found.scores.tolist() == [0.9, 0.8, 0.7]
    assert found.boxes.tolist() == [[1, 2, 3, 4], [5.5, 6.5, 7.5, 8.5], [1, 1, 1, 2]]
    assert found.written and not found.covers


def test_round_trip_keeps_every_digit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = np.column_stack(
        [rng.integers(0, 3, 50), rng.integers(0, 2, 50), rng.random(50), rng.random((50, 2)), 1 + rng.random((50, 2))]
    )
    found = make_detections(CLASSES, ("a", "b", "c"), rows[np.argsort(rows[:, 1], kind="stable")])
    write_voc_detections(tmp_path, found)
    again = read_voc_detections(tmp_path, CLASSES).aligned(("a", "b", "c"), CLASSES)
    for name in ("image", "labels", "scores", "boxes"):
        assert np.array_equal(getattr(again, name), getattr(found, name)), name


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        ("000004 0.9 1 2 3", ColumnCountError, "line 3.*6: image_id score"),
        ("000004 0.9 1 2 3 4 5", ColumnCountError, "got 7"),
        ("000004 high 1 2 3 4", ColumnCountError, "line 3.*not a number"),
        ("000004 nan 1 2 3 4", NonFiniteError, "line 3"),
        ("000004 0.9 5 2 3 4", InvertedBoxError, "line 3"),
        ("000004 0.9 1 2 3 4", DuplicateDetectionError, "line 3"),
    ],
)
def test_each_fault_has_its_error(folder: Path, line: str, kind: type[SsdconvError], message: str) -> None:
    with open(folder / "comp4_det_test_car.txt", "a") as file:
        file.write(line + "\n")
    with pytest.raises(kind, match=message) as caught:
        read_voc_detections(folder, CLASSES)
    assert "comp4_det_test_car.txt" in str(caught.value)
    problems = Problems()
    assert len(read_voc_detections(folder, CLASSES, problems)) == 3 and problems.counts == {kind.__name__: 1}


def test_line_numbers_survive_blank_and_bad_lines(folder: Path) -> None:
    (folder / "comp4_det_test_car.txt").write_text("\n000004 x 1 2 3 4\n\n000004 0.9 5 2 3 4\n")
    problems = Problems()
    read_voc_detections(folder, CLASSES, problems)
    assert [str(e).split(": ")[1] for e in problems.errors] == ["line 2", "line 4"]


def test_empty_class_file(folder: Path) -> None:
    (folder / "comp4_det_test_dog.txt").write_text("")
    with pytest.raises(EmptyClassFileError, match="keep_going"):
        read_voc_detections(folder, CLASSES)
    assert len(read_voc_detections(folder, CLASSES, Problems())) == 2


def test_missing_and_ambiguous_files(folder: Path) -> None:
    with pytest.raises(MissingError, match="no detection file for cat"):
        read_voc_detections(folder, ("cat",))
    (folder / "det_test_dog.txt").write_text("000004 0.7 1 1 1 2\n")
    with pytest.raises(FormatError, match="several detection files for dog"):
        read_voc_detections(folder, CLASSES)


def test_not_text(folder: Path) -> None:
    (folder / "comp4_det_test_dog.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ColumnCountError, match="not a text file"):
        read_voc_detections(folder, CLASSES)


@pytest.mark.shared
def test_real_sets(yolov2_files: Path, ssd300_files: Path) -> None:
    assert len(read_voc_detections(yolov2_files, VOC_CLASSES)) == 101_139
    assert len(read_voc_detections(ssd300_files, VOC_CLASSES)) == 57_322
