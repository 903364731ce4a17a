"""Data sets of a user's own: descriptions, folders, their classes and what is wrong with them.

Descriptions of data sets: the documented ones are read as they stand, and nothing else slips through.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssdconv.data.catalog import open_dataset
from ssdconv.data.custom import CocoPart, Description, open_custom, read_description
from ssdconv.data.images import record_image
from ssdconv.data.records import (
    AnnotationError,
    EmptySetError,
    OutsideImageError,
    Problems,
    UnknownClassError,
    WrongRootError,
)
from ssdconv.errors import FormatError, MissingError, UsageError

CAT = ("cat", 10, 10, 30, 40)
HAT = ("hat", 1, 1, 60, 50)


def xml(*objects: tuple[str, float, float, float, float], width: int = 60, height: int = 50) -> str:
    body = "".join(
        f"<object><name>{n}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for n, a, b, c, d in objects
    )
    return f"<annotation><size><width>{width}</width><height>{height}</height></size>{body}</annotation>"


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((50, 60, 3), 90, np.uint8))


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A VOC-like folder: a (cat and hat), b (hat, a PNG), c (nothing); lists train = a, c and val = b."""
    root = tmp_path / "mine"
    for part in ("Annotations", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    for name, text in (("a", xml(CAT, HAT)), ("b", xml(HAT)), ("c", xml())):
        (root / "Annotations" / f"{name}.xml").write_text(text)
        picture(root / "JPEGImages" / (f"{name}.png" if name == "b" else f"{name}.jpg"))
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\nc\n")
    (root / "ImageSets" / "Main" / "val.txt").write_text("b\n")
    (root / "ImageSets" / "Main" / "cat_train.txt").write_text("a 1\n")
    return root


def coco_json(**changes: object) -> str:
    content = {
        "images": [{"id": 1, "width": 60, "height": 50, "file_name": "a.jpg"}],
        "annotations": [
            {"id": 5, "image_id": 1, "category_id": 3, "bbox": [10, 10, 20, 30]},
            {"id": 6, "image_id": 1, "category_id": 2, "bbox": [0, 0, 60, 50]},
        ],
        "categories": [{"id": 2, "name": "hat"}, {"id": 3, "name": "cat"}, {"id": 9, "name": "unused"}],
    }
    return json.dumps(content | changes)


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    root = tmp_path / "mycoco"
    (root / "annotations").mkdir(parents=True)
    for split in ("train2020", "val2020"):
        (root / "annotations" / f"instances_{split}.json").write_text(coco_json())
        picture(root / split / "a.jpg")
    return root


def test_a_voc_folder_with_its_own_classes(voc: Path) -> None:
    train, val = open_custom(voc), open_custom(voc, "val")
    assert train.classes == val.classes == ("cat", "hat")  # from all annotations, not only val's
    assert train.image_ids == ("a", "c") and val.image_ids == ("b",)
    assert train[0].labels.tolist() == [0, 1] and train[0].boxes[0].tolist() == [10, 10, 30, 40]
    assert len(train[1]) == 0  # an image without objects stays
    assert record_image(val[0]).shape == (50, 60, 3)  # the PNG was found
    assert train.name == "mine-train" and train.origin == 1


def test_voc_without_lists_and_next_to_images(voc: Path, tmp_path: Path) -> None:
    (voc / "ImageSets" / "Main" / "train.txt").unlink()
    (voc / "ImageSets" / "Main" / "val.txt").unlink()
    (voc / "ImageSets" / "Main" / "cat_train.txt").unlink()
    assert open_custom(voc).image_ids == open_custom(voc, "val").image_ids == ("a", "b", "c")
    for split, name in (("train", "a"), ("valid", "b")):
        folder = tmp_path / "flat" / split
        folder.mkdir(parents=True)
        (folder / f"{name}.xml").write_text(xml(CAT if split == "train" else HAT))
        picture(folder / f"{name}.jpeg")
    val = open_custom(tmp_path / "flat", "val")
    assert val.image_ids == ("b",) and val.classes == ("cat", "hat") and val[0].labels.tolist() == [1]
    assert val[0].path == tmp_path / "flat" / "valid" / "b.jpeg"


def test_a_coco_folder(coco: Path) -> None:
    dataset = open_custom(coco)
    assert dataset.name == "mycoco-train2020" and dataset.classes == ("hat", "cat", "unused")
    assert dataset[0].labels.tolist() == [1, 0]
    assert dataset[0].path == coco / "train2020" / "a.jpg"
    assert open_custom(coco, "val")[0].path == coco / "val2020" / "a.jpg"


def test_coco_next_to_images(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        picture(tmp_path / split / "a.jpg")
        (tmp_path / split / "_annotations.coco.json").write_text(coco_json())
    assert open_custom(tmp_path, "val")[0].path == tmp_path / "valid" / "a.jpg"


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (
            ".yaml",
            "format: voc\nroot: mine\nclasses: [hat, cat]\nsplits:\n  train: train\n  val: ImageSets/Main/val.txt\n",
        ),
        (".toml", 'format = "voc"\nroot = "mine"\nclasses = ["hat", "cat"]\n[splits]\ntrain = "train"\nval = "val"\n'),
        (".json", '{"root": "mine", "classes": ["hat", "cat"], "splits": {"train": "train", "val": "val"}}'),
    ],
)
def test_descriptions(voc: Path, suffix: str, text: str) -> None:
    file = voc.parent / f"my{suffix}"
    file.write_text(text)
    train = open_dataset(str(file))
    assert train.classes == ("hat", "cat") and train.image_ids == ("a", "c") and train[0].labels.tolist() == [1, 0]
    assert open_dataset(str(file), split="val").image_ids == ("b",)


def test_a_coco_description(coco: Path) -> None:
    file = coco / "my.yaml"
    file.write_text(
        "classes: [cat, hat]\nsplits:\n"
        "  train: {annotations: annotations/instances_train2020.json, images: val2020}\n"
        "  val: annotations/instances_val2020.json\n"
    )
    train = open_custom(file)
    assert train.classes == ("cat", "hat") and train[0].labels.tolist() == [0, 1]
    assert train.category_ids == (3, 2)
    assert train[0].path == coco / "val2020" / "a.jpg"
    assert open_custom(file, "val")[0].path == coco / "val2020" / "a.jpg"
    file.write_text("format: coco\nannotations: annotations/instances_val2020.json\nimages: val2020\n")
    assert open_custom(file, "val")[0].path == coco / "val2020" / "a.jpg"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format: voc\nrooot: x\n", "rooot"),
        ("format: pascal\n", "pascal"),
        ("classes: 3\n", "classes"),
        ("- a\n- b\n", "object"),
        ("a: [\n", "not YAML"),
        ("root: nowhere\n", "nowhere"),
        ("!!python/object/apply:os.system [true]\n", "not YAML"),
        ("splits: {train: absent}\n", "absent"),
    ],
)
def test_wrong_descriptions_are_named(voc: Path, text: str, message: str) -> None:
    file = voc / "my.yaml"
    file.write_text(text)
    with pytest.raises((FormatError, MissingError), match=message) as caught:
        open_custom(file)
    assert str(voc) in str(caught.value)


def test_a_name_that_is_a_path_is_no_name(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"absent\.yaml"):
        open_dataset(str(tmp_path / "absent.yaml"))
    with pytest.raises(UsageError, match="unknown data set 'vocc'"):
        open_dataset("vocc")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WrongRootError, match="neither a VOC nor a COCO"):
        open_dataset(str(tmp_path / "empty"))


def test_which_split_is_asked_for(coco: Path, voc: Path) -> None:
    with pytest.raises(MissingError, match=r"train2020, val2020, got test"):
        open_custom(coco, "test")
    with pytest.raises(
        MissingError, match="expected one of train, val, got"
    ):  # cat_train.txt is VOC's list of one class
        open_custom(voc, "other")
    (coco / "annotations" / "instances_train2020.json").rename(coco / "annotations" / "instances_one.json")
    with pytest.raises(MissingError, match="which part"):
        open_custom(coco)


def test_boxes_outside_the_image(voc: Path) -> None:
    file = voc / "Annotations" / "a.xml"
    for box in ((10, 10, 62.5, 40), (10, -3, 30, 40), (61.5, 10, 61.5, 20), (10, 10, 30, 53)):
        file.write_text(xml(HAT, ("cat", *box)))
        with pytest.raises(OutsideImageError, match=r"a\.xml: object 2: the box of this cat is outside.*60x50"):
            open_custom(voc)
    for box in ((0, 0, 61, 51), (1, 1, 60, 50)):  # a pixel of rounding is let pass
        file.write_text(xml(HAT, ("cat", *box)))
        assert len(open_custom(voc)[0]) == 2


def test_coco_boxes_outside_the_image(coco: Path) -> None:
    file = coco / "annotations" / "instances_train2020.json"
    wrong = [{"id": 5, "image_id": 1, "category_id": 3, "bbox": [50, 10, 20, 30]},
             {"id": 6, "image_id": 1, "category_id": 2, "bbox": [0, 0, 60, 50]}]  # fmt: skip
    file.write_text(coco_json(annotations=wrong))
    with pytest.raises(OutsideImageError, match="annotation 5: the box of this cat"):
        open_custom(coco)
    found = Problems()
    dataset = open_custom(coco, keep_going=found)
    assert dataset[0].object_ids.tolist() == [6] and found.counts == {"OutsideImageError": 1}


def test_unknown_classes(voc: Path, coco: Path) -> None:
    (voc / "my.yaml").write_text("classes: [hat]\n")
    with pytest.raises(UnknownClassError, match=r"a\.xml: object 1: unknown class .*'cat'"):
        open_custom(voc / "my.yaml")
    (coco / "my.yaml").write_text("classes: [hat]\nsplits: {train: annotations/instances_train2020.json}\n")
    with pytest.raises(UnknownClassError, match=r"annotation 5: unknown class .*'cat'"):
        open_custom(coco / "my.yaml")
    found = Problems()
    dataset = open_custom(coco / "my.yaml", keep_going=found)
    assert found.counts == {"UnknownClassError": 1} and dataset[0].object_ids.tolist() == [6]
    (coco / "my.yaml").write_text("classes: [hat, cap]\nsplits: {train: annotations/instances_train2020.json}\n")
    with pytest.raises(UnknownClassError, match=r"got cap"):
        open_custom(coco / "my.yaml")


def test_keep_going_collects_everything_and_leaves_it_out(voc: Path) -> None:
    (voc / "Annotations" / "a.xml").write_text(
        xml(CAT, ("hat", 70, 1, 90, 10), ("dog", 1, 1, 5, 5), ("hat", 9, 1, 2, 5))
    )
    (voc / "Annotations" / "c.xml").write_text("<annotation><size>")
    (voc / "my.yaml").write_text("classes: [cat, hat]\nsplits: {train: train}\n")
    found = Problems()
    dataset = open_custom(voc / "my.yaml", keep_going=found)
    assert found.counts == {
        "UnknownClassError": 1,
        "InvertedObjectError": 1,
        "OutsideImageError": 1,
        "AnnotationError": 1,
    }
    assert dataset.image_ids == ("a",) and dataset[0].boxes.tolist() == [[10, 10, 30, 40]]
    assert [r.image_id for r in dataset] == ["a"]


def test_the_first_problem_counts_the_others(voc: Path) -> None:
    (voc / "Annotations" / "a.xml").write_text(xml(("hat", 70, 1, 90, 10), ("hat", 9, 1, 2, 5)))
    (voc / "Annotations" / "c.xml").write_text(xml(("hat", 1, 1, 90, 10)))
    with pytest.raises(
        AnnotationError, match=r"3 problems in all \(2 x OutsideImageError, 1 x InvertedObjectError\)"
    ) as caught:
        open_custom(voc)
    assert "a.xml: object 2: inverted box" in str(caught.value)


def test_empty_sets(voc: Path) -> None:
    (voc / "ImageSets" / "Main" / "train.txt").write_text("\n")
    with pytest.raises(EmptySetError, match=r"no image .*|train\.txt"):
        open_custom(voc)
    (voc / "ImageSets" / "Main" / "train.txt").write_text("c\n")
    with pytest.raises(EmptySetError, match="no image of the data set has an object"):
        open_custom(voc)
    for name in "ab":
        (voc / "Annotations" / f"{name}.xml").write_text(xml())
    with pytest.raises(EmptySetError, match="names a class"):
        open_custom(voc)


def test_ids_and_classes_that_cannot_be(voc: Path) -> None:
    for text, message in (("a\na\n", "listed twice"), ("../a\n", "leads out"), ("zz\n", r"zz\.xml")):
        (voc / "ImageSets" / "Main" / "train.txt").write_text(text)
        with pytest.raises((AnnotationError, MissingError), match=message):
            open_custom(voc)
    (voc / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    (voc / "my.yaml").write_text("classes: [cat, hat, cat]\nsplits: {train: train}\n")
    with pytest.raises(AnnotationError, match="named twice"):
        open_custom(voc / "my.yaml")


def test_origin_and_folder_names(voc: Path) -> None:
    (voc / "Annotations").rename(voc / "labels")
    (voc / "JPEGImages").rename(voc / "pics")
    (voc / "my.yaml").write_text("annotations: labels\nimages: pics\norigin: 0\n")
    dataset = open_custom(voc / "my.yaml")
    assert dataset.origin == 0 and dataset[0].path == voc / "pics" / "a.jpg"


EXAMPLES = re.findall(
    r"^```yaml\n(.*?)^```", (Path(__file__).parents[2] / "docs" / "own_data.md").read_text(), re.MULTILINE | re.DOTALL
)


def test_the_documented_examples(tmp_path: Path) -> None:
    assert len(EXAMPLES) == 2
    (tmp_path / "a.yaml").write_text(EXAMPLES[0])
    assert read_description(tmp_path / "a.yaml") == Description(
        "voc", "/data/shapes", ("circle", "square"), {"train": "train", "val": "lists/held_out.txt"}, "labels", "pictures", 0
    )  # fmt: skip
    (tmp_path / "b.yml").write_text(EXAMPLES[1])
    said = read_description(tmp_path / "b.yml")
    assert (
        said.format == "coco"
        and said.splits["val"] == CocoPart("val.json", "photos")
        and said.classes == ("cat", "dog")
    )


def test_an_empty_description_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("\n")
    with pytest.raises(FormatError, match="cannot be used"):
        read_description(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    "text", ["a: &a [x]\n" + "".join(f"k{n}: &k{n} [*{p}, *{p}]\n" for n, p in enumerate(["a"])), "[" * 5000]
)
def test_bombs_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(FormatError):
        read_description(tmp_path / "a.yaml")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(" " * (1 << 20) + "{}")
    with pytest.raises(FormatError, match="too large"):
        read_description(tmp_path / "a.json")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    for suffix in (".yaml", ".toml", ".json"):
        (tmp_path / f"a{suffix}").write_bytes(b"\xff\xfe\x00x")
        with pytest.raises(FormatError, match="no text in UTF-8"):
            read_description(tmp_path / f"a{suffix}")
