"""Whole networks as ONNX models: names, shapes, batches, operator sets, metadata, errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssdconv.errors import MissingError, OutputError, UsageError
from ssdconv.export import onnx_file as onnx_heads
from ssdconv.export.onnx_file import onnx_model, write_onnx
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.model import SSD

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
Run = Callable[..., list[np.ndarray[Any, Any]]]


def shape(value: Any) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


@pytest.fixture(scope="module")
def exported(small: SSD) -> Any:
    return onnx_model(small, provenance={"sha256": "abc"})


def test_names_and_shapes(exported: Any, small: SSD) -> None:
    graph = exported.graph
    assert [(i.name, shape(i)) for i in graph.input] == [("pixels", ["batch", 3, 300, 300])]
    assert [(o.name, shape(o)) for o in graph.output] == [("loc", ["batch", 2268, 4]), ("conf", ["batch", 2268, 21])]
    assert exported.opset_import[0].version == 18 and exported.producer_name == "ssdconv"
    held = {i.name for i in graph.initializer}
    assert {name for name in small.state_dict() if name.endswith("conv.weight")} <= held


def test_any_batch_gives_the_network_s_heads(exported: Any, small: SSD, run_onnx: Run) -> None:
    pixels = torch.randn(3, 3, 300, 300, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours = small(pixels)
    theirs = run_onnx(exported, pixels=pixels.numpy())
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(other, mine.numpy(), atol=1e-4 * float(mine.abs().max()))
    alone = run_onnx(exported, pixels=pixels[1:2].numpy())
    np.testing.assert_allclose(alone[0], theirs[0][1:2], atol=1e-4)


@pytest.mark.slow
def test_the_batch_can_be_fixed(small: SSD, run_onnx: Run) -> None:
    model = onnx_model(small, batch=2, nms=True)
    assert shape(model.graph.input[0])[0] == 2
    assert [(o.name, shape(o)) for o in model.graph.output] == [("detections", ["detections", 7])]
    with pytest.raises(Exception, match=r"(?i)dimension"):
        run_onnx(model, pixels=np.zeros((1, 3, 300, 300), np.float32))


def test_metadata_describe_the_model(exported: Any, small: SSD) -> None:
    told = {entry.key: entry.value for entry in exported.metadata_props}
    whole = json.loads(told["ssdconv"])
    assert SSDConfig.from_json(json.dumps(whole["config"])) == small.config
    assert whole["provenance"] == {"sha256": "abc"}
    assert json.loads(told["classes"]) == list(small.config.class_names) and "loc" in told["outputs"]
    pixels = json.loads(told["pixels"])
    assert pixels["size"] == [300, 300] and pixels["order"] == "RGB" and pixels["mean"] == [0.485, 0.456, 0.406]
    assert json.loads(told["detect"])["top_k_scope"] == "image" and json.loads(told["differences"]) == []


@pytest.mark.slow
@pytest.mark.parametrize("opset", range(19, 24))
def test_operator_sets(opset: int, small: SSD, exported: Any, run_onnx: Run) -> None:
    model = onnx_model(small, opset=opset, nms=True)
    assert model.opset_import[0].version == opset
    pixels = np.random.default_rng(0).normal(size=(1, 3, 300, 300)).astype(np.float32)
    rows = run_onnx(model, pixels=pixels)[0]
    np.testing.assert_allclose(rows, run_onnx(onnx_model(small, nms=True), pixels=pixels)[0], atol=1e-5)


@pytest.mark.parametrize("opset", [17, 24])
def test_other_operator_sets_are_refused(opset: int, small: SSD) -> None:
    with pytest.raises(UsageError, match="18 to 23"):
        onnx_model(small, opset=opset)


def test_no_image_is_no_batch(small: SSD) -> None:
    with pytest.raises(UsageError, match="at least one"):
        onnx_model(small, batch=0)


def test_without_priors_there_are_no_detections(small: SSD) -> None:
    class Blind:
        config = replace(small.config, priors=())

    with pytest.raises(MissingError, match="priors"):
        onnx_model(Blind(), nms=True)  # type: ignore[arg-type]


def test_without_the_package_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch, small: SSD) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setattr(onnx_heads, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(MissingError, match=r"ssdconv\[onnx\]"):
        onnx_model(small)


def test_files_are_written_whole(exported: Any, tmp_path: Path) -> None:
    path = write_onnx(exported, tmp_path / "x.onnx")
    assert onnx.load(path) == exported
    assert [f.name for f in tmp_path.iterdir()] == ["x.onnx"]
    with pytest.raises(UsageError, match=r"\.onnx"):
        write_onnx(exported, tmp_path / "x.pb")
    with pytest.raises(OutputError):
        write_onnx(exported, tmp_path / "none" / "x.onnx")
