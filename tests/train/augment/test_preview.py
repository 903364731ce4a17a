"""The sheet of samples: its size, its boxes, and nothing half written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssdconv.data.coco import open_coco
from ssdconv.errors import OutputError
from ssdconv.ssd_ref.draw import colour
from ssdconv.ssd_ref.networks.registry import network
from ssdconv.train.augment.preview import draw_sample, preview, sheet
from ssdconv.train.loader import Sample, TrainingSet
from ssdconv.train.recipe import Recipe


@pytest.fixture
def training_set(tmp_path: Path) -> TrainingSet:
    for n in range(2):
        cv2.imwrite(str(tmp_path / f"{n}.png"), np.full((40, 50, 3), 60, np.uint8))
    content = {
        "images": [{"id": n, "width": 50, "height": 40, "file_name": f"{n}.png"} for n in range(2)],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [5, 4, 20, 20]}],
        "categories": [{"id": 1, "name": "hat"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    config = replace(network("ssd300_voc", "caffe", num_classes=2), class_names=())
    return TrainingSet(open_coco(annotations=tmp_path / "a.json", images=tmp_path), config, Recipe("a", "b", "c"))


def test_the_sheet(training_set: TrainingSet, tmp_path: Path) -> None:
    target = tmp_path / "out.png"
    assert preview(training_set, target, rows=2, columns=3, cell=100) == 6
    picture = cv2.imread(str(target))
    assert picture.shape == (2 * 106 + 6, 3 * 106 + 6, 3)
    preview(training_set, tmp_path / "again.png", rows=2, columns=3, cell=100)
    assert np.array_equal(cv2.imread(str(tmp_path / "again.png")), picture)
    preview(training_set, tmp_path / "later.png", rows=2, columns=3, cell=100, epoch=1)
    assert not np.array_equal(cv2.imread(str(tmp_path / "later.png")), picture)


def test_boxes_are_where_they_belong() -> None:
    image = np.full((200, 200, 3), 90.0, np.float32)
    boxes = np.array([[0.25, 0.25, 0.75, 0.75], [0.5, 0.5, 0.5, 0.9]], np.float32)
    sample = Sample(image, boxes, np.array([1, 2]), np.array([True, False]))
    drawn = draw_sample(sample, {1: "hat"}).astype(int)
    assert np.abs(drawn[50, 120] - colour(1)).max() < 60 and np.abs(drawn[120, 149] - colour(1)).max() < 60
    assert (drawn[120, 100] == 90).all() and (drawn[20:40] == 90).all()  # a box without area is not drawn
    assert (drawn[53:64, 53:80] > 200).any()  # letters
    assert (image == 90).all()


def test_rows() -> None:
    cells = [np.full((10, 20, 3), n, np.uint8) for n in range(3)]
    out = sheet(cells, 2)
    assert out.shape == (2 * 16 + 6, 2 * 26 + 6, 3)
    assert out[6, 6].max() == 0 and out[6, 32].max() == 1 and out[22, 6].max() == 2 and out[22, 32].min() == 255


def test_a_folder_that_is_not_there(training_set: TrainingSet, tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        preview(training_set, tmp_path / "no" / "out.png", 1, 1)
