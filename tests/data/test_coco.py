"""COCO folders and any COCO-form JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ssdconv.data.coco import open_coco
from ssdconv.data.records import (
    AnnotationError,
    InvertedObjectError,
    Problems,
    UnknownClassError,
    WrongRootError,
)
from ssdconv.errors import MissingError, SsdconvError, UnsafeFileError, UsageError


def test_split(coco_root: Path) -> None:
    dataset = open_coco(coco_root, "val2017")
    assert dataset.image_ids == ("139", "285") and dataset.origin == 0
    assert dataset.classes == ("person", "toothbrush") and dataset.category_ids == (1, 90)
    record = dataset[0]
    assert record.boxes.tolist() == [[1.1, 2.2, 1.1 + 3.3, 2.2 + 4.4], [0.0, 0.0, 64.0, 48.0]]
    assert record.labels.tolist() == [1, 0] and record.crowd.tolist() == [False, True]
    assert record.area.tolist() == [9.5, 100.0] and record.object_ids.tolist() == [7, 8]
    assert record.path == coco_root / "val2017" / "000000000139.jpg"
    assert dataset[1].area.tolist() == [100.0], "a missing area is width times height"


def test_form_keeps_the_files_own_numbers(coco_root: Path) -> None:
    form = open_coco(coco_root).coco_form()
    assert form["annotations"][0]["bbox"] == [1.1, 2.2, 3.3, 4.4]
    assert [i["id"] for i in form["images"]] == [139, 285] and form["categories"][1] == {"id": 90, "name": "toothbrush"}


def test_annotations_alone(coco_root: Path) -> None:
    dataset = open_coco(annotations=coco_root / "annotations" / "instances_val2017.json")
    assert dataset[0].path is None and dataset.name == "instances_val2017"


def test_minival_images_lie_in_val2014(coco_root: Path) -> None:
    folder = coco_root / "annotations"
    (folder / "instances_val2017.json").rename(folder / "instances_minival2014.json")
    (coco_root / "val2017").rename(coco_root / "val2014")
    assert open_coco(coco_root, "minival2014")[0].path == coco_root / "val2014" / "000000000139.jpg"


def test_take(coco_root: Path) -> None:
    part = open_coco(coco_root).take(["285"])
    assert part.image_ids == ("285",) and not part.complete and len(part.coco_form()["annotations"]) == 1
    with pytest.raises(UsageError, match="'1'"):
        part.take(["1"])


def test_wrong_root(coco_root: Path) -> None:
    with pytest.raises(WrongRootError, match=r"annotations/instances_train2017\.json.*annotations, val2017"):
        open_coco(coco_root, "train2017")
    with pytest.raises(UsageError):
        open_coco()
    with pytest.raises(MissingError):
        open_coco(annotations=coco_root / "none.json")


def changed(coco_root: Path, key: str, **fields: Any) -> Path:
    path = coco_root / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    content[key][0] |= fields
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("key", "fields", "kind", "message"),
    [
        ("annotations", {"image_id": 5}, AnnotationError, "annotation 7.*image_id 5"),
        ("annotations", {"category_id": 2}, UnknownClassError, "category_id 2"),
        ("annotations", {"bbox": [1, 2, -3, 4]}, InvertedObjectError, "negative"),
        ("annotations", {"bbox": [1, 2, 3]}, AnnotationError, "not a COCO detection file"),
        ("annotations", {"id": 8}, AnnotationError, "annotation ids repeat"),
        ("images", {"id": 285}, AnnotationError, "image ids repeat"),
        ("categories", {"id": 1}, AnnotationError, "category ids repeat"),
        ("images", {"id": "139"}, AnnotationError, "not a COCO detection file"),
    ],
)
def test_each_fault_has_its_error(
    coco_root: Path, key: str, fields: dict[str, Any], kind: type[SsdconvError], message: str
) -> None:
    path = changed(coco_root, key, **fields)
    with pytest.raises(kind, match=message) as caught:
        open_coco(coco_root)
    assert path.name in str(caught.value)


def test_boxes_may_begin_outside(coco_root: Path) -> None:
    changed(coco_root, "annotations", bbox=[-1.5, -2, 30, 40])
    assert open_coco(coco_root)[0].boxes[0].tolist() == [-1.5, -2.0, 28.5, 38.0]


def test_not_json_and_no_images(coco_root: Path) -> None:
    path = coco_root / "annotations" / "instances_val2017.json"
    for text in ("", '{"images": [', '{"images": [], "annotations": [], "categories": []}', '{"images": [NaN]}'):
        path.write_text(text)
        with pytest.raises(AnnotationError):
            open_coco(coco_root)


def test_keep_going(coco_root: Path) -> None:
    changed(coco_root, "annotations", category_id=2)
    problems = Problems()
    assert len(open_coco(coco_root, keep_going=problems)[0]) == 1
    assert problems.counts == {"UnknownClassError": 1}


@pytest.mark.shared
def test_real_subset(shared: Path) -> None:
    folder = shared / "data" / "coco_val2017_subset"
    dataset = open_coco(annotations=folder / "instances_val2017_subset.json", images=folder / "val2017")
    assert len(dataset) == 64 and sum(map(len, dataset)) == 611 and len(dataset.classes) == 80
    assert dataset.category_ids[-1] == 90 and all(r.path and r.path.is_file() for r in dataset)


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/passwd", "x/../../a.jpg", "..\\a.jpg", "C:\\a.jpg", "a\0.jpg"])
def test_images_stay_in_their_folder(name: str, tmp_path: Path) -> None:
    image = {"id": 1, "file_name": name, "width": 9, "height": 9}
    file = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "dog"}]}
    (tmp_path / "a.json").write_text(json.dumps(file))
    with pytest.raises(UnsafeFileError, match="outside"):
        open_coco(annotations=tmp_path / "a.json", images=tmp_path)
