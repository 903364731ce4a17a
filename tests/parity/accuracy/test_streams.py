"""The resumable stream, and the dispatch by what a path holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ssdconv.data.coco import open_coco
from ssdconv.data.records import Problems
from ssdconv.errors import FormatError, MissingError, OutputError, SsdconvError, UsageError
from ssdconv.parity.accuracy.detections import (
    ColumnCountError,
    DuplicateDetectionError,
    IncompleteDetectionsError,
    InvertedBoxError,
)
from ssdconv.parity.accuracy.files import (
    DetectionsWriter,
    read_detections,
    read_stream,
    write_coco_results,
    write_voc_detections,
)

CLASSES = ("person", "dog")
AWKWARD = [0.1 + 0.2, 1 / 3, 97.00000000000001, 2.5e2]


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
    write_coco_results(tmp_path / "r.json", proper, (1, 4))
    write_voc_detections(tmp_path / "voc", proper)
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
