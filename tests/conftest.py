"""Shared fixtures: where the reference data lies, and skipping with a reason where it is absent."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

SHARED = Path(os.environ.get("SSDCONV_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of the reference data (``SSDCONV_SHARED``, default ``../shared``)."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference data at {SHARED}; set SSDCONV_SHARED")
    return SHARED


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """torch on one thread: networks of a few channels lose time on more."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def caffe_file() -> Callable[..., tuple[Path, Path]]:
    """Writes a prototxt and a .caffemodel with seeded weights: ``caffe_file(text, folder, seed=0)`` -> weights, prototxt."""

    def write(text: str, folder: Path, seed: int = 0) -> tuple[Path, Path]:
        from ssdconv.converters.caffe.graph import graph_config
        from ssdconv.converters.caffe.prototxt import read_prototxt
        from ssdconv.converters.caffe.source import blobs_of
        from ssdconv.converters.caffe.writer import write_caffemodel
        from ssdconv.ssd_ref.model import seeded_tensors

        prototxt, weights = folder / "net.prototxt", folder / "net.caffemodel"
        prototxt.write_text(text)
        net = read_prototxt(prototxt)
        config = graph_config(net, name="made")
        tensors, blobs = seeded_tensors(config, seed), blobs_of(config)
        shapes: dict[str, list[tuple[int, ...]]] = {}
        for blob in blobs:
            shapes.setdefault(blob.layer, []).append(blob.shape)
        layers = tuple(replace(layer, blobs=tuple(shapes.get(layer.name, ()))) for layer in net.layers)
        arrays = {b.name: tensors[f"layers.{b.same_as}" if b.same_as else b.tensor].reshape(b.shape) for b in blobs}
        write_caffemodel(replace(net, layers=layers), arrays, weights)
        return weights, prototxt

    return write


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if SHARED.is_dir():
        return
    skip = pytest.mark.skip(reason=f"no reference data at {SHARED}; set SSDCONV_SHARED")
    for item in items:
        if "shared" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def voc07_root(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VOCdevkit with the annotations of all 4,952 VOC2007 test images, and no image."""
    return _extracted(shared / "data" / "voc2007" / "voc2007_test_annotations.tar.xz", tmp_path_factory) / "VOCdevkit"


@pytest.fixture(scope="session")
def yolov2_files(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with comp4_det_test_<class>.txt of a YOLOv2 on VOC2007 test."""
    return _extracted(shared / "data" / "detections" / "yolov2_voc07test_comp4.tar.xz", tmp_path_factory)


@pytest.fixture(scope="session")
def ssd300_files(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with det_test_<class>.txt of an SSD300 on VOC2007 test."""
    return _extracted(shared / "data" / "detections" / "ssd300_voc07test_det.tar.xz", tmp_path_factory)


def _extracted(archive: Path, factory: pytest.TempPathFactory) -> Path:
    target = factory.mktemp(archive.name.split(".")[0])
    with tarfile.open(archive) as tar:
        tar.extractall(target, filter="data")
    return target
