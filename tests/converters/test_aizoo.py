"""One network in files of three frameworks: equal tensors, equal boxes on photos, each against its own framework.

The published files are read from the reference data; MXNet, TensorFlow and OpenCV run them as they are. Boxes are checked against
``workers/aizoo.py``, NumPy written from the facts of the project's scripts, which shares nothing with ``ssd_ref``.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from ssdconv.converters.caffe.prototxt import read_prototxt
from ssdconv.converters.convert import convert, open_source, reverse
from ssdconv.errors import MappingError, UsageError
from ssdconv.parity.oracles import base
from ssdconv.parity.oracles.opencv import OpenCVOracle
from ssdconv.parity.verify import verify
from ssdconv.ssd_ref.checkpoint import load, save
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.image_file import read_image
from ssdconv.ssd_ref.model import SSD, seeded_tensors
from ssdconv.ssd_ref.networks.aizoo import aizoo
from ssdconv.ssd_ref.networks.registry import network
from ssdconv.ssd_ref.preprocess import prepare
from ssdconv.ssd_ref.priors import prior_boxes

NAME = "aizoo_facemask"
FACES = {
    "images/000001.jpg": 2,
    "images/003123.jpg": 13,
    "coco_val2017_subset/val2017/000000005001.jpg": 15,
    "coco_val2017_subset/val2017/000000099053.jpg": 1,
}
"""Photo -> faces that the network finds in it; the last one is called "Mask", all others "NoMask"."""
SOURCES = {"caffe": "caffemodel", "gluon": "params", "tensorflow": "pb"}


@pytest.fixture(scope="module")
def boxes() -> ModuleType:
    path = Path(base.__file__).parent / "workers" / "aizoo.py"
    spec = spec_from_file_location("aizoo", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def files(shared: Path) -> dict[str, Path]:
    return {s: shared / f"weights/aizoo_facemask/face_mask_detection.{end}" for s, end in SOURCES.items()}


@pytest.fixture(scope="module")
def converted(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("aizoo")
    for source, path in files.items():
        report = convert(path, folder / f"{source}.pth")
        named = network(f"{source}/{NAME}")  # not every file names its classes
        assert replace(report.config, class_names=()) == replace(named, class_names=())
    return {source: folder / f"{source}.pth" for source in files}


def seeded(source: str, folder: Path) -> tuple[SSDConfig, Path]:
    """A checkpoint of the network with random weights, as a source's file holds it."""
    config = aizoo(NAME, source=source)
    save(folder / "seeded.pth", config, seeded_tensors(config, 3), {})
    return config, folder / "seeded.pth"


@pytest.mark.shared
def test_tensors_of_the_three_files_are_one_network(converted: dict[str, Path]) -> None:
    caffe, gluon, tensorflow = (load(converted[s]).state_dict() for s in SOURCES)
    assert list(caffe) == list(gluon) and len(caffe) == 56 and len(tensorflow) == 110
    for name, tensor in caffe.items():
        assert torch.equal(tensor, gluon[name]), name
    seen = 0
    for name, merged in caffe.items():
        if not name.endswith(".conv.weight"):
            continue
        unit = name.removesuffix(".conv.weight")
        weight, *norm = (
            tensorflow[f"{unit}.{n}"].double()
            for n in ("conv.weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
        )
        gain = norm[0] / torch.sqrt(norm[3] + 1e-3)
        folded, bias = weight * gain[:, None, None, None], norm[1] - norm[2] * gain
        for theirs, mine in ((merged, folded), (caffe[f"{unit}.conv.bias"], bias)):
            assert float((theirs - mine).abs().max()) < 1e-6 * float(mine.abs().max()), name
        seen += 1
    assert seen == 18
    predictors = [n for n in tensorflow if ".predictor." in n]
    assert len(predictors) == 20 and all(torch.equal(tensorflow[n], caffe[n]) for n in predictors)


@pytest.mark.shared
def test_all_three_find_the_same_faces(converted: dict[str, Path], shared: Path) -> None:
    models = {source: load(path) for source, path in converted.items()}
    for photo, count in FACES.items():
        caffe, *others = (model.detect([shared / "data" / photo])[0] for model in models.values())
        assert len(caffe) == count, photo
        assert set(caffe.labels.tolist()) == {0 if photo.endswith("99053.jpg") else 1}
        for found in others:
            assert torch.equal(found.labels, caffe.labels)
            torch.testing.assert_close(found.scores, caffe.scores, rtol=0, atol=2e-6)
            torch.testing.assert_close(found.boxes, caffe.boxes, rtol=0, atol=5e-4)  # pixels of the photo


@pytest.mark.shared
def test_boxes_are_what_the_projects_scripts_compute(
    files: dict[str, Path], converted: dict[str, Path], shared: Path, boxes: ModuleType
) -> None:
    """OpenCV runs the published Caffe net; the boxes follow by code that shares nothing with the reference's."""
    oracle = OpenCVOracle(read_prototxt(files["caffe"].with_suffix(".prototxt")), files["caffe"])
    model = load(converted["caffe"])
    for photo, count in FACES.items():
        image = read_image(shared / "data" / photo)
        outputs = oracle.run(prepare([image], model.config.pixels).numpy()).outputs
        theirs = boxes.detect(outputs.take("loc_branch_concat")[0], outputs.take("cls_branch_concat")[0])
        (ours,) = model.detect([image])
        assert len(theirs) == len(ours) == count
        assert theirs[:, 0].tolist() == ours.labels.tolist()
        np.testing.assert_allclose(theirs[:, 1], ours.scores, atol=2e-6)
        height, width = image.shape[:2]
        np.testing.assert_allclose(theirs[:, 2:] * [width, height, width, height], ours.boxes, atol=1e-3)


def test_priors_are_the_scripts_anchors(boxes: ModuleType) -> None:
    mine = prior_boxes(network(f"caffe/{NAME}").priors, (260, 260)).numpy()
    assert mine.shape == (5972, 4)
    np.testing.assert_allclose(mine, boxes.anchors(), rtol=2e-7, atol=1e-7)


@pytest.mark.shared
def test_the_caffe_net_layer_by_layer(files: dict[str, Path], converted: dict[str, Path]) -> None:
    report = verify(converted["caffe"], files["caffe"], prototxt=files["caffe"].with_suffix(".prototxt"))
    assert report.passed, report.first_divergent
    assert len(report.inputs[0].probes) == 55 and report.tensors is not None and report.tensors.compared == 56


@pytest.mark.shared
@pytest.mark.oracle
@pytest.mark.parametrize(("source", "probes"), [("gluon", 55), ("tensorflow", 73)])
def test_live_frameworks(
    source: str, probes: int, files: dict[str, Path], converted: dict[str, Path], shared: Path
) -> None:
    from ssdconv.errors import MissingError
    from ssdconv.parity.oracles.environments import install

    try:
        install(source, print)
    except MissingError as error:
        pytest.skip(str(error))
    report = verify(converted[source], files[source], images=[shared / "data/images/003123.jpg"])
    assert report.passed, report.first_divergent
    assert [len(i.probes) for i in report.inputs] == [probes] * 2 and not report.not_compared
    found = report.inputs[0].detections
    assert found is not None and found.matched == found.oracle == found.reference == 13


@pytest.mark.shared
def test_the_way_back(files: dict[str, Path], converted: dict[str, Path], tmp_path: Path) -> None:
    for source, end in (("caffe", "caffemodel"), ("gluon", "params"), ("tensorflow", "ckpt")):
        written = reverse(converted[source], tmp_path / f"back.{end}", source).outputs[0]
        again = convert(written, tmp_path / f"again_{source}.pth")
        assert replace(again.config, class_names=()) == replace(network(f"{source}/{NAME}"), class_names=())
        first, second = (load(p).state_dict() for p in (converted[source], tmp_path / f"again_{source}.pth"))
        assert all(torch.equal(first[n], second[n]) for n in first)
    assert (tmp_path / "back.params").read_bytes() == files["gluon"].read_bytes()


def test_caffe_has_no_form_with_batch_normalisation(tmp_path: Path) -> None:
    _, checkpoint = seeded("tensorflow", tmp_path)
    with pytest.raises(MappingError, match="merged"):
        reverse(checkpoint, tmp_path / "x.caffemodel", "caffe")


def test_a_missing_tensor_and_another_shape_are_told(tmp_path: Path) -> None:
    config, _ = seeded("tensorflow", tmp_path)
    from ssdconv.converters.aizoo import entries
    from ssdconv.converters.tensorflow.bundle import write_bundle

    arrays = {e.source: np.zeros(e.source_shape, np.float32) for e in entries(config, "tensorflow", "_3")}
    write_bundle(tmp_path / "whole.ckpt", arrays)
    with (opened := open_source(tmp_path / "whole.ckpt")).table:
        assert opened.plan.config == config
    write_bundle(tmp_path / "less.ckpt", {n: a for n, a in arrays.items() if n != "conv2d_4_bn_3/beta"})
    with pytest.raises(MappingError, match="conv2d_4_bn_3/beta"):
        open_source(tmp_path / "less.ckpt")
    write_bundle(tmp_path / "other.ckpt", arrays | {"cls_0_conv_3/kernel": np.zeros((3, 3, 64, 9), np.float32)})
    with pytest.raises(MappingError, match="another shape"):
        open_source(tmp_path / "other.ckpt")
    write_bundle(tmp_path / "twice.ckpt", arrays | {"conv2d_0_4/kernel": arrays["conv2d_0_3/kernel"]})
    with pytest.raises(MappingError, match="several times"):
        open_source(tmp_path / "twice.ckpt")
    with pytest.raises(UsageError, match="frozen graph"):
        convert(tmp_path / "whole.ckpt", tmp_path / "whole.pth")
        verify(tmp_path / "whole.pth", tmp_path / "whole.ckpt")


def test_the_merged_and_the_trained_form_compute_the_same() -> None:
    """Folding this network's batch normalisation by hand gives the other form's outputs."""
    trained = SSD(aizoo(NAME, source="tensorflow"))
    tensors = {n: torch.from_numpy(a) for n, a in seeded_tensors(trained.config, 1).items()}
    trained.load_state_dict(tensors)
    merged = SSD(aizoo(NAME, source="caffe"))
    state = {n: tensors[n] for n in merged.state_dict() if n in tensors}
    for name in [n for n in merged.state_dict() if n.endswith(".conv.weight")]:
        unit = name.removesuffix(".conv.weight")
        gain = tensors[f"{unit}.norm.weight"] / torch.sqrt(tensors[f"{unit}.norm.running_var"] + 1e-3)
        state[name] = tensors[name] * gain[:, None, None, None]
        state[f"{unit}.conv.bias"] = tensors[f"{unit}.norm.bias"] - tensors[f"{unit}.norm.running_mean"] * gain
    merged.load_state_dict(state)
    pixels = torch.rand(1, 3, 260, 260, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for a, b in zip(trained.eval()(pixels), merged.eval()(pixels), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(a.abs().max()))
