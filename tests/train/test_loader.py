"""Batches: ready for the network, in order however many threads make them, resumable, and errors name the image."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from ssdconv.data.coco import CocoDataset, open_coco
from ssdconv.data.records import UnreadableImageError
from ssdconv.errors import SsdconvError, UsageError
from ssdconv.ssd_ref.config import Preprocess
from ssdconv.ssd_ref.networks.registry import network
from ssdconv.ssd_ref.preprocess import prepare
from ssdconv.train.augment.sources import CAFFE, SSD_PYTORCH
from ssdconv.train.augment.spec import AugmentSpec
from ssdconv.train.loader import Batch, EpochSampler, Loader, SampleError, TrainingSet, network_input
from ssdconv.train.recipe import Recipe

STILL = AugmentSpec(photometric=None, expand=None, crop=None, flip=0.0, interpolations=("linear",))
RECIPE = Recipe("test", "test", "test", augment=replace(CAFFE, jpeg=False))
COUNT = 11


@pytest.fixture
def dataset(tmp_path: Path) -> CocoDataset:
    """Eleven pictures; number n has n % 4 objects."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for n in range(COUNT):
        cv2.imwrite(str(tmp_path / f"{n}.png"), rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
        images.append({"id": n, "width": 50, "height": 40, "file_name": f"{n}.png"})
        annotations += [
            {"id": 10 * n + k, "image_id": n, "category_id": 1, "bbox": [5 * k, 4, 20, 20]} for k in range(n % 4)
        ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "hat"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    return open_coco(annotations=tmp_path / "a.json", images=tmp_path)


def training_set(
    dataset: CocoDataset, recipe: Recipe = RECIPE, source: str = "caffe/ssd300_voc", **more: Any
) -> TrainingSet:
    base = network(source.split("/")[1], source.split("/")[0], num_classes=2)
    return TrainingSet(dataset, replace(base, class_names=()), recipe, **more)


def equal(first: Batch, second: Batch) -> bool:
    pairs = [(getattr(first.targets, k), getattr(second.targets, k)) for k in ("boxes", "labels", "valid")]
    return first.indices == second.indices and all(
        torch.equal(a, b) for a, b in [(first.images, second.images), *pairs]
    )


@pytest.mark.parametrize("source", ["caffe/ssd300_voc", "gluon/ssd_512_resnet50_v1_voc", "caffe/mobilenet_ssd_voc"])
@pytest.mark.parametrize("raw", [False, True])
def test_images_are_what_prepare_makes(dataset: CocoDataset, source: str, raw: bool) -> None:
    """Against the way of detection, for the resize that both have."""
    whole = training_set(dataset, replace(RECIPE, augment=STILL), source)
    pixels = whole.config.pixels
    batch = next(Loader(whole, EpochSampler(COUNT, 3, shuffle=False), workers=0, raw=raw).epoch(0))
    images = network_input(batch.images, pixels) if raw else batch.images
    wanted = prepare([str(dataset[i].path) for i in range(3)], replace(pixels, resize="opencv_linear"))
    assert images.shape == wanted.shape and images.dtype == torch.float32 and images.is_contiguous()
    assert torch.allclose(images, wanted, atol=1e-6 if raw else 0, rtol=1e-6 if raw else 0)
    assert batch.images.dtype == (torch.uint8 if raw else torch.float32)


@pytest.mark.parametrize("raw", [False, True])
def test_a_grey_network_reads_one_channel(dataset: CocoDataset, raw: bool) -> None:
    """Augmentation works in colour; grey is made of its result, as OpenCV makes it."""
    whole = training_set(dataset, replace(RECIPE, augment=STILL))
    grey = Preprocess(whole.config.pixels.size, "GRAY", (110.0,), (60.0,))
    whole.config = replace(whole.config, pixels=grey)
    batch = next(Loader(whole, EpochSampler(COUNT, 3, shuffle=False), workers=0, raw=raw).epoch(0))
    images = network_input(batch.images, grey) if raw else batch.images
    colour = [whole.sample(i, 0).image for i in range(3)]
    wanted = np.stack([(cv2.cvtColor(c, cv2.COLOR_BGR2GRAY)[None].astype(np.float32) - 110) / 60 for c in colour])
    assert images.shape == (3, 1, *grey.size) and np.allclose(images.numpy(), wanted, atol=1e-6)


def test_float_samples_become_the_same_input(dataset: CocoDataset) -> None:
    whole = training_set(dataset, replace(RECIPE, augment=SSD_PYTORCH))
    ready, raw = (next(Loader(whole, EpochSampler(COUNT, 4), workers=0, raw=r).epoch(0)) for r in (False, True))
    assert raw.images.dtype == torch.float32 and raw.images.shape[-1] == 3
    assert torch.allclose(network_input(raw.images, whole.config.pixels), ready.images, atol=1e-4)


def test_targets(dataset: CocoDataset) -> None:
    whole = training_set(dataset, replace(RECIPE, augment=STILL))
    batch = next(Loader(whole, EpochSampler(COUNT, 4, shuffle=False), workers=2).epoch(0))
    assert batch.indices == (0, 1, 2, 3) and batch.targets.valid.sum(1).tolist() == [0, 1, 2, 3]
    assert torch.allclose(batch.targets.boxes[3, 2], torch.tensor([0.2, 0.1, 0.6, 0.6], dtype=torch.float64))
    assert batch.targets.labels[3].tolist() == [1, 1, 1] and batch.targets.labels[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("mode", ["faithful", "fast"])
def test_threads_change_nothing(dataset: CocoDataset, workers: int, mode: str) -> None:
    whole = training_set(dataset, mode=mode)
    sampler = EpochSampler(COUNT, 2, seed=1)
    wanted = list(Loader(whole, sampler, workers=0).epoch(3))
    made = list(Loader(whole, sampler, workers=workers, ahead=3).epoch(3))
    assert len(made) == 5 and all(equal(a, b) for a, b in zip(made, wanted, strict=True))
    late = list(Loader(whole, sampler, workers=workers).epoch(3, start_batch=3))
    assert all(equal(a, b) for a, b in zip(late, wanted[3:], strict=True))


def test_ranks_make_the_batch_of_one(dataset: CocoDataset) -> None:
    whole = training_set(dataset)
    one = next(Loader(whole, EpochSampler(COUNT, 4), workers=2).epoch(0))
    parts = [next(Loader(whole, EpochSampler(COUNT, 4, 0, r, 2), workers=2).epoch(0)) for r in (0, 1)]
    assert torch.equal(torch.cat([p.images for p in parts]), one.images)


@pytest.mark.slow
def test_processes_change_nothing(dataset: CocoDataset) -> None:
    whole = training_set(dataset)
    wanted = list(Loader(whole, EpochSampler(COUNT, 4), workers=0).epoch(0))
    made = list(Loader(whole, EpochSampler(COUNT, 4), workers=2, kind="process").epoch(0))
    assert all(equal(a, b) for a, b in zip(made, wanted, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_named(dataset: CocoDataset, workers: int) -> None:
    (dataset[5].path or Path()).write_bytes(b"not a picture")
    loader = Loader(training_set(dataset), EpochSampler(COUNT, 2, shuffle=False), workers=workers)
    batches: Iterator[Batch] = loader.epoch(0)
    assert next(batches).indices == (0, 1) and next(batches).indices == (2, 3)
    with pytest.raises(UnreadableImageError, match=r"5\.png"):
        next(batches)


@pytest.mark.parametrize("workers", [0, 2])
def test_any_other_failure_names_the_image_too(
    dataset: CocoDataset, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = training_set(dataset)
    honest = whole.sample

    def broken(index: int, epoch: int) -> Any:
        if index == 3:
            raise ZeroDivisionError("oh")
        return honest(index, epoch)

    monkeypatch.setattr(whole, "sample", broken)
    with pytest.raises(SampleError, match=r"3\.png: .*ZeroDivisionError: oh") as caught:
        list(Loader(whole, EpochSampler(COUNT, 2, shuffle=False), workers=workers).epoch(0))
    assert isinstance(caught.value, SsdconvError) and isinstance(caught.value.__cause__, ZeroDivisionError)


def test_samples_are_made_ahead_and_not_further(dataset: CocoDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = training_set(dataset)
    honest, made, lock = whole.sample, [], threading.Lock()

    def counted(index: int, epoch: int) -> Any:
        with lock:
            made.append(index)
        return honest(index, epoch)

    monkeypatch.setattr(whole, "sample", counted)
    batches = Loader(whole, EpochSampler(COUNT, 2, shuffle=False), workers=2, ahead=2).epoch(0)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert {0, 1} <= set(made) <= {0, 1, 2, 3, 4, 5}
    assert not [t for t in threading.enumerate() if t.name.startswith("samples")]  # stopping early leaves no thread


def test_opencvs_own_threads_are_given_back(dataset: CocoDataset) -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    batches = Loader(training_set(dataset), EpochSampler(COUNT, 4), workers=2).epoch(0)
    next(batches)
    assert cv2.getNumThreads() == 1
    list(batches)
    assert cv2.getNumThreads() == 3
    cv2.setNumThreads(before)


def test_wrong_numbers(dataset: CocoDataset) -> None:
    whole = training_set(dataset)
    with pytest.raises(UsageError, match="differ in size"):
        Loader(whole, EpochSampler(COUNT + 1, 2))
    with pytest.raises(UsageError, match="workers"):
        Loader(whole, EpochSampler(COUNT, 2), workers=-1)
