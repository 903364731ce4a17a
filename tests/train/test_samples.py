"""Training samples: which objects count, which channel they get, and that chance depends on seed, epoch and index alone."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssdconv.data.coco import CocoDataset, open_coco
from ssdconv.data.records import Dataset, EmptySetError, MissingImageError, Record
from ssdconv.errors import UsageError
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.networks.registry import network
from ssdconv.train.augment.sources import CAFFE, SOURCES
from ssdconv.train.augment.spec import AugmentSpec
from ssdconv.train.loader import Sample, TrainingSet, class_channels, objects
from ssdconv.train.recipe import Recipe

STILL = AugmentSpec(photometric=None, expand=None, crop=None, flip=0.0, interpolations=("linear",))
RECIPE = Recipe("test", "test", "test", augment=replace(CAFFE, jpeg=False))
NAMES = ("hat", "cat", "dog")


def config(**changes: object) -> SSDConfig:
    base = network("ssd300_voc", "caffe", num_classes=4)
    return replace(base, class_names=(), **changes)  # type: ignore[arg-type]


@pytest.fixture
def dataset(tmp_path: Path) -> CocoDataset:
    """Three pictures of noise: two objects and a crowd; one object of no width; nothing."""
    rng = np.random.default_rng(0)
    for number in (1, 2, 3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
    content = {
        "images": [{"id": n, "width": 80, "height": 60, "file_name": f"{n}.png"} for n in (1, 2, 3)],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [8, 6, 40, 30]},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [40, 30, 40, 30]},
            {"id": 3, "image_id": 1, "category_id": 2, "bbox": [0, 0, 80, 60], "iscrowd": 1},
            {"id": 4, "image_id": 2, "category_id": 2, "bbox": [10, 10, 0, 20]},
        ],
        "categories": [{"id": n + 1, "name": name} for n, name in enumerate(NAMES)],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    return open_coco(annotations=tmp_path / "a.json", images=tmp_path)


def same(first: Sample, second: Sample) -> bool:
    return all(np.array_equal(getattr(first, k), getattr(second, k)) for k in ("image", "boxes", "labels", "keep"))


def test_a_still_sample(dataset: CocoDataset) -> None:
    sample = TrainingSet(dataset, config(), replace(RECIPE, augment=STILL)).sample(0, 0)
    wanted = cv2.resize(cv2.imread(str(dataset[0].path)), (300, 300), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(sample.image, wanted)
    assert sample.boxes.dtype == np.float64 and np.allclose(sample.boxes, [[0.1, 0.1, 0.6, 0.6], [0.5, 0.5, 1, 1]])
    assert sample.labels.tolist() == [3, 1] and sample.keep.tolist() == [True, True]  # the crowd is left out


def test_objects_without_area_do_not_count(dataset: CocoDataset) -> None:
    sample = TrainingSet(dataset, config(), replace(RECIPE, augment=STILL)).sample(1, 0)
    assert sample.keep.tolist() == [False] and sample.labels.tolist() == [2]
    assert len(TrainingSet(dataset, config(), RECIPE).sample(2, 0).labels) == 0


@pytest.mark.parametrize("mode", ["faithful", "fast"])
@pytest.mark.parametrize("name", ["caffe", "gluon", "ssd.pytorch", "tensorflow"])
def test_chance_depends_on_seed_epoch_and_index_alone(dataset: CocoDataset, mode: str, name: str) -> None:
    recipe = replace(RECIPE, augment=SOURCES[name])
    make = lambda seed=5, cache=False: TrainingSet(dataset, config(), recipe, seed, mode, cache)  # type: ignore[arg-type]
    jobs = [(i, e) for e in range(3) for i in range(3)]
    one = make()
    wanted = {job: one.sample(*job) for job in jobs}
    other = make(cache=True)
    with ThreadPoolExecutor(4) as pool:
        made = dict(zip(reversed(jobs), pool.map(lambda job: other.sample(*job), reversed(jobs)), strict=True))
    assert all(same(wanted[job], made[job]) for job in jobs)
    np.random.default_rng(0)
    np.random.seed(1)
    assert same(make().sample(0, 2), wanted[0, 2])
    assert not same(wanted[0, 0], wanted[0, 1]) and not same(make(6).sample(0, 0), wanted[0, 0])


def test_labels_go_with_their_boxes_through_a_crop(dataset: CocoDataset) -> None:
    """The first object ends at the fractions 0.6, 0.6, the second at 1, 1: whoever is left alone is known by its shape."""
    whole = TrainingSet(dataset, config(), replace(RECIPE, augment=replace(RECIPE.augment, expand=None, flip=0.0)))
    alone = []
    for epoch in range(200):
        sample = whole.sample(0, epoch)
        if sample.labels.tolist() == [3, 1]:
            assert sample.boxes[0, 0] <= sample.boxes[1, 0] and sample.boxes[0, 2] <= sample.boxes[1, 2]
        elif len(sample.labels) == 1:
            right, bottom = sample.boxes[0, 2:]
            if right < 1 and bottom < 1:  # only the first object can end inside the picture
                assert sample.labels.tolist() == [3]
            alone.append(int(sample.labels[0]))
    assert {1, 3} <= set(alone)


def test_both_modes_have_the_same_boxes(dataset: CocoDataset) -> None:
    ways = [TrainingSet(dataset, config(), RECIPE, 1, mode) for mode in ("faithful", "fast")]  # type: ignore[arg-type]
    for epoch in range(40):
        first, second = (way.sample(0, epoch) for way in ways)
        assert np.array_equal(first.boxes, second.boxes) and np.array_equal(first.labels, second.labels)


def test_cached_images_are_not_changed(dataset: CocoDataset) -> None:
    kept = TrainingSet(dataset, config(), RECIPE, cache=True)
    first = [kept.sample(0, e) for e in range(12)]
    assert all(same(a, kept.sample(0, e)) for e, a in enumerate(first))
    dataset[0].path.unlink()  # type: ignore[union-attr]
    kept.sample(0, 3)
    with pytest.raises(MissingImageError, match=r"1\.png"):
        TrainingSet(dataset, config(), RECIPE).sample(0, 0)


def record(difficult: list[bool], crowd: list[bool] | None = None) -> Record:
    count = len(difficult)
    boxes = np.arange(count * 4, dtype=np.float64).reshape(count, 4)
    return Record("x", None, 50, 50, boxes, np.arange(count), np.array(difficult, bool),
                  np.array(crowd or [False] * count, bool), np.ones(count), np.arange(count))  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "difficult", "crowd", "left"),
    [
        ("keep", [True, False, True], None, [0, 1, 2]),
        ("drop", [True, False, True], None, [1]),
        ("drop", [True, True], None, []),
        ("drop_keep_one", [True, False, True], None, [1]),
        ("drop_keep_one", [True, True], None, [0]),
        ("drop_keep_one", [True, True], [True, False], [1]),
        ("drop_keep_one", [], None, []),
        ("keep", [False, False], [True, False], [1]),
    ],
)
def test_difficult_objects(rule: str, difficult: list[bool], crowd: list[bool] | None, left: list[int]) -> None:
    recipe = replace(RECIPE, difficult=rule)  # type: ignore[arg-type]
    assert objects(record(difficult, crowd), 0, recipe)[1].tolist() == left


@pytest.mark.parametrize(("origin", "recipe", "first"), [(1, 1, -1.0), (1, 0, 0.0), (0, 1, 0.0), (0, 0, 0.0)])
def test_where_corners_count_from(origin: int, recipe: int, first: float) -> None:
    boxes, _ = objects(record([False]), origin, replace(RECIPE, origin=recipe))  # type: ignore[arg-type]
    assert boxes[0].tolist() == [first, first + 1, first + 2, first + 3]


def test_channels_by_background_and_name(dataset: Dataset) -> None:
    detect = config().detect
    assert class_channels(dataset, config()).tolist() == [1, 2, 3]
    last = config(detect=replace(detect, background=3))
    assert class_channels(dataset, last).tolist() == [0, 1, 2]
    none = replace(config(detect=replace(detect, background=None)), num_classes=3)
    assert class_channels(dataset, none).tolist() == [0, 1, 2]
    named = replace(config(), class_names=("background", "dog", "hat", "cat"))
    assert class_channels(dataset, named).tolist() == [2, 3, 1]


def test_other_classes_are_refused(dataset: Dataset) -> None:
    with pytest.raises(UsageError, match=r"expected 20 classes.*got 3 classes"):
        class_channels(dataset, replace(network("ssd300_voc", "caffe"), class_names=()))
    with pytest.raises(UsageError, match="among them hat"):
        class_channels(dataset, replace(config(), class_names=("background", "cap", "cat", "dog")))


def test_nothing_to_train_on(dataset: CocoDataset) -> None:
    with pytest.raises(EmptySetError):
        TrainingSet(dataset.take([]), config(), RECIPE)
    with pytest.raises(UsageError, match="seed"):
        TrainingSet(dataset, config(), RECIPE, seed=-1)
    with pytest.raises(UsageError, match="cannot follow"):
        TrainingSet(dataset, config(), replace(RECIPE, augment=replace(STILL, stages=("crop",))))
