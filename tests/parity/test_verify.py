"""verify: a correct conversion passes; every seeded fault fails, and the first divergent layer is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssdconv.converters.caffe.source import write
from ssdconv.converters.convert import convert
from ssdconv.converters.plan import Request
from ssdconv.errors import EXIT_MISSING, FormatError, MappingError, MissingError, UsageError
from ssdconv.parity.layers.results import ParityReport
from ssdconv.parity.oracles.base import Availability
from ssdconv.parity.oracles.caffe import CaffeOracle
from ssdconv.parity.oracles.opencv import OpenCVOracle
from ssdconv.parity.source_side import PIXELS_UNTOLD
from ssdconv.parity.verify import verify
from ssdconv.ssd_ref.checkpoint import read, save
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.model import seeded_tensors
from ssdconv.ssd_ref.networks.registry import network
from ssdconv.ssd_ref.networks.small import narrowed

Tensors = dict[str, Any]
Change = Callable[[SSDConfig, Tensors], tuple[SSDConfig, Tensors]]


@dataclass
class Case:
    """A source file with its prototxt and the right config and tensors."""

    source: Path
    prototxt: Path
    config: SSDConfig
    tensors: Tensors

    def verify(self, tmp_path: Path, change: Change | None = None, **options: Any) -> ParityReport:
        config, tensors = self.config, {k: np.array(v) for k, v in self.tensors.items()}
        if change is not None:
            config, tensors = change(config, tensors)
        save(tmp_path / "out.pth", config, {k: np.ascontiguousarray(v) for k, v in tensors.items()})
        options.setdefault("oracle", "opencv")
        return verify(tmp_path / "out.pth", self.source, prototxt=self.prototxt, **options)


def narrow(name: str, folder: Path, width: int = 8) -> Case:
    """A named VGG network with an eighth of its channels and seeded weights, written as a Caffe file."""
    config = narrowed(network(name, "caffe", None), width)
    tensors = seeded_tensors(config, 1)
    source, prototxt = write(config, tensors, folder / "x.caffemodel", Request())
    return Case(source, prototxt, config, dict(tensors))


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def ssd300(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return narrow("ssd300_voc", tmp_path_factory.mktemp("ssd300"))


@pytest.fixture(scope="module")
def ssd512(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return narrow("ssd512_voc", tmp_path_factory.mktemp("ssd512"), width=4)


def converted(source: Path, prototxt: Path, folder: Path) -> Case:
    convert(source, folder / "x.pth", prototxt=prototxt)
    checkpoint = read(folder / "x.pth")
    return Case(source, prototxt, checkpoint.config, {k: v.numpy() for k, v in checkpoint.state_dict.items()})


@pytest.fixture(scope="module")
def res10(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = shared / "weights" / "res10_face_ssd"
    weights = folder / "res10_300x300_ssd_iter_140000.caffemodel"
    return converted(weights, folder / "deploy.prototxt", tmp_path_factory.mktemp("res10"))


def staged(config: SSDConfig, **options: Any) -> SSDConfig:
    backbone = replace(config.staged.backbone, options={**config.staged.backbone.options, **options})
    return replace(config, layers=replace(config.staged, backbone=backbone))


def cells(config: SSDConfig, change: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> SSDConfig:
    return replace(config, priors=tuple(replace(m, box_sizes=change(m.box_sizes)) for m in config.priors))


def swap_bgr(config: SSDConfig, tensors: Tensors) -> tuple[SSDConfig, Tensors]:
    return config, tensors | {"backbone.conv1_1.conv.weight": tensors["backbone.conv1_1.conv.weight"][:, ::-1]}


def scale_left_at_20(config: SSDConfig, tensors: Tensors) -> tuple[SSDConfig, Tensors]:
    return config, tensors | {"heads.l2norm.0.weight": np.full_like(tensors["heads.l2norm.0.weight"], 20)}


def loc_as_yx(config: SSDConfig, tensors: Tensors) -> tuple[SSDConfig, Tensors]:
    for name in [n for n in tensors if n.startswith("heads.loc.")]:
        by_anchor = tensors[name].reshape(-1, 4, *tensors[name].shape[1:])
        tensors[name] = by_anchor[:, [1, 0, 3, 2]].reshape(tensors[name].shape)
    return config, tensors


def classes_shifted(config: SSDConfig, tensors: Tensors) -> tuple[SSDConfig, Tensors]:
    for name in [n for n in tensors if n.startswith("heads.conf.")]:
        by_anchor = tensors[name].reshape(-1, config.num_classes, *tensors[name].shape[1:])
        tensors[name] = np.roll(by_anchor, 1, axis=1).reshape(tensors[name].shape)
    return config, tensors


def variances_doubled(config: SSDConfig, tensors: Tensors) -> tuple[SSDConfig, Tensors]:
    return replace(config, priors=tuple(replace(m, variances=(0.2, 0.2, 0.4, 0.4)) for m in config.priors)), tensors


def rule(**fields: Any) -> Change:
    return lambda config, tensors: (replace(config, detect=replace(config.detect, **fields)), tensors)


def one_weight(name: str) -> Change:
    def change(config: SSDConfig, tensors: Tensors) -> tuple[SSDConfig, Tensors]:
        tensors[name].flat[tensors[name].size // 2] += np.abs(tensors[name]).max()
        return config, tensors

    return change


def scaled(name: str, factor: float = 1.0002) -> Change:
    return lambda config, tensors: (config, tensors | {name: tensors[name] * np.float32(factor)})


FAULTS_300: dict[str, tuple[Change, str]] = {
    "BGR swap": (swap_bgr, "conv1_1"),
    "floor instead of ceil in pool3": (lambda c, t: (staged(c, rounding="floor"), t), "pool3"),
    "fc6 without dilation": (lambda c, t: (staged(c, fc6_dilation=1), t), "fc6"),
    "L2Norm scale left at 20": (scale_left_at_20, "conv4_3_norm"),
    "prior order": (lambda c, t: (cells(c, lambda s: (*s[1:], s[0])), t), "mbox_priorbox"),
    "prior clipped": (lambda c, t: (replace(c, priors=tuple(replace(m, clip="corners") for m in c.priors)), t), "mbox_priorbox"),
    "loc order": (loc_as_yx, "conv4_3_norm_mbox_loc"),
    "class order": (classes_shifted, "conv4_3_norm_mbox_conf"),
    "variance doubled": (variances_doubled, "mbox_priorbox"),
    "sigmoid scores": (rule(activation="sigmoid"), "mbox_conf_softmax"),
    "variance taken as encoded": (rule(variance_encoded=True), "detections"),
    "NMS at 0.6": (rule(nms_threshold=0.6), "detections"),
    "one wrong weight": (one_weight("extras.conv8_2.conv.weight"), "conv8_2"),
}  # fmt: skip


def test_a_correct_conversion_passes(ssd300: Case, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    report = ssd300.verify(tmp_path, progress=lambda *a: seen.append(a))
    assert report and report.passed and report.first_divergent is None
    assert [i.name for i in report.inputs] == ["synthetic picture, seed 0", "noise, seed 0"]
    names = [p.source for p in report.inputs[0].probes]
    layers = [e for e in ssd300.prototxt.read_text().split("\n") if e.strip().startswith("name:")]
    assert len(set(names)) == len(names) and report.probes == 2 * len(names) == len(seen)
    assert set(report.not_compared) | set(names) | {"detection_out"} >= {e.split('"')[1] for e in layers[1:]}
    assert {"data", "mbox_loc", "mbox_conf_reshape", "mbox_conf_softmax", "mbox_conf_flatten", "mbox_priorbox"} < set(
        names
    )
    assert not [(p.source, p.ratio, p.rms_ratio) for i in report.inputs for p in i.probes if p.excess > 0.5]
    assert report.tensors is not None and report.tensors.compared == 71
    for result in report.inputs:
        assert result.detections is not None and result.detections.oracle > 0 and not result.detections.unexplained
    assert PIXELS_UNTOLD in report.notes and "generated picture" in report.notes[0]
    assert report.oracle.startswith("OpenCV 4.")


@pytest.mark.parametrize("fault", FAULTS_300)
def test_a_seeded_fault_fails_at_its_layer(ssd300: Case, tmp_path: Path, fault: str) -> None:
    change, layer = FAULTS_300[fault]
    report = ssd300.verify(tmp_path, change)
    assert not report and report.first_divergent == layer


@pytest.mark.parametrize(
    "tensor",
    [
        "backbone.conv1_1.conv.weight",
        "backbone.conv1_1.conv.bias",
        "backbone.conv5_3.conv.bias",
        "extras.conv9_2.conv.weight",
        "heads.l2norm.0.weight",
        "heads.loc.0.weight",
        "heads.conf.5.bias",
    ],
)
def test_one_tensor_scaled_by_1_0002_fails_at_its_layer(ssd300: Case, tmp_path: Path, tensor: str) -> None:
    report = ssd300.verify(tmp_path, scaled(tensor))
    path = tensor.rsplit(".", 1)[0]
    first = next(i.first_divergent for i in report.inputs if i.first_divergent is not None)
    assert not report and first.reference == path and report.first_divergent == first.source
    assert report.tensors is not None and len(report.tensors.different) == 1
    assert report.tensors.different[0].startswith(f"{tensor}: differs from {first.source}/")


def integer_sizes_kept(config: SSDConfig, tensors: Tensors) -> tuple[SSDConfig, Tensors]:
    """35.84 and 76.8 as in the paper's formula, not 35 and 76 as Caffe's integer fields make them."""
    first = config.priors[0]
    low, high = 35.84, 76.8
    assert first.box_sizes[0] == (35.0, 35.0)
    root, ratio = (low * high) ** 0.5, 2**0.5
    sizes = ((low, low), (root, root), (low * ratio, low / ratio), (low / ratio, low * ratio))
    return replace(config, priors=(replace(first, box_sizes=sizes), *config.priors[1:])), tensors


def pad_of_conv10_2(config: SSDConfig, tensors: Tensors) -> tuple[SSDConfig, Tensors]:
    """4x4 without padding and 2x2 input: torch cannot run it, so a 3x3 corner of the kernel with padding stands in."""
    *stages, (reduce, last) = config.staged.extras.stages
    assert (last.name, last.kernel, last.padding) == ("conv10_2", 4, 1)
    extras = replace(config.staged.extras, stages=(*stages, (reduce, replace(last, padding=2))))
    return replace(config, layers=replace(config.staged, extras=extras)), tensors


@pytest.mark.parametrize(
    ("change", "layer"), [(integer_sizes_kept, "mbox_priorbox"), (pad_of_conv10_2, "conv10_2"), (None, None)]
)
def test_ssd512(ssd512: Case, tmp_path: Path, change: Change | None, layer: str | None) -> None:
    report = ssd512.verify(tmp_path, change)
    assert report.passed == (change is None) and report.first_divergent == layer


@pytest.mark.shared
def test_res10_passes_and_its_batch_norm_factor_counts(res10: Case, tmp_path: Path) -> None:
    assert res10.verify(tmp_path)
    for tensor, layer in (
        ("layers.data_bn.factor", "data_bn"),
        ("layers.layer_512_1_bn2_h.factor", "layer_512_1_bn2_h"),
    ):
        ignored = res10.verify(tmp_path, lambda c, t, n=tensor: (c, t | {n: np.ones_like(t[n])}))
        assert not ignored and ignored.first_divergent == layer


@pytest.mark.shared
@pytest.mark.parametrize(
    "tensor",
    ["conv1_scale_h.bias", "layer_256_1_bn2.variance", "conv9_2_h.weight"],
)
def test_res10_scaled_by_1_0002_fails_at_its_layer(res10: Case, tmp_path: Path, tensor: str) -> None:
    report = res10.verify(tmp_path, scaled(f"layers.{tensor}"))
    assert not report and report.first_divergent == tensor.split(".")[0]


@pytest.mark.shared
def test_a_bias_below_rounding_is_caught_by_its_bits(res10: Case, tmp_path: Path) -> None:
    report = res10.verify(tmp_path, scaled("layers.conv1_h.bias"))
    assert not report and all(report.inputs) and report.first_divergent is not None
    assert report.first_divergent.startswith("layers.conv1_h.bias: differs from conv1_h/1")


@pytest.mark.shared
@pytest.mark.parametrize("definition", ["train.prototxt", "prototxt"])
def test_libfacedetection_passes_and_its_mean_counts(shared: Path, tmp_path: Path, definition: str) -> None:
    folder = shared / "weights" / "libfacedetection_v1"
    stem = folder / "yufacedetectnet-open-v1"
    case = converted(stem.with_suffix(".caffemodel"), stem.with_suffix(f".{definition}"), tmp_path)
    assert case.verify(tmp_path)
    assert case.config.pixels.mean != (0.0, 0.0, 0.0)
    wrong = case.verify(tmp_path, lambda c, t: (replace(c, pixels=replace(c.pixels, mean=c.pixels.mean[::-1])), t))
    assert not wrong and wrong.first_divergent == "data"
    assert all(not i.probes[1] for i in wrong.inputs), (
        "the oracle is fed with the source's pixels, the reference with its own"
    )


@pytest.mark.shared
def test_a_net_without_detections_is_compared_up_to_its_scores(shared: Path, tmp_path: Path) -> None:
    stem = shared / "weights" / "aizoo_facemask" / "face_mask_detection"
    report = converted(stem.with_suffix(".caffemodel"), stem.with_suffix(".prototxt"), tmp_path).verify(tmp_path)
    assert report and all(i.detections is None for i in report.inputs)
    assert "cls_branch_concat" in [p.source for p in report.inputs[0].probes if p.reference == "@scores"]


@pytest.mark.shared
def test_real_photos_are_named(res10: Case, tmp_path: Path, shared: Path) -> None:
    photos = sorted((shared / "data" / "images").rglob("*.jpg"))[:1]
    report = res10.verify(tmp_path, images=photos, seed=3)
    assert report and [i.name for i in report.inputs] == [photos[0].name, "noise, seed 3"]
    assert not any("generated picture" in note for note in report.notes)


def test_an_absent_oracle_is_not_run_and_never_passed(
    ssd300: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Availability(False, "no module named cv2", "python -m pip install opencv-python-headless")
    monkeypatch.setattr(OpenCVOracle, "available", lambda self: gone)
    monkeypatch.setattr(CaffeOracle, "available", lambda self: gone)
    with pytest.raises(MissingError, match=r"not run: no module named cv2(.|\n)*pip install") as caught:
        ssd300.verify(tmp_path)
    assert caught.value.exit_code == EXIT_MISSING


def test_an_oracle_that_lacks_a_layer_fails(ssd300: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = OpenCVOracle.run_with

    def without(self: OpenCVOracle, pixels: Any, lend: Any) -> Any:
        run = real(self, pixels, lend)
        run.outputs.take("relu4_2")
        return run

    monkeypatch.setattr(OpenCVOracle, "run_with", without)
    report = ssd300.verify(tmp_path, oracle="opencv")
    assert not report and report.first_divergent == "relu4_2"


def test_the_wrong_source_file_is_refused(ssd300: Case, ssd512: Case, tmp_path: Path) -> None:
    save(tmp_path / "out.pth", ssd300.config, ssd300.tensors)
    with pytest.raises(MappingError):
        verify(tmp_path / "out.pth", ssd512.source, prototxt=ssd512.prototxt)
    with pytest.raises(UsageError, match="no oracle 'mxnet'"):
        verify(tmp_path / "out.pth", ssd300.source, prototxt=ssd300.prototxt, oracle="mxnet")
    with pytest.raises(MissingError):
        verify(tmp_path / "out.pth", tmp_path / "nothing.caffemodel")
    (tmp_path / "x.caffemodel").write_bytes(b"<html></html>")
    with pytest.raises(FormatError):
        verify(tmp_path / "out.pth", tmp_path / "x.caffemodel")


def test_the_report_survives_json(ssd300: Case, tmp_path: Path) -> None:
    report = ssd300.verify(tmp_path, FAULTS_300["fc6 without dilation"][0])
    data = report.to_json()
    assert data["passed"] is False and data["first_divergent"] == "fc6" and data["inputs"][0]["probes"][0]["ok"] is True
    assert ParityReport.from_json(json.dumps(data)) == report == ParityReport.from_json(data)
    with pytest.raises(FormatError, match="not a parity report"):
        ParityReport.from_json("{}")
