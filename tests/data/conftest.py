"""A small VOCdevkit and COCO tree, written by hand so that every number in the tests can be read off here."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

DOG = ("dog", 48, 240, 195, 371, 0)
PERSON = ("person", 8, 12, 352, 498, 1)


def voc_xml(width: int = 353, height: int = 500, objects: tuple[tuple[object, ...], ...] = (DOG, PERSON)) -> str:
    body = "".join(
        f"<object><name>{n}</name><pose>Left</pose><difficult>{d}</difficult><bndbox><xmin>{a}</xmin><ymin>{b}</ymin>"
        f"<xmax>{c}</xmax><ymax>{e}</ymax></bndbox><part><name>head</name><bndbox><xmin>1</xmin><ymin>2</ymin>"
        "<xmax>3</xmax><ymax>4</ymax></bndbox></part></object>"
        for n, a, b, c, e, d in objects
    )
    return (
        f"<annotation><filename>x.jpg</filename><size><width>{width}</width><height>{height}</height>"
        f"<depth>3</depth></size>{body}</annotation>"
    )


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """VOC2007 test with 000001 (dog, difficult person) and 000002 (dog), images on disk; VOC2007/2012 trainval."""
    for year, split, ids in (
        ("2007", "test", ["000001", "000002"]),
        ("2007", "trainval", ["000005"]),
        ("2012", "trainval", ["2008_000001"]),
        ("2012", "val", ["2008_000009"]),
    ):
        folder = tmp_path / "VOCdevkit" / f"VOC{year}"
        for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(ids) + "\n")
        for name in ids:
            objects = (DOG,) if name == "000002" else (DOG, PERSON)
            (folder / "Annotations" / f"{name}.xml").write_text(voc_xml(objects=objects))
            cv2.imwrite(str(folder / "JPEGImages" / f"{name}.jpg"), np.full((500, 353, 3), 90, np.uint8))
    return tmp_path / "VOCdevkit"


@pytest.fixture
def coco_root(tmp_path: Path) -> Path:
    """val2017 of two images and categories 1 (person) and 90 (toothbrush); the first image is on disk."""
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    (root / "val2017").mkdir()
    content = {
        "info": {"year": 2017},
        "images": [
            {"id": 139, "file_name": "000000000139.jpg", "width": 64, "height": 48},
            {"id": 285, "file_name": "000000000285.jpg", "width": 50, "height": 50},
        ],
        "annotations": [
            {"id": 7, "image_id": 139, "category_id": 90, "bbox": [1.1, 2.2, 3.3, 4.4], "area": 9.5, "iscrowd": 0},
            {"id": 8, "image_id": 139, "category_id": 1, "bbox": [0, 0, 64, 48], "area": 100, "iscrowd": 1,
             "segmentation": {"counts": [1, 2], "size": [48, 64]}},
            {"id": 9, "image_id": 285, "category_id": 1, "bbox": [5, 5, 10, 10]},
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person", "supercategory": "person"}],
    }  # fmt: skip
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    cv2.imwrite(str(root / "val2017" / "000000000139.jpg"), np.full((48, 64, 3), 90, np.uint8))
    return root
