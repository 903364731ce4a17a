"""OpenCV as oracle: what it shows of a network, and that failures read "not run"."""

from __future__ import annotations

import numpy as np
import pytest

from ssdconv.converters.caffe.prototxt import parse_prototxt
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


def opencv(text: bytes) -> OpenCVOracle:
    return OpenCVOracle(parse_prototxt(text, "net"), b"")


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, 4, 3, 3)).astype(np.float32)


def test_every_layer_is_shown_before_in_place_layers_overwrite_it(pixels: np.ndarray) -> None:
    run = opencv(NET).run(pixels)
    assert set(run.outputs.left) == {"cut:0", "cut:1", "relu", "twice", "off", "cat"}
    assert run.detections is None and run.kinds["quiet"] == "Silence"
    expected = np.maximum(pixels[:, 1:], 0)
    assert np.array_equal(run.outputs.take("cut:0"), pixels[:, :1])
    assert np.array_equal(run.outputs.take("cut:1"), pixels[:, 1:])
    assert np.array_equal(run.outputs.take("relu"), expected)
    assert np.array_equal(run.outputs.take("twice"), 2 * expected)
    assert np.array_equal(run.outputs.take("cat"), np.concatenate([pixels[:, :1], 2 * expected], 1))


def test_two_runs_of_one_oracle_do_not_share_results(pixels: np.ndarray) -> None:
    oracle = opencv(NET)
    first, second = oracle.run(pixels), oracle.run(pixels + 1)
    assert np.array_equal(first.outputs.take("cut:0"), pixels[:, :1])
    assert np.array_equal(second.outputs.take("cut:0"), pixels[:, :1] + 1)


POOL = b'layer { name: "c" type: "Pooling" bottom: "data" top: "c" pooling_param { kernel_size: 9 } }'
AFTER = (
    b'layer { name: "r" type: "ReLU" bottom: "c" top: "r" } layer { name: "s" type: "Power" bottom: "data" top: "s" }'
)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (POOL, "cannot run it"),
        (b'layer { name: "c" type: "MultiBoxLoss" bottom: "data" top: "c" }', 'of type "MultiBoxLoss"'),
    ],
)
def test_a_layer_that_opencv_cannot_run_is_a_gap_with_all_that_hangs_on_it(
    pixels: np.ndarray, layer: bytes, said: str
) -> None:
    run = opencv(HEAD + layer + AFTER).run(pixels)
    assert [(g.part, g.code) for g in run.gaps] == [("c", "oracle cannot"), ("r", "oracle cannot")]
    assert said in run.gaps[0].reason and "hangs on c" in run.gaps[1].reason and "/io/opencv" not in run.gaps[0].reason
    assert np.array_equal(run.outputs.take("s"), pixels), "what does not hang on it is compared all the same"


def test_what_is_lent_stands_in_for_a_layer_that_opencv_cannot_run(pixels: np.ndarray) -> None:
    lent = np.array([[[[-1.0, 2.0]]]], np.float32)
    run = opencv(HEAD + POOL + AFTER).run_with(pixels, lambda names: {"c": {0: lent}} if "c" in names else {})
    assert [g.part for g in run.gaps] == ["c"] and "c" not in run.outputs
    assert run.outputs.take("r").tolist() == [[[[0.0, 2.0]]]]


def test_a_network_of_which_opencv_can_read_nothing_is_not_run(pixels: np.ndarray) -> None:
    with pytest.raises(MissingError, match=r"not run(.|\n)*oracle install caffe") as caught:
        OpenCVOracle(parse_prototxt(NET, "net"), b"\xff\xff no weights").run(pixels)
    assert caught.value.exit_code == EXIT_MISSING


def test_an_opencv_without_the_importer_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    oracle = opencv(NET)
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
