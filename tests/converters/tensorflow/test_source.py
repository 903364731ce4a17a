"""SSD.TensorFlow's names and layouts, there and back; what is dropped, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ssdconv.converters.convert import convert, reverse
from ssdconv.converters.plan import Request
from ssdconv.converters.tensorflow import source
from ssdconv.converters.tensorflow.bundle import write_bundle
from ssdconv.converters.tensorflow.reader import read_checkpoint
from ssdconv.errors import MappingError, UsageError
from ssdconv.ssd_ref import checkpoint
from ssdconv.ssd_ref.config import Staged
from ssdconv.ssd_ref.model import seeded_tensors
from ssdconv.ssd_ref.networks.caffe import vgg
from ssdconv.ssd_ref.networks.tensorflow import hikapok

NAME = "hikapok_ssd300_vgg16_voc"


def stored(path: Path) -> dict[str, np.ndarray]:
    with read_checkpoint(path) as table:
        return {name: tensor.load().copy() for name, tensor in table.items()}


@pytest.mark.shared
def test_names_and_shapes_are_those_of_the_manifest(shared: Path) -> None:
    manifest = json.loads((shared / "reference/manifests/tf_hikapok/ssd300_vgg16_voc.json").read_text())
    wanted = {p["name"]: tuple(p["shape"]) for p in manifest["params"]}
    assert {e.source: e.source_shape for e in source.entries(hikapok(NAME))} == wanted
    maps = manifest["priors"]["maps"]
    config = hikapok(NAME)
    assert config.num_priors == manifest["priors"]["total"]
    for ours, theirs in zip(config.priors, maps, strict=True):
        assert (ours.grid[0], ours.step[0]) == (theirs["grid"], theirs["step"])
        assert ours.box_sizes[:2] == ((300 * theirs["scale"],) * 2, (300 * theirs["extra_scale"],) * 2)
        ratios = [float(cell[2:]) for cell in theirs["cell_order"][2:]]
        assert sorted(w / h for w, h in ours.box_sizes[2:]) == pytest.approx(sorted(ratios), rel=1e-12)


def test_there_and_back_is_bit_identical(narrow: SimpleNamespace, tmp_path: Path) -> None:
    report = convert(narrow.index.with_suffix(""), tmp_path / "out.pth")  # the prefix: net.ckpt
    assert (
        replace(report.config, class_names=narrow.config.class_names) == narrow.config
        and report.source_format == "checkpoint V2"
    )
    for name, tensor in checkpoint.read(tmp_path / "out.pth").state_dict.items():
        assert tensor.numpy().tobytes() == narrow.tensors[name].tobytes(), name
    reverse(tmp_path / "out.pth", tmp_path / "back.ckpt", "tensorflow")
    assert (tmp_path / "back.ckpt.index").read_bytes() == narrow.index.read_bytes()
    assert (tmp_path / "back.ckpt.data-00000-of-00001").read_bytes() == narrow.data.read_bytes()


def test_layouts_of_a_loc_head(narrow: SimpleNamespace) -> None:
    """Row ``anchor 0, dx`` of the reference is the source's anchor 1 (side ``min``), second value (dy, dx, dh, dw)."""
    held = stored(narrow.index)
    kernel, bias = held["ssd300/multibox_head/loc_1/kernel"], held["ssd300/multibox_head/loc_1/bias"]
    ours, shift = narrow.tensors["heads.loc.1.weight"], narrow.tensors["heads.loc.1.bias"]
    assert np.array_equal(ours[0], kernel[..., 1 * 4 + 1].transpose(2, 0, 1))
    assert shift[0 * 4 + 1] == bias[1 * 4 + 0]
    assert shift[3 * 4 + 2] == bias[4 * 4 + 3]  # ratio 1/2 is the reference's fourth, the source's fifth anchor
    four = held["ssd300/multibox_head/loc_0/bias"].reshape(4, 4)  # sqrt, 1, 2, 1/2 there
    assert np.array_equal(narrow.tensors["heads.loc.0.bias"].reshape(4, 4), four[[1, 0, 2, 3]][:, [1, 0, 3, 2]])
    conf = held["ssd300/multibox_head/cls_1/bias"]
    assert np.array_equal(narrow.tensors["heads.conf.1.bias"][4 * 5 : 5 * 5], conf[3 * 5 : 4 * 5])


def test_training_state_is_dropped_by_rule(narrow: SimpleNamespace, tmp_path: Path) -> None:
    held = stored(narrow.index)
    more = {f"{name}/Momentum": np.zeros_like(a) for name, a in held.items()}
    more["global_step"] = np.array(120_000, np.int64)
    more["tower_1/conv4_3_scale/weights"] = held["ssd300/conv4_3_scale/weights"]
    write_bundle(tmp_path / "trained.ckpt-1", held | more)
    report = convert(tmp_path / "trained.ckpt-1", tmp_path / "out.pth")
    assert {d.source for d in report.drops} == set(more)
    reasons = {d.source: d.reason for d in report.drops}
    assert "second copy" in reasons["tower_1/conv4_3_scale/weights"] and "counter" in reasons["global_step"]
    assert checkpoint.read(tmp_path / "out.pth").state_dict["heads.l2norm.0.weight"].numpy().tobytes() == (
        narrow.tensors["heads.l2norm.0.weight"].tobytes()
    )


def test_the_step_is_written_where_estimators_look_for_it(narrow: SimpleNamespace, tmp_path: Path) -> None:
    for name, step in (("model.ckpt-120000", 120_000), ("model.ckpt", 0)):
        written = source.write(narrow.config, narrow.tensors, tmp_path / name, Request())
        held = stored(written[0])
        assert held["global_step"] == step and held["global_step"].dtype == np.int64 and held["global_step"].shape == ()
        convert(written[0], tmp_path / "out.pth")


def test_another_scope(narrow: SimpleNamespace, tmp_path: Path) -> None:
    held = {name.replace("ssd300/", "model/net/"): a for name, a in stored(narrow.index).items()}
    write_bundle(tmp_path / "x.ckpt", held)
    assert convert(tmp_path / "x.ckpt", tmp_path / "out.pth").config == narrow.config
    write_bundle(tmp_path / "two.ckpt", held | stored(narrow.index))
    with pytest.raises(MappingError, match="several networks"):
        convert(tmp_path / "two.ckpt", tmp_path / "two.pth")


def test_dropped_renamed_doubled_and_misshapen_tensors(narrow: SimpleNamespace, tmp_path: Path) -> None:
    held = stored(narrow.index)
    name = "ssd300/additional_layers/conv9/conv9_2/kernel"
    for change, text in (
        ({name: None}, rf"no tensor '{name}'"),
        ({name: None, name + "s": held[name]}, rf"no tensor '{name}'.*\n.*nearest name: '{name}s'"),
        ({"ssd300/extra/kernel": held[name]}, "'ssd300/extra/kernel' .* has no place"),
        ({name: held[name].transpose(1, 0, 3, 2).copy()}, rf"'{name}' has another shape"),
        ({name: held[name].astype("i4")}, "not floating point"),
    ):
        changed = {n: a for n, a in (held | change).items() if a is not None}
        write_bundle(tmp_path / "bad.ckpt", changed)
        with pytest.raises(MappingError, match=text):
            convert(tmp_path / "bad.ckpt", tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()


def test_what_is_no_network(tmp_path: Path) -> None:
    write_bundle(tmp_path / "x.ckpt", {"resnet/conv1/weights": np.zeros((3, 3), "f4")})
    with pytest.raises(MappingError, match=r"holds no SSD.*first 'resnet/conv1/weights'"):
        convert(tmp_path / "x.ckpt", tmp_path / "out.pth")


def test_networks_that_its_code_would_run_otherwise_are_not_written(tmp_path: Path) -> None:
    config = vgg("ssd300_voc", 5, width=2)
    with pytest.raises(MappingError, match="other prior sizes or pixels"):
        source.write(config, seeded_tensors(config), tmp_path / "x.ckpt", Request())
    with pytest.raises(UsageError, match=r"ends in \.ckpt"):
        source.write(hikapok(NAME), {}, tmp_path / "x.h5", Request())
    assert not list(tmp_path.iterdir())


def test_graph_padding_differs_from_caffe_only_where_told() -> None:
    """SAME padding: conv7_2 on 10 rows starts at the top edge; conv6_2 on 19 is Caffe's."""
    from ssdconv.ssd_ref.layers import same_padding

    staged = hikapok(NAME).layers
    assert isinstance(staged, Staged)
    specs = {s.name: s for stage in staged.extras.stages for s in stage}
    assert (specs["conv6_2"].padding, specs["conv7_2"].padding, specs["conv8_2"].padding) == ("same", "same", 0)
    assert same_padding(10, 3, 2) == (0, 1) and same_padding(19, 3, 2) == (1, 1)
