"""The sweep: a network goes through file, oracle and back; what differs or cannot run is told; results are kept and read again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ssdconv.converters.plan import Request
from ssdconv.converters.registry import source as source_named
from ssdconv.errors import MissingError
from ssdconv.parity import sweep
from ssdconv.parity.report.sweep import render
from ssdconv.parity.sweep import (
    CANDIDATES,
    LARGEST,
    SweepResult,
    cache_path,
    cached,
    calibrated_tensors,
    compare_files,
    sweep_one,
)
from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.networks.registry import network, networks
from ssdconv.ssd_ref.postprocess import scores_of
from ssdconv.ssd_ref.preprocess import prepare

SMALL = "caffe/aizoo_facemask"
DONE = SweepResult(
    SMALL,
    "passed",
    "",
    "OpenCV 4.14.0",
    110,
    2,
    1.57,
    1.3,
    "conv2d_1",
    20,
    20,
    0,
    0,
    56,
    56,
    56,
    56,
    0,
    {"torch": "2"},
    "abc",
)


def test_one_network_all_the_way() -> None:
    told: list[str] = []
    found = sweep_one(SMALL, commit="abc", progress=lambda name, *_: told.append(name))
    assert found.status == "passed", found.why
    assert (found.probes, found.inputs, found.tensors, found.identical) == (110, 2, 56, 56)
    assert found.round_trip and found.back == 56
    assert 0.3 < found.worst < 8 and found.worst_probe and found.oracle.startswith(("OpenCV", "Caffe"))
    assert found.commit == "abc" and found.versions["torch"] and len(told) == 110
    assert SweepResult(**__import__("json").loads(found.to_json())) == found


def test_an_absent_oracle_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise MissingError("oracle X not run: it is not installed")

    monkeypatch.setattr(sweep, "verify", absent)
    found = sweep_one(SMALL)
    assert found.status == "not run" and found.why == "oracle X not run: it is not installed" and not found.round_trip


def test_a_wrong_way_back_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "compare_files", lambda *_: (56, 55))
    found = sweep_one(SMALL)
    assert found.status == "failed" and "1 tensors of the file written back differ" in found.why


def test_files_are_compared_by_name_and_bits(tmp_path: Path) -> None:
    config = network(SMALL)
    tensors = calibrated_tensors(config, 0)
    write = source_named("caffe").module.write
    write(config, tensors, tmp_path / "a.caffemodel", Request())
    write(config, tensors, tmp_path / "b.caffemodel", Request())
    assert compare_files("caffe", tmp_path / "a.caffemodel", tmp_path / "b.caffemodel") == (56, 56)
    bias = tensors["heads.loc.0.predictor.bias"]
    bias[3] = np.nextafter(bias[3], np.float32(9))
    write(config, tensors, tmp_path / "b.caffemodel", Request())
    assert compare_files("caffe", tmp_path / "a.caffemodel", tmp_path / "b.caffemodel") == (56, 55)


@pytest.mark.parametrize("name", ["caffe/mobilenet_ssd_voc_bn", "gluon/ssd_300_mobilenet0.25_voc", SMALL])
def test_weights_give_usual_outputs(name: str) -> None:
    config = network(name)
    model = SSD(config)
    model.load_state_dict({k: torch.from_numpy(v) for k, v in calibrated_tensors(config, 0).items()})
    from ssdconv.parity.layers.inputs import synthetic_picture

    with torch.inference_mode():
        loc, conf = model.eval()(prepare([synthetic_picture(0)], config.pixels))
    assert 0.01 < float(loc.std()) < 2 * LARGEST["loc"]
    passed = scores_of(conf, config.detect.activation) > config.detect.score_threshold
    if config.detect.background is not None:
        passed[..., config.detect.background] = False
    assert 0.5 * CANDIDATES < int(passed.sum()) <= 1.05 * CANDIDATES


def test_results_are_kept_by_versions_and_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cache_path(tmp_path, SMALL)
    path.write_text(DONE.to_json())
    assert cached(tmp_path, SMALL) == DONE
    assert cached(tmp_path, SMALL, seed=1) is None and cached(tmp_path, "caffe/ssd300_voc") is None
    path.write_text(replace(DONE, status="not run").to_json())
    assert cached(tmp_path, SMALL) is None, "an oracle may have been installed meanwhile"
    path.write_text("{")
    assert cached(tmp_path, SMALL) is None
    path.write_text(DONE.to_json())
    monkeypatch.setattr(sweep, "versions", lambda: {"torch": "99"})
    assert cached(tmp_path, SMALL) is None


def test_the_document_lists_every_network() -> None:
    wrong = replace(DONE, network="caffe/ssd300_voc", status="failed", why="first divergent: fc6", matched=18, boundary=1,
                    unexplained=1, back_identical=55, worst=123.456)  # fmt: skip
    text = render({SMALL: DONE, "caffe/ssd300_voc": wrong, "gluon/ssd_512_resnet50_v1_voc": replace(
        DONE, network="gluon/ssd_512_resnet50_v1_voc", status="not run", why="oracle MXNet not run")})  # fmt: skip
    for info in networks():
        assert f"`{info.name}`" in text or f"`{info.source}/{info.name}`" in text
    assert "| `aizoo_facemask` | OpenCV 4.14.0 | 110 | 1.57 | 1.30 | 20 of 20 | 56 of 56 | bit-identical |" in text
    assert (
        "| `ssd300_voc` ❌ | OpenCV 4.14.0 | 110 | 123.46 | 1.30 | 18 of 20, 1 at a boundary, **1 unexplained** |"
        in text
    )
    assert "**55 of 56**" in text and "`caffe/ssd300_voc` failed: first divergent: fc6" in text
    assert "| `gluon/ssd_512_resnet50_v1_voc` | oracle MXNet not run |" in text
    assert "| `gluon/ssd_512_resnet50_v1_coco` | not in this run |" in text
    assert "| 1.30 | – | 56 of 56 |" in render({SMALL: replace(DONE, oracle_rows=0, matched=0)})
    total = len(networks())
    assert f"1 of {total} networks passed, 1 failed, {total - 2} not run" in text
    assert "worst error is 1.57 x" in text, "of those that passed"
