"""Networks of the Keras projects: names and shapes of the manifests, layouts, there and back, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from ssdconv.converters.convert import convert, reverse
from ssdconv.converters.keras import source
from ssdconv.converters.keras.rows import rows_of
from ssdconv.converters.plan import Request
from ssdconv.errors import MappingError, UsageError
from ssdconv.ssd_ref import checkpoint
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.model import seeded_tensors
from ssdconv.ssd_ref.networks.caffe import vgg
from ssdconv.ssd_ref.networks.keras import NETWORKS
from ssdconv.ssd_ref.networks.registry import network
from ssdconv.ssd_ref.networks.tensorflow import hikapok

MANIFESTS = {
    "jedol_ssd300_vgg16_voc": "keras_jedol/ssd300_vgg16_voc.json",
    "jedol_ssd300_resnet50_voc": "keras_jedol/ssd300_resnet50_voc.json",
    "ssd_keras_ssd300_voc": "keras_ssd_keras/ssd300_voc.json",
    "ssd_keras_ssd300_coco": "keras_ssd_keras/ssd300_coco.json",
    "ssd_keras_ssd512_voc": "keras_ssd_keras/ssd512_voc.json",
    "ssd_keras_ssd512_coco": "keras_ssd_keras/ssd512_coco.json",
}


def narrow(name: str) -> SSDConfig:
    """The network at a fraction of its width; few classes where the name does not hang on them."""
    width = 8 if name == "ssd7" else 4 if "resnet" in name else 2
    return NETWORKS[name](name, None if name.startswith("ssd_keras") else 5, width=width)


@pytest.mark.shared
@pytest.mark.parametrize("name", MANIFESTS)
def test_names_shapes_and_priors_are_those_of_the_manifest(shared: Path, name: str) -> None:
    manifest = json.loads((shared / "reference" / "manifests" / MANIFESTS[name]).read_text())
    config = NETWORKS[name](name, None)
    ours = {(r.layer, r.kind): r.shape for r in rows_of(config)}
    theirs = {}
    for row in manifest["params"]:
        kind = row["name"].split("/")[1].split(":")[0]
        theirs[row["layer"], "scale" if row["layer"] == "conv4_3_norm" else kind] = tuple(row["shape"])
    assert ours == theirs
    assert (config.num_classes, config.num_priors) == (manifest["num_classes"], manifest["priors"]["total"])
    for mine, told in zip(config.priors, manifest["priors"]["maps"], strict=True):
        assert (mine.grid[0], mine.step[0]) == (told["grid"], told["step"])
        low, high = told["declared_min"], told["declared_max"]
        assert mine.box_sizes[0][0] == pytest.approx(low, rel=1e-6)
        assert mine.box_sizes[1][0] == pytest.approx((low * high) ** 0.5, rel=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_there_and_back_is_bit_identical(name: str, tmp_path: Path) -> None:
    config = narrow(name)
    tensors = seeded_tensors(config, 2)
    source.write(config, tensors, tmp_path / "net.h5", Request())
    report = convert(tmp_path / "net.h5", tmp_path / "out.pth")
    assert replace(report.config, class_names=config.class_names) == config and not report.drops
    for key, tensor in checkpoint.read(tmp_path / "out.pth").state_dict.items():
        assert tensor.numpy().tobytes() == tensors[key].tobytes(), key
    reverse(tmp_path / "out.pth", tmp_path / "back.h5", "keras")
    assert (tmp_path / "back.h5").read_bytes() == (tmp_path / "net.h5").read_bytes()


def test_anchor_order_of_jedol(packing: SimpleNamespace) -> None:
    """min, sqrt, 2, 3, 1/2, 1/3 there; the reference has 1/2 fourth and 3 fifth. Maps of four anchors are equal."""
    layers, tensors = packing.layers(packing.vgg)
    kernel, ours = layers["fc7_mbox_loc"]["kernel"], tensors["heads.loc.1.weight"]
    assert np.array_equal(ours[3 * 4 : 4 * 4], kernel[..., 4 * 4 : 5 * 4].transpose(3, 2, 0, 1))
    assert np.array_equal(ours[4 * 4 : 5 * 4], kernel[..., 3 * 4 : 4 * 4].transpose(3, 2, 0, 1))
    first = layers["conv4_3_norm_mbox_logit"]["kernel"]
    assert np.array_equal(tensors["heads.conf.0.weight"], first.transpose(3, 2, 0, 1))


def test_anchor_order_of_ssd7(packing: SimpleNamespace) -> None:
    """1/2, 1, sqrt, 2 there; 1, sqrt, 2, 1/2 in the reference."""
    layers, tensors = packing.layers(packing.seven)
    theirs, ours = layers["boxes5"]["bias"].reshape(4, 4), tensors["heads.loc.1.bias"].reshape(4, 4)
    assert np.array_equal(ours, theirs[[1, 2, 3, 0]])


def saved(packing: SimpleNamespace, path: Path, layers: dict) -> Path:
    with h5py.File(path, "w") as file:
        packing.save_weights(file, layers)
    return path


def test_dropped_renamed_doubled_and_misshapen_weights(packing: SimpleNamespace, tmp_path: Path) -> None:
    layers, _ = packing.layers(packing.vgg)
    kernel = layers["conv7_2"]["kernel"]
    for change, text in (
        ({"conv7_2": {"bias": layers["conv7_2"]["bias"]}}, "no tensor 'conv7_2/kernel'"),
        ({"conv7_2": {}, "conv7_3": layers["conv7_2"]}, r"no tensor 'conv7_2/kernel' \(and 1 more\)"),
        ({"conv11_1": {"kernel": kernel}}, "'conv11_1/conv11_1/kernel:0' .* has no place"),
        ({"conv7_2": {**layers["conv7_2"], "again": kernel}}, "layer 'conv7_2' has several tensors"),
        ({"conv7_2": {**layers["conv7_2"], "kernel": kernel[:, :, :, :-1]}}, "another shape"),
        ({"conv7_2": {**layers["conv7_2"], "kernel": kernel.transpose(3, 2, 0, 1)}}, "another shape"),
    ):
        path = saved(packing, tmp_path / "bad.h5", {n: w for n, w in (layers | change).items() if w})
        with pytest.raises(MappingError, match=text):
            convert(path, tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()


def test_batch_normalisation_goes_by_name(packing: SimpleNamespace, tmp_path: Path) -> None:
    """Four vectors of one shape: their order in the file does not matter, and one too few is an error."""
    layers, tensors = packing.layers(packing.seven)
    turned = {n: dict(reversed(w.items())) for n, w in layers.items()}
    convert(saved(packing, tmp_path / "x.h5", turned), tmp_path / "out.pth")
    state = checkpoint.read(tmp_path / "out.pth").state_dict
    for name in ("weight", "bias", "running_mean", "running_var"):
        key = f"backbone.conv3.norm.{name}"
        assert state[key].numpy().tobytes() == tensors[key].tobytes()
    del layers["bn3"]["moving_mean"]
    with pytest.raises(MappingError, match="no tensor 'bn3/moving_mean'"):
        convert(saved(packing, tmp_path / "x.h5", layers), tmp_path / "out.pth")
    old = {"gamma": "gamma", "beta": "beta", "moving_mean": "running_mean", "moving_variance": "running_std"}
    layers, tensors = packing.layers(packing.seven)
    keras_1 = {n: {old.get(k, k): a for k, a in w.items()} for n, w in layers.items()}
    convert(saved(packing, tmp_path / "x.h5", keras_1), tmp_path / "out.pth")
    state = checkpoint.read(tmp_path / "out.pth").state_dict
    assert (
        state["backbone.conv2.norm.running_var"].numpy().tobytes()
        == tensors["backbone.conv2.norm.running_var"].tobytes()
    )


def test_unknown_networks_and_class_counts(packing: SimpleNamespace, tmp_path: Path) -> None:
    path = saved(packing, tmp_path / "x.h5", {"dense": {"kernel": np.zeros((2, 2), "f4")}})
    with pytest.raises(MappingError, match=r"no SSD of a Keras project.*first 'dense'"):
        convert(path, tmp_path / "out.pth")
    layers, _ = packing.layers(NETWORKS["ssd_keras_ssd300_voc"]("ssd_keras_ssd300_voc", 3, width=2))
    path = saved(packing, tmp_path / "x.h5", layers)
    report = convert(path, tmp_path / "out.pth")
    assert report.config.name == "ssd_keras_ssd300_voc" and report.config.num_classes == 3
    report = convert(path, tmp_path / "out.pth", network="ssd_keras_ssd300_coco")
    assert (report.config.name, report.config.num_classes) == ("ssd_keras_ssd300_coco", 3)
    assert not report.warnings
    with pytest.raises(MappingError):
        convert(path, tmp_path / "no.pth", network="ssd_keras_ssd512_voc")


def test_caffe_networks_are_written_as_ssd_keras(tmp_path: Path) -> None:
    config = vgg("ssd300_voc", 21, width=2)
    tensors = seeded_tensors(config, 5)
    checkpoint.save(tmp_path / "caffe.pth", config, tensors)
    reverse(tmp_path / "caffe.pth", tmp_path / "net.h5", "keras")
    report = convert(tmp_path / "net.h5", tmp_path / "out.pth")
    assert report.config.name == "ssd_keras_ssd300_voc"
    for name, tensor in checkpoint.read(tmp_path / "out.pth").state_dict.items():
        assert tensor.numpy().tobytes() == tensors[name].tobytes(), name


def test_other_networks_and_suffixes_are_not_written(tmp_path: Path) -> None:
    config = hikapok("hikapok_ssd300_vgg16_voc", 5, width=2)
    with pytest.raises(MappingError, match="a network of tensorflow"):
        source.write(config, seeded_tensors(config), tmp_path / "x.h5", Request())
    for name in ("x.pth", "x.keras"):
        with pytest.raises(UsageError, match=r"ends in \.h5"):
            source.write(narrow("ssd7"), {}, tmp_path / name, Request())
    assert not list(tmp_path.iterdir())


def test_weights_of_batch_normalisation_by_their_words() -> None:
    """A round trip cannot tell gamma from beta; Keras' words can."""
    rows = {(row.layer, row.kind): row.target for row in rows_of(network("keras/jedol_ssd300_resnet50_voc"))}
    where = "backbone.conv1.norm"
    assert rows["bn_conv1", "gamma"] == f"{where}.weight" and rows["bn_conv1", "beta"] == f"{where}.bias"
    assert rows["bn_conv1", "moving_mean"] == f"{where}.running_mean"
    assert rows["bn_conv1", "moving_variance"] == f"{where}.running_var"
