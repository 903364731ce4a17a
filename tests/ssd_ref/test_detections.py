"""Forms of detections: pixels, JSON, NumPy, thresholds, and Caffe's rows."""

from __future__ import annotations

import json

import numpy as np
import torch

from ssdconv.ssd_ref.detections import Detections, caffe_rows


def example() -> Detections:
    boxes = torch.tensor([[0.0, 0.25, 0.5, 1.0], [0.1, 0.1, 0.2, 0.2], [0.5, 0.5, 1.0, 1.0]])
    return Detections(boxes, torch.tensor([2, 1, 2]), torch.tensor([0.75, 0.5, 0.25]), torch.tensor([7, 3, 9]))


def test_scaled_to_pixels() -> None:
    scaled = example().scaled(width=200, height=100)
    assert scaled.boxes[0].tolist() == [0, 25, 100, 100]
    assert torch.equal(scaled.scores, example().scores) and torch.equal(scaled.labels, example().labels)


def test_above_is_strict() -> None:
    assert example().above(0.5).priors.tolist() == [7]
    assert example().above(0.49).priors.tolist() == [7, 3]
    assert len(example().above(1)) == 0


def test_json() -> None:
    rows = json.loads(json.dumps(example().to_json(("background", "cat", "dog"))))
    assert rows[0] == {"label": 2, "name": "dog", "score": 0.75, "box": [0.0, 0.25, 0.5, 1.0]}
    assert "name" not in example().to_json()[0]


def test_numpy() -> None:
    arrays = example().numpy()
    assert {name: array.shape for name, array in arrays.items()} == {
        "boxes": (3, 4), "labels": (3,), "scores": (3,), "priors": (3,),
    }  # fmt: skip
    assert arrays["labels"].dtype == np.int64


def test_caffe_rows() -> None:
    empty = Detections(torch.empty(0, 4), torch.empty(0, dtype=torch.int64), torch.empty(0), torch.empty(0))
    rows = caffe_rows([empty, example()])
    assert rows.dtype == np.float32
    assert rows[:, :3].tolist() == [[1, 1, 0.5], [1, 2, 0.75], [1, 2, 0.25]]  # by label, then best first
    np.testing.assert_allclose(rows[1, 3:], [0, 0.25, 0.5, 1])
    assert caffe_rows([empty, empty]).tolist() == [[0, *[-1] * 6], [1, *[-1] * 6]]
