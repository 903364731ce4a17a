"""OpenCV as oracle: what it shows of a network, and that failures read "not run"."""

from __future__ import annotations

import numpy as np
import pytest

from ssdconv.errors import EXIT_MISSING, MissingError
from ssdconv.parity.oracles.base import Outputs, detection_rows, require
from ssdconv.parity.oracles.opencv import OpenCVOracle

HEAD = b'input: "data" input_shape { dim: 1 dim: 4 dim: 3 dim: 3 }'
NET = (
    HEAD
    + b"""
layer { name: "cut" type: "Slice" bottom: "data" top: "a" top: "b" slice_param { axis: 1 slice_point: 1 } }
layer { name: "relu" type: "ReLU" bottom: "b" top: "b" }
layer { name: "twice" type: "Power" bottom: "b" top: "b" power_param { scale: 2 } }
layer { name: "off" type: "Dropout" bottom: "b" top: "b" }
layer { name: "cat" type: "Concat" bottom: "a" bottom: "b" top: "cat" }
layer { name: "quiet" type: "Silence" bottom: "a" }
"""
)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, 4, 3, 3)).astype(np.float32)


def test_every_layer_is_shown_before_in_place_layers_overwrite_it(pixels: np.ndarray) -> None:
    run = OpenCVOracle(NET, b"").run(pixels)
    assert set(run.outputs.left) == {"cut", "cut:0", "cut:1", "relu", "twice", "off", "cat"}
    assert run.detections is None and run.kinds["quiet"] == "Silence"
    expected = np.maximum(pixels[:, 1:], 0)
    assert np.array_equal(run.outputs.take("cut:0"), pixels[:, :1])
    assert np.array_equal(run.outputs.take("cut:1"), pixels[:, 1:])
    assert np.array_equal(run.outputs.take("relu"), expected)
    assert np.array_equal(run.outputs.take("twice"), 2 * expected)
    assert np.array_equal(run.outputs.take("cat"), np.concatenate([pixels[:, :1], 2 * expected], 1))


def test_files_and_bytes_give_the_same(pixels: np.ndarray, tmp_path: object) -> None:
    from pathlib import Path

    prototxt, model = Path(str(tmp_path)) / "x.prototxt", Path(str(tmp_path)) / "x.caffemodel"
    prototxt.write_bytes(NET)
    model.write_bytes(b"")
    a, b = OpenCVOracle(prototxt, model).run(pixels), OpenCVOracle(NET, b"").run(pixels)
    assert np.array_equal(a.outputs.take("cat"), b.outputs.take("cat"))


def test_two_runs_of_one_oracle_do_not_share_results(pixels: np.ndarray) -> None:
    oracle = OpenCVOracle(NET, b"")
    first, second = oracle.run(pixels), oracle.run(pixels + 1)
    assert np.array_equal(first.outputs.take("cut:0"), pixels[:, :1])
    assert np.array_equal(second.outputs.take("cut:0"), pixels[:, :1] + 1)


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (b'layer { name: "odd" type: "MultiBoxLoss" bottom: "data" top: "y" }', 'layer "odd" of type "MultiBoxLoss"'),
        (b'layer { name: "x" type: "ReLU" bottom: "nowhere" top: "y" }', "nowhere"),
        (b"layer { name: ", "cannot read"),
        (
            b'layer { name: "c" type: "Pooling" bottom: "data" top: "c" pooling_param { kernel_size: 9 } }',
            "layer 'c' fails",
        ),
    ],
)
def test_a_network_that_opencv_cannot_run_is_not_run(
    pixels: np.ndarray, layer: bytes, named: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(MissingError) as caught:
        OpenCVOracle(HEAD + layer, b"").run(pixels)
    text = str(caught.value)
    assert "not run" in text and named in text and caught.value.exit_code == EXIT_MISSING
    assert "/io/opencv" not in text
    printed = capfd.readouterr().err
    assert "ERROR" not in printed.replace("[libprotobuf ERROR", ""), "only the text parser cannot be silenced"


def test_an_opencv_without_the_importer_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    oracle = OpenCVOracle(NET, b"")
    assert oracle.available().ok and oracle.name == f"OpenCV {cv2.__version__}"
    monkeypatch.delattr(cv2.dnn, "readNetFromCaffe")
    state = oracle.available()
    assert not state.ok and "Caffe importer" in state.reason and "<5" in state.next_step
    with pytest.raises(MissingError, match="not run"):
        require(oracle)


def test_detection_rows() -> None:
    rows = np.zeros((1, 1, 5, 7), np.float32)
    rows[0, 0, 0] = [0, 2, 0.9, 0.1, 0.2, 0.3, 0.4]
    rows[0, 0, 1] = [1, 1, 0.8, -0.1, 0, 1.1, 0.5]
    rows[0, 0, 2] = [0, 3, 0.7, 0, 0, 1, 1]
    rows[0, 0, 3] = [1, -1, -1, -1, -1, -1, -1]
    first, second = detection_rows(rows, 2)
    assert first.labels.tolist() == [2, 3] and second.labels.tolist() == [1]
    assert first.scores.tolist() == pytest.approx([0.9, 0.7]) and first.boxes[1].tolist() == [0, 0, 1, 1]
    assert len(detection_rows(np.full((1, 1, 1, 7), -1.0), 1)[0]) == 0


def test_outputs_are_handed_over_once() -> None:
    store = Outputs({"a": np.ones(3), "b": lambda: np.zeros(2)})
    store.add("a", np.zeros(3))
    assert "a" in store and store.take("a").sum() == 3 and "a" not in store
    assert store.left == ("b",) and store.take("b").shape == (2,) and len(store) == 0
    with pytest.raises(KeyError):
        store.take("a")
