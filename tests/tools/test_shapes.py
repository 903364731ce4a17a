"""The generated data set: readable as VOC, repeatable, with boxes where the shapes are."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ssdconv.data.images import check_images
from ssdconv.data.voc import open_voc
from ssdconv.errors import UsageError
from ssdconv.tools.shapes import SHAPES, draw_image, write_shapes


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), {"train": 60, "val": 5}, seed=4)


def test_it_is_a_vocdevkit(root: Path) -> None:
    train, val = (open_voc(root, (("2007", split),), classes=SHAPES) for split in ("train", "val"))
    assert (len(train), len(val)) == (60, 5)
    assert not set(train.image_ids) & set(val.image_ids)
    assert len(check_images(train)) == 60
    records = list(train)
    labels = np.concatenate([r.labels for r in records])
    assert set(labels.tolist()) == {0, 1, 2, 3}
    boxes = np.concatenate([r.boxes for r in records])
    assert (boxes[:, :2] >= 1).all()
    assert (boxes[:, 2] <= 160).all()
    assert (boxes[:, 3] <= 120).all()
    sides = (boxes[:, 2:] - boxes[:, :2] + 1) / (160, 120)
    assert sides.max() > 3 * sides.min()
    difficult = np.concatenate([r.difficult for r in records])
    assert 0.01 < difficult.mean() < 0.3


def test_the_same_seed_draws_the_same(root: Path, tmp_path: Path) -> None:
    again = write_shapes(tmp_path / "again", {"train": 60, "val": 5}, seed=4)
    other = write_shapes(tmp_path / "other", {"train": 60, "val": 5}, seed=5)
    paths = sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file())
    assert len(paths) == 65 * 2 + 2
    assert all((root / p).read_bytes() == (again / p).read_bytes() for p in paths)
    assert (root / paths[-3]).read_bytes() != (other / paths[-3]).read_bytes()


def test_boxes_fit_the_front_shape() -> None:
    """The last shape drawn is never covered: outside its box the picture is as if it had not been drawn, inside it is not."""
    for seed in range(40):
        image, shapes = draw_image(np.random.default_rng(seed), 160, 120)
        x0, y0, x1, y1 = shapes[-1].box
        part = image[y0 - 1 : y1, x0 - 1 : x1].astype(np.float32)
        centre = cv2.blur(part, (3, 3))[part.shape[0] // 2, part.shape[1] // 2]
        close = np.abs(cv2.blur(part, (3, 3)) - centre).max(2) < 40
        rows, columns = np.flatnonzero(close.any(1)), np.flatnonzero(close.any(0))
        assert rows[0] <= 3
        assert columns[0] <= 3
        assert rows[-1] >= len(part) - 4
        assert columns[-1] >= part.shape[1] - 4


def test_covered_and_tiny_shapes_are_difficult() -> None:
    seen = set()
    for seed in range(200):
        _, shapes = draw_image(np.random.default_rng(seed), 160, 120)
        for place, shape in enumerate(shapes):
            x0, y0, x1, y1 = shape.box
            small = min((x1 - x0 + 1) / 160, (y1 - y0 + 1) / 120) < 1 / 12
            if small or place == len(shapes) - 1:  # nothing covers the last one
                assert shape.difficult == small
            seen.add((small, shape.difficult))
    assert (False, True) in seen  # covered ones


def test_only_some_classes(tmp_path: Path) -> None:
    root = write_shapes(tmp_path, {"train": 20}, only=("circle", "cross"))
    data = open_voc(root, (("2007", "train"),), classes=("circle", "cross"))
    assert sum(len(record) for record in data) > 10
    with pytest.raises(UsageError):
        write_shapes(tmp_path, {"train": 0})
    with pytest.raises(UsageError):
        write_shapes(tmp_path, size=(20, 90))
