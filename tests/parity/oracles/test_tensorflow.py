"""Checkpoints and graphs that TensorFlow itself wrote, read bit for bit; SSD.TensorFlow's network against TensorFlow layer by layer.

The network is built with TensorFlow 1 operations in the worker; the original code of 2018 is run in ``test_originals``.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ssdconv.converters.convert import convert, reverse
from ssdconv.converters.tensorflow.reader import read_checkpoint
from ssdconv.errors import MissingError
from ssdconv.parity.oracles.worker import Worker
from ssdconv.parity.verify import verify
from ssdconv.ssd_ref.checkpoint import read, save
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.networks.tensorflow import hikapok

MAKER = Worker("tensorflow", str(Path(__file__).parent / "workers" / "tf_maker"))

pytestmark = pytest.mark.oracle

NAME = "hikapok_ssd300_vgg16_voc"


@pytest.fixture(scope="module")
def written(tensorflow: str, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A narrow network after a training step, and partitioned variables, in every flavour that TensorFlow writes."""
    folder = tmp_path_factory.mktemp("tf")
    flavours = ["V2", "V1", "sharded", "frozen"]
    build = {"do": "build", "width": 4, "classes": 6, "seed": 11, "slots": True, "flavours": flavours}
    answer = MAKER.ask([{**build, "folder": str(folder)}, {"do": "partitioned", "folder": str(folder)}])
    values = [dict(answer.arrays.under(f"{job}/")) for job in range(2)]
    paths = [{k: Path(v) for k, v in job["paths"].items()} for job in answer.jobs]
    return SimpleNamespace(paths=paths[0], values=values[0], parts=paths[1], part_values=values[1])


@pytest.mark.parametrize("flavour", ["V2", "V1", "sharded", "frozen"])
def test_every_variable_is_read_bit_for_bit(written: SimpleNamespace, flavour: str, tmp_path: Path) -> None:
    with read_checkpoint(written.paths[flavour]) as table:
        for name, array in written.values.items():
            assert table[name].dtype == array.dtype and table[name].shape == array.shape
            assert table[name].load().tobytes() == array.tobytes(), name
        assert flavour == "frozen" or len(table) == 2 * 71 + 2  # weights, their slots, the step, a second scale
    report = convert(written.paths[flavour], tmp_path / "out.pth")
    assert report.config == hikapok(NAME, 6, width=4)
    assert len(report.rows) == 71
    assert flavour == "frozen" or len(report.drops) == 73


@pytest.mark.parametrize("flavour", ["V2", "V1"])
def test_partitioned_variables_are_put_together(written: SimpleNamespace, flavour: str) -> None:
    with read_checkpoint(written.parts[flavour]) as table:
        assert set(table) == set(written.part_values)
        for name, array in written.part_values.items():
            held = table[name].load()
            assert held.dtype == array.dtype and held.shape == array.shape
            assert held.tobytes() == array.tobytes(), name


def test_tensorflow_reads_what_we_write(written: SimpleNamespace, tmp_path: Path) -> None:
    convert(written.paths["V2"], tmp_path / "out.pth")
    report = reverse(tmp_path / "out.pth", tmp_path / "back.ckpt", "tensorflow")
    assert [p.name for p in report.outputs] == ["back.ckpt.index", "back.ckpt.data-00000-of-00001"]
    answer = MAKER.ask([{"do": "read", "path": str(tmp_path / "back.ckpt")}])
    held = dict(answer.arrays.under("0/"))
    assert held.pop("global_step").dtype == np.int64  # TensorFlow's Saver looks for it
    assert set(held) == set(written.values)
    for name, array in written.values.items():
        assert held[name].tobytes() == array.tobytes(), name


def test_every_layer_heads_and_detections(written: SimpleNamespace, tmp_path: Path) -> None:
    """TensorFlow restores the V1 file, the reference holds the tensors of the V2 file."""
    convert(written.paths["V2"], tmp_path / "out.pth")
    report = verify(tmp_path / "out.pth", written.paths["V1"])
    assert report.passed, report
    assert not report.not_compared
    for one in report.inputs:
        assert len(one.probes) == 15 + 8 + 1 + 3  # backbone, extras, scale, input and heads
        assert one.detections is not None and one.detections.matched > 100


def test_a_changed_weight_is_found(written: SimpleNamespace, tmp_path: Path) -> None:
    convert(written.paths["V2"], tmp_path / "out.pth")
    held = torch.load(tmp_path / "out.pth", weights_only=True)
    held["state_dict"]["extras.conv7_2.conv.weight"][0] *= 1.01
    torch.save(held, tmp_path / "bad.pth")
    report = verify(tmp_path / "bad.pth", written.paths["V2"].with_name("net_V2.ckpt.index"))
    failed = [r.source for one in report.inputs for r in one.probes if not r]
    assert failed[0] == "additional_layers/conv9/conv9_2" and "conv9_1" not in "".join(failed)


def test_a_frozen_graph_is_run_as_it_is(written: SimpleNamespace, tmp_path: Path) -> None:
    convert(written.paths["frozen"], tmp_path / "out.pth")
    report = verify(tmp_path / "out.pth", written.paths["frozen"])
    assert report.passed, report
    for one in report.inputs:
        assert len(one.probes) == 15 + 8 + 1 + 3
        assert one.detections is not None and one.detections.matched > 100
    says = {link.link: link.basis for link in report.links}
    assert says["architecture"] == "source framework"
    assert {says["priors"], says["detection rule"]} <= {"rebuilt", "assumed"}  # the graph holds heads, no boxes


LIES = {
    "dilation of fc6": (b"\x1a\x04\x01\x06\x06\x01", b"\x1a\x04\x01\x05\x05\x01", "fc6"),
    "eps of conv4_3's scale": (np.float32(1e-10).tobytes(), np.float32(1e6).tobytes(), "conv4_3_scale"),
    "a pool's kind of values": (b"MaxPool", b"AvgPool", "conv2/conv2_1"),
}
"""What the graph says (field 3 of an AttrValue's list, a constant, an op), what it says instead, and the first layer that shows it."""


@pytest.mark.parametrize("lie", LIES)
def test_a_graph_that_computes_otherwise_fails(written: SimpleNamespace, lie: str, tmp_path: Path) -> None:
    """Same weights and shapes, and the converter reads nothing else: only who runs the graph can tell."""
    said, instead, layer = LIES[lie]
    data = written.paths["frozen"].read_bytes()
    assert said in data
    (tmp_path / "net.pb").write_bytes(data.replace(said, instead))
    convert(tmp_path / "net.pb", tmp_path / "out.pth")
    report = verify(tmp_path / "out.pth", tmp_path / "net.pb")
    assert not report.passed and not report.tensors.different
    assert next(r.source for r in report.inputs[0].probes if not r) == layer


def test_a_checkpoint_with_other_padding_fails_by_the_graph(written: SimpleNamespace, tmp_path: Path) -> None:
    convert(written.paths["frozen"], tmp_path / "out.pth")
    held = read(tmp_path / "out.pth")
    config = SSDConfig.from_json(held.config.to_json().replace('"padding":"same"', '"padding":1'))  # as Caffe pads
    assert config != held.config
    save(tmp_path / "bad.pth", config, held.state_dict, held.provenance)
    report = verify(tmp_path / "bad.pth", written.paths["frozen"])
    assert not report.passed
    assert next(r.source for r in report.inputs[0].probes if not r) == "additional_layers/conv9/conv9_2"


def test_a_graph_that_would_write_files_is_not_run(written: SimpleNamespace, tmp_path: Path) -> None:
    data = written.paths["frozen"].read_bytes()
    convert(written.paths["frozen"], tmp_path / "out.pth")
    (tmp_path / "net.pb").write_bytes(data.replace(b"MaxPool", b"SaveV2s"))
    with pytest.raises(MissingError, match="SaveV2s"):
        verify(tmp_path / "out.pth", tmp_path / "net.pb")


def test_a_saver_restores_what_we_write(written: SimpleNamespace, tmp_path: Path) -> None:
    """TensorFlow's own Saver, into a graph with ``global_step``, as an Estimator has it."""
    convert(written.paths["V2"], tmp_path / "out.pth")
    reverse(tmp_path / "out.pth", tmp_path / "model.ckpt-120000", "tensorflow")
    job = {"do": "restore", "width": 4, "classes": 6, "path": str(tmp_path / "model.ckpt-120000")}
    held = dict(MAKER.ask([job]).arrays.under("0/"))
    assert held.pop("global_step") == 120000
    assert {n: a.tobytes() for n, a in held.items()} == {n: a.tobytes() for n, a in written.values.items()}


@pytest.mark.slow
def test_full_size(tensorflow: str, tmp_path: Path) -> None:
    job = {"do": "build", "width": 64, "classes": 21, "seed": 2, "folder": str(tmp_path), "flavours": ["V2"]}
    MAKER.ask([job])
    convert(tmp_path / "net_V2.ckpt", tmp_path / "out.pth")
    report = verify(tmp_path / "out.pth", tmp_path / "net_V2.ckpt.index")
    assert report.passed, report


@pytest.mark.shared
def test_pixels(tensorflow: str, shared: Path) -> None:
    """Input tensors equal TensorFlow 1's legacy bilinear resize and mean on real photos."""
    import cv2

    from ssdconv.ssd_ref.preprocess import prepare as prepared

    photos = sorted((shared / "data" / "images").glob("*.jpg"))
    arrays = {path.name: cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in photos}
    arrays["tiny"] = next(iter(arrays.values()))[:150, :200]
    answer = MAKER.ask([{"do": "prepare"}], {f"0/{name}": array for name, array in arrays.items()})
    for name, array in arrays.items():
        ours = prepared([array], hikapok(NAME).pixels, array_order="RGB")[0].numpy().transpose(1, 2, 0)
        worst = float(np.abs(ours - answer.arrays[f"0/{name}"]).max())
        assert worst <= 3.1e-5, (name, worst)  # two units in the last place of 255
