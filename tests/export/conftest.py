"""Running ONNX graphs in ONNX Runtime, and a small real network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ssdconv.export.onnx_detect import add_detections
from ssdconv.ssd_ref.checkpoint import Checkpoint, build
from ssdconv.ssd_ref.config import Postprocess, Preprocess, PriorMap, SSDConfig
from ssdconv.ssd_ref.model import SSD, seeded_tensors
from ssdconv.ssd_ref.networks.registry import network
from ssdconv.ssd_ref.postprocess import detect

Array = np.ndarray[Any, Any]


def session(proto: Any) -> Any:
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return runtime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="session")
def run_onnx() -> Callable[..., list[Array]]:
    """(model, input arrays by name) -> outputs."""
    return lambda proto, **inputs: session(proto).run(None, inputs)


@pytest.fixture(scope="session")
def ruled() -> Callable[..., SSDConfig]:
    """(rule, classes) -> a config with that rule and 24 priors; its layers are nobody's business."""
    staged = network("mobilenet_ssd_voc", "caffe").layers

    def make(rule: Postprocess, classes: int = 4) -> SSDConfig:
        maps = (PriorMap((3, 4), (10.0, 10.0), ((12.0, 9.0), (20.0, 15.0))),)
        return SSDConfig("ruled", "caffe", classes, Preprocess((40, 40)), maps, rule, layers=staged)

    return make


@pytest.fixture(scope="session")
def both_ways() -> Callable[..., tuple[Array, Array]]:
    """(config, loc, conf) -> rows of ONNX Runtime, rows of ``ssd_ref.detect``, both (M, 7)."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT

    def run(config: SSDConfig, loc: Array, conf: Array) -> tuple[Array, Array]:
        shapes = {"loc": ["N", *loc.shape[1:]], "conf": ["N", *conf.shape[1:]]}
        inputs = [helper.make_tensor_value_info(n, kind, s) for n, s in shapes.items()]
        graph = helper.make_graph([], "tail", inputs, [])
        add_detections(graph, config)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.checker.check_model(proto, full_check=True)
        theirs = session(proto).run(None, {"loc": loc, "conf": conf})[0]
        found = detect(torch.from_numpy(loc), torch.from_numpy(conf), config.priors, config.pixels.size, config.detect)
        rows = [
            np.concatenate([np.full((len(d), 1), k), d.labels[:, None], d.scores[:, None], d.boxes], axis=1)
            for k, d in enumerate(found)
        ]
        return theirs, np.concatenate(rows).astype(np.float32)

    return run


@pytest.fixture(scope="session")
def small() -> SSD:
    """A MobileNet-SSD of a few channels with seeded weights."""
    config = network("ssd_300_mobilenet0.25_voc", "gluon")
    return build(Checkpoint(config, {k: torch.from_numpy(v) for k, v in seeded_tensors(config).items()}))
