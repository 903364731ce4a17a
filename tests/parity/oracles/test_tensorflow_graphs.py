"""Detection graphs of TensorFlow against TensorFlow 2.15 running the same graph, and back to the same bytes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from ssdconv.converters.convert import convert, reverse
from ssdconv.parity.oracles.environments import environment
from ssdconv.parity.verify import verify
from ssdconv.ssd_ref.checkpoint import read, save
from ssdconv.ssd_ref.config import Graph as Layers

pytestmark = [pytest.mark.oracle, pytest.mark.usefixtures("one_thread")]
NETS = {
    "lite": {"lite": True, "scores": "sigmoid", "folded": False, "classes": 1, "early": False},
    "plain": {"lite": False, "scores": "softmax", "folded": True, "classes": 3, "early": True},
}


@pytest.fixture(scope="module")
def graphs(tensorflow: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the graphs of ``NETS``."""
    folder = tmp_path_factory.mktemp("graphs")
    (folder / "job.json").write_text(json.dumps({"folder": str(folder), "nets": NETS}))
    script = Path(__file__).with_name("tf_graphs.py")
    python = str(environment(tensorflow).python)
    done = subprocess.run(
        [python, "-I", str(script), str(folder / "job.json")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize("name", NETS)
def test_every_node_agrees_and_the_way_back_is_the_same_file(name: str, graphs: Path, tmp_path: Path) -> None:
    source, checkpoint = graphs / f"{name}.pb", tmp_path / "net.pth"
    report = convert(source, checkpoint)
    rule = report.config.detect
    assert (rule.activation, rule.background, rule.score_threshold) == (NETS[name]["scores"], 0, 0.01)
    assert (rule.nms_threshold, rule.max_per_class, rule.keep_top_k, rule.drop_empty) == (0.6, 20, 30, True)
    assert report.config.pixels.resize == "tf1_bilinear"
    proof = verify(checkpoint, source)
    assert proof, proof.headline
    assert {probe.reference for probe in proof.inputs[0].probes} >= {"@loc", "@conf", "@scores", "@priors", "@input"}
    assert all(result.detections and result.detections.matched for result in proof.inputs)
    reverse(checkpoint, tmp_path / "again.pb", "tensorflow")
    assert (tmp_path / "again.pb").read_bytes() == source.read_bytes()


def test_a_saved_model_is_its_graph_and_changed_tensors_go_back(graphs: Path, tmp_path: Path) -> None:
    convert(graphs / "lite_saved", tmp_path / "net.pth")
    held = read(tmp_path / "net.pth")
    plain = convert(graphs / "lite.pb", tmp_path / "plain.pth")
    other = read(tmp_path / "plain.pth").state_dict
    assert all(torch.equal(t, other[n]) for n, t in held.state_dict.items())
    changed = {n: t + 1 for n, t in held.state_dict.items()}
    save(tmp_path / "changed.pth", held.config, changed)
    reverse(tmp_path / "changed.pth", tmp_path / "saved_model.pb", "tensorflow")
    convert(tmp_path / "saved_model.pb", tmp_path / "again.pth")
    again = read(tmp_path / "again.pth")
    assert all(torch.equal(t, changed[n]) for n, t in again.state_dict.items())
    layers, theirs = again.config.layers, plain.config.layers
    assert isinstance(layers, Layers) and isinstance(theirs, Layers)
    assert layers.layers == theirs.layers


def test_a_lie_about_the_graph_is_caught(graphs: Path, tmp_path: Path) -> None:
    convert(graphs / "lite.pb", tmp_path / "net.pth")
    held = read(tmp_path / "net.pth")
    name = next(n for n in held.state_dict if "b/FusedBatchNorm.running_var" in n)
    save(tmp_path / "lie.pth", held.config, held.state_dict | {name: held.state_dict[name] * 1.01})
    assert not verify(tmp_path / "lie.pth", graphs / "lite.pb")
