"""Detections on disk, good and bad: the resumable stream, per-class VOC files, COCO results; and which of them a path holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssdconv.data.coco import open_coco
from ssdconv.data.records import Problems
from ssdconv.data.voc import VOC_CLASSES
from ssdconv.errors import FormatError, MissingError, OutputError, SsdconvError, UsageError
from ssdconv.parity.accuracy.coco import results_array
from ssdconv.parity.accuracy.detections import (
    ColumnCountError,
    DetectionSet,
    DuplicateDetectionError,
    EmptyClassFileError,
    IncompleteDetectionsError,
    InvertedBoxError,
    NonFiniteError,
    UnknownCategoryError,
    ZeroBoxError,
    make_detections,
)
from ssdconv.parity.accuracy.files import (
    DetectionsWriter,
    read_coco_results,
    read_detections,
    read_stream,
    read_voc_detections,
)

CLASSES = ("person", "dog")
AWKWARD = [0.1 + 0.2, 1 / 3, 97.00000000000001, 2.5e2]


def write_voc(folder: Path, found: DetectionSet) -> None:
    folder.mkdir(exist_ok=True)
    for label, name in enumerate(found.classes):
        lines = [
            " ".join(
                [found.image_ids[found.image[row]], *map(repr, [found.scores[row].item(), *found.boxes[row].tolist()])]
            )
            for row in np.flatnonzero(found.labels == label)
        ]
        (folder / f"comp4_det_test_{name}.txt").write_text("".join(line + "\n" for line in lines))


def write_coco(file: Path, found: DetectionSet, categories: tuple[int, ...]) -> None:
    rows = results_array(found, list(map(int, found.image_ids)), categories).tolist()
    names = ("image_id", "bbox", "score", "category_id")
    file.write_text(json.dumps([dict(zip(names, (int(r[0]), r[1:5], r[5], int(r[6])), strict=True)) for r in rows]))


def writer(path: Path, **changes: object) -> DetectionsWriter:
    options = {"dataset": "mine", "network": "caffe/x", "classes": CLASSES} | changes
    return DetectionsWriter(path, **options)  # type: ignore[arg-type]


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    path = tmp_path / "deep" / "detections.jsonl"
    with writer(path) as out:
        out.write("1", [1], [0.7], [AWKWARD])
        out.write("2", [], [], np.zeros((0, 4)))
    return path


def test_round_trip_keeps_every_digit_and_empty_images(stream: Path) -> None:
    header, found = read_stream([stream])
    assert (header.dataset, header.network, header.classes) == ("mine", "caffe/x", CLASSES)
    assert found.image_ids == ("1", "2") and found.covers and not found.written
    assert found.boxes.tolist() == [AWKWARD] and found.scores.tolist() == [0.7] and found.labels.tolist() == [1]


def test_float32_comes_back_as_it_was(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).random(20, np.float32)
    with writer(tmp_path / "a.jsonl") as out:
        out.write("1", np.zeros(20, np.int64), scores, np.tile([0, 0, 1, 1], (20, 1)))
    assert np.array_equal(read_stream([tmp_path / "a.jsonl"])[1].scores, scores.astype(np.float64))


def test_every_line_is_on_disk_before_the_next_image(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    out = writer(path)
    out.write("1", [0], [0.5], [[0, 0, 1, 1]])
    assert len(read_stream([path])[1]) == 1
    out.close()


def test_resume_after_a_cut_at_any_byte(stream: Path) -> None:
    whole = stream.read_bytes()
    lines = whole.count(b"\n")
    for cut in range(len(whole) + 1):
        stream.write_bytes(whole[:cut])
        with writer(stream) as out:
            assert out.done == {str(i) for i in range(1, max(whole[:cut].count(b"\n"), 1))}
            for name, row in (("1", ([1], [0.7], [AWKWARD])), ("2", ([], [], []))):
                if name not in out.done:
                    out.write(name, *row)
        assert stream.read_bytes() == whole and whole.count(b"\n") == lines


def test_a_torn_line_longer_than_what_follows_is_gone(stream: Path) -> None:
    with open(stream, "ab") as file:
        file.write(b'{"image_id": "3", "detections": [[0, 0.123456789, 1, 2, 3, 4], [0, 0.1')
    with writer(stream) as out:
        assert out.done == {"1", "2"}
        out.write("3", [], [], [])
    assert stream.read_bytes().endswith(b'{"image_id":"3","detections":[]}\n') and len(read_stream([stream])[1]) == 1


def test_no_image_twice(stream: Path) -> None:
    with writer(stream) as out, pytest.raises(DuplicateDetectionError):
        out.write("1", [], [], [])


def test_another_run_is_not_continued(stream: Path) -> None:
    for change in ({"network": "caffe/y"}, {"dataset": "voc07"}, {"classes": ("dog", "person")}):
        with pytest.raises(UsageError, match="another run"):
            writer(stream, **change)
    with pytest.raises(UsageError, match="exists"):
        writer(stream, resume=False)


def test_bad_numbers_are_refused(tmp_path: Path) -> None:
    with writer(tmp_path / "a.jsonl") as out:
        for score, box in ((float("nan"), [0, 0, 1, 1]), (0.5, [0, 0, float("inf"), 1])):
            with pytest.raises(FormatError, match="not finite"):
                out.write("1", [0], [score], [box])
        assert out.done == set()


def test_unwritable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        writer(tmp_path / "file" / "a.jsonl")


def test_several_processes(tmp_path: Path) -> None:
    for rank, name in enumerate(("1", "2")):
        with writer(tmp_path / f"detections.{rank}.jsonl") as out:
            out.write(name, [0], [0.5 + rank / 4], [[0, 0, 1, 1]])
    found = read_stream(sorted(tmp_path.glob("*.jsonl")))[1]
    assert found.image_ids == ("1", "2") and found.scores.tolist() == [0.5, 0.75]
    with writer(tmp_path / "detections.2.jsonl") as out:
        out.write("1", [], [], [])
    with pytest.raises(DuplicateDetectionError, match=r"detections\.2\.jsonl: line 2"):
        read_stream(sorted(tmp_path.glob("*.jsonl")))
    with writer(tmp_path / "detections.3.jsonl", network="other"):
        pass
    with pytest.raises(UsageError, match="different runs"):
        read_stream(sorted(tmp_path.glob("*.jsonl")), Problems())


HEADER = {"format": "ssdconv-detections", "version": 1, "dataset": "d", "network": "n", "classes": ["a"]}


@pytest.mark.parametrize(
    ("lines", "kind", "message"),
    [
        ([], FormatError, "no header"),
        (['{"a": 1}'], FormatError, "line 1"),
        ([json.dumps(HEADER | {"version": 2})], FormatError, "another format or version"),
        ([json.dumps(HEADER), "{}"], ColumnCountError, "line 2"),
        ([json.dumps(HEADER), '{"image_id": "1", "detections": [[0, 0.5, 1, 2, 3]]}'], ColumnCountError, "line 2"),
        ([json.dumps(HEADER), '{"image_id": "1", "detections": [[1, 0.5, 1, 2, 3, 4]]}'], ColumnCountError, "label"),
        ([json.dumps(HEADER), '{"image_id": "1", "detections": [[0, 0.5, 3, 2, 1, 4]]}'], InvertedBoxError, "line 2"),
        ([json.dumps(HEADER), '{"image_id": "1", "detections": [[0, NaN, 1, 2, 3, 4]]}'], ColumnCountError, "line 2"),
    ],
)
def test_damaged_streams(tmp_path: Path, lines: list[str], kind: type[SsdconvError], message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(line + "\n" for line in lines))
    with pytest.raises(kind, match=message) as caught:
        read_stream([path])
    assert "a.jsonl" in str(caught.value)


def test_boxes_that_a_network_clipped_to_nothing_are_fine(tmp_path: Path) -> None:
    with writer(tmp_path / "a.jsonl") as out:
        out.write("1", [0, 0], [0.5, 0.5], [[0, 0, 0, 1], [0, 0, 0, 1]])
    assert len(read_stream([tmp_path / "a.jsonl"])[1]) == 2


def test_any_form(tmp_path: Path, stream: Path) -> None:
    annotations = tmp_path / "a.json"
    annotations.write_text(json.dumps({
        "images": [{"id": i, "width": 100, "height": 100} for i in (1, 2, 3)], "annotations": [],
        "categories": [{"id": 4, "name": "dog"}, {"id": 1, "name": "person"}],
    }))  # fmt: skip
    dataset = open_coco(annotations=annotations)
    found = read_detections(stream, dataset)
    assert read_detections(stream.parent, dataset).boxes.tolist() == found.boxes.tolist()
    found = found.select(found.scores < 2)
    moved = found.boxes + np.asarray([0.0, 0.0, 200.0, 0.0])
    proper = type(found)(found.classes, found.image_ids, found.image, found.labels, found.scores, moved)
    write_coco(tmp_path / "r.json", proper, (1, 4))
    write_voc(tmp_path / "voc", proper)
    assert read_detections(tmp_path / "r.json", dataset).labels.tolist() == [1]
    assert read_detections(tmp_path / "voc", dataset, Problems()).boxes.tolist() == moved.tolist()
    with pytest.raises(IncompleteDetectionsError):
        read_detections(stream, dataset).aligned(dataset.image_ids, dataset.classes)
    for bad, kind in ((tmp_path / "none", MissingError), (annotations.with_suffix(".json"), SsdconvError)):
        with pytest.raises(kind):
            read_detections(bad, dataset)
    (tmp_path / "x.csv").write_text("")
    with pytest.raises(UsageError, match="unknown form"):
        read_detections(tmp_path / "x.csv", dataset)


VOC = ("car", "dog")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "comp4_det_test_car.txt").write_text("000004 0.9 1 2 3 4\n000006 0.8 5.5 6.5 7.5 8.5\n")
    (tmp_path / "comp4_det_test_dog.txt").write_text("000004 0.7 1 1 1 2\n")
    return tmp_path


def test_plain_voc_files(folder: Path) -> None:
    found = read_voc_detections(folder, VOC)
    assert found.image_ids == ("000004", "000006") and found.image.tolist() == [0, 1, 0]
    assert found.labels.tolist() == [0, 0, 1] and found.scores.tolist() == [0.9, 0.8, 0.7]
    assert found.boxes.tolist() == [[1, 2, 3, 4], [5.5, 6.5, 7.5, 8.5], [1, 1, 1, 2]]
    assert found.written and not found.covers


def test_round_trip_keeps_every_digit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = np.column_stack(
        [rng.integers(0, 3, 50), rng.integers(0, 2, 50), rng.random(50), rng.random((50, 2)), 1 + rng.random((50, 2))]
    )
    found = make_detections(VOC, ("a", "b", "c"), rows[np.argsort(rows[:, 1], kind="stable")])
    write_voc(tmp_path, found)
    again = read_voc_detections(tmp_path, VOC).aligned(("a", "b", "c"), VOC)
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
def test_each_fault_of_a_voc_file_has_its_error(
    folder: Path, line: str, kind: type[SsdconvError], message: str
) -> None:
    with open(folder / "comp4_det_test_car.txt", "a") as file:
        file.write(line + "\n")
    with pytest.raises(kind, match=message) as caught:
        read_voc_detections(folder, VOC)
    assert "comp4_det_test_car.txt" in str(caught.value)
    problems = Problems()
    assert len(read_voc_detections(folder, VOC, problems)) == 3 and problems.counts == {kind.__name__: 1}


def test_line_numbers_survive_blank_and_bad_lines(folder: Path) -> None:
    (folder / "comp4_det_test_car.txt").write_text("\n000004 x 1 2 3 4\n\n000004 0.9 5 2 3 4\n")
    problems = Problems()
    read_voc_detections(folder, VOC, problems)
    assert [str(e).split(": ")[1] for e in problems.errors] == ["line 2", "line 4"]


def test_empty_class_file(folder: Path) -> None:
    (folder / "comp4_det_test_dog.txt").write_text("")
    with pytest.raises(EmptyClassFileError, match="keep_going"):
        read_voc_detections(folder, VOC)
    assert len(read_voc_detections(folder, VOC, Problems())) == 2


def test_missing_and_ambiguous_files(folder: Path) -> None:
    with pytest.raises(MissingError, match="no detection file for cat"):
        read_voc_detections(folder, ("cat",))
    (folder / "det_test_dog.txt").write_text("000004 0.7 1 1 1 2\n")
    with pytest.raises(FormatError, match="several detection files for dog"):
        read_voc_detections(folder, VOC)


def test_not_text(folder: Path) -> None:
    (folder / "comp4_det_test_dog.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ColumnCountError, match="not a text file"):
        read_voc_detections(folder, VOC)


@pytest.mark.shared
def test_real_sets(yolov2_files: Path, ssd300_files: Path) -> None:
    assert len(read_voc_detections(yolov2_files, VOC_CLASSES)) == 101_139
    assert len(read_voc_detections(ssd300_files, VOC_CLASSES)) == 57_322


GOOD = {"image_id": 139, "category_id": 90, "bbox": [1.1, 2.2, 3.3, 4.4], "score": 0.5}


def write(path: Path, *results: Any) -> Path:
    file = path / "r.json"
    file.write_text(json.dumps(results))
    return file


def test_plain_coco_results(tmp_path: Path) -> None:
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
def test_each_fault_of_a_coco_file_has_its_error(
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
