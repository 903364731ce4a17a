"""Narrow networks of several sources, and a diagnosis of what a fault makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssdconv.converters.caffe.source import write
from ssdconv.converters.plan import Request
from ssdconv.parity.diagnose.hypothesis import Net
from ssdconv.parity.diagnose.result import Diagnosis
from ssdconv.parity.diagnose.search import Search
from ssdconv.parity.diagnose.sides import BelievedSide, of_network, of_source
from ssdconv.parity.source_side import open_as
from ssdconv.parity.sweep import calibrated_tensors
from ssdconv.ssd_ref.checkpoint import Checkpoint
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.networks.registry import network
from ssdconv.ssd_ref.networks.small import narrowed

Fault = Callable[[SSDConfig, dict[str, Any]], tuple[SSDConfig, dict[str, Any]]]


@pytest.fixture(scope="module", autouse=True)
def _single(one_thread: None) -> None:
    """Small networks are slower on two threads."""


class Bench:
    """Plants faults in networks and diagnoses them; Caffe networks against live OpenCV, others against the reference itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def right(self, name: str, seed: int) -> Net:
        config = narrowed(network(name))
        return Net(config, {k: np.array(v) for k, v in calibrated_tensors(config, seed).items()})

    def wrong(self, right: Net, *faults: Fault) -> Net:
        config, tensors = right.config, {k: np.array(v) for k, v in right.tensors.items()}
        for fault in faults:
            config, tensors = fault(config, tensors)
        return Net(config, {k: np.array(v, order="C") for k, v in tensors.items()})

    def truth(self, right: Net, wrong: Net, *, live: bool, images: int = 1) -> BelievedSide:
        if live:
            source, prototxt = write(right.config, dict(right.tensors), self.folder / "x.caffemodel", Request())
            checkpoint = Checkpoint(wrong.config, {n: torch.from_numpy(a) for n, a in wrong.tensors.items()})
            opened = open_as(source, prototxt, checkpoint)
            with opened.table:
                truth = of_source(opened, wrong, prototxt, (), 0)
        else:
            truth = of_network(right, wrong, "the reference")
        return replace(truth, images=truth.images[:images])

    def __call__(self, name: str, *faults: Fault, seed: int = 1, images: int = 1) -> Diagnosis:
        right = self.right(name, seed)
        wrong = self.wrong(right, *faults)
        live = name.startswith("caffe/")
        return Search(wrong, self.truth(right, wrong, live=live, images=images), "suspect", 1000.0).run()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """See ``Bench``."""
    return Bench(tmp_path)
