"""Priors against the original Caffe's (to the last bit) and OpenCV's PriorBox layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from ssdconv.errors import FormatError
from ssdconv.ssd_ref.box_sizes import caffe_box_sizes
from ssdconv.ssd_ref.config import PriorMap
from ssdconv.ssd_ref.priors import Priors, prior_boxes, prior_corners, prior_variances

CASES = ("voc300", "coco300", "voc512", "coco512", "mobilenet_ssd_voc", "clip_offset")


def maps_of(case: dict[str, Any]) -> list[PriorMap]:
    maps = []
    for index, grid in enumerate(case["fmaps"]):
        largest = case["maxs"][index]
        cells = caffe_box_sizes(case["mins"][index : index + 1], [largest] if largest else [], case["ratios"][index])
        step = case["steps"][index] or case["size"] / grid
        rest = {name: case[name] for name in ("offset",) if name in case}
        clip = "corners" if case.get("clip") else "none"
        variances = tuple(case.get("variances", (0.1, 0.1, 0.2, 0.2)))
        maps.append(PriorMap((grid, grid), (step, step), cells, clip=clip, variances=variances, **rest))
    return maps


@pytest.mark.shared
@pytest.mark.parametrize("name", CASES)
def test_equal_to_the_original_caffe(shared: Path, name: str) -> None:
    case = json.loads((shared / "golden/priors.json").read_text())[name]
    golden = np.load(shared / "golden/priors.npz")[name].reshape(2, -1, 4)
    maps, size = maps_of(case), (case["size"], case["size"])
    np.testing.assert_array_equal(prior_corners(maps, size).numpy(), golden[0])
    np.testing.assert_array_equal(prior_variances(maps).numpy(), golden[1])
    corners = golden[0].astype(np.float64)
    centers = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1)
    np.testing.assert_array_equal(prior_boxes(maps, size, torch.float64).numpy(), centers)
    np.testing.assert_allclose(prior_boxes(maps, size).numpy(), centers, rtol=0, atol=6e-8)


def test_a_map_that_is_not_square() -> None:
    entry = PriorMap((2, 3), (50.0, 40.0), ((20.0, 10.0), (6.0, 12.0)), offset=0.25)
    boxes = prior_boxes([entry], (100, 120))
    assert boxes.shape == (12, 4)
    # Row 1, column 2, second prior: cx = 2.25 * 40 / 120, cy = 1.25 * 50 / 100.
    torch.testing.assert_close(boxes[11], torch.tensor([0.75, 0.625, 0.05, 0.12]))
    torch.testing.assert_close(boxes[2], torch.tensor([50 / 120, 0.125, 20 / 120, 0.1]))  # columns before rows
    torch.testing.assert_close(prior_corners([entry], (100, 120))[11], torch.tensor([0.725, 0.565, 0.775, 0.685]))


def test_opencv_computes_the_same() -> None:
    text = """
    input: "map" input_shape { dim: 1 dim: 1 dim: 3 dim: 5 }
    input: "image" input_shape { dim: 1 dim: 3 dim: 90 dim: 200 }
    layer { name: "p" type: "PriorBox" bottom: "map" bottom: "image" top: "p" prior_box_param {
      min_size: 30 max_size: 60 aspect_ratio: 2 aspect_ratio: 3 flip: true clip: true step_h: 30 step_w: 40
      variance: 0.1 variance: 0.2 variance: 0.3 variance: 0.4 } }"""
    net = cv2.dnn.readNetFromCaffe(np.frombuffer(text.encode(), np.uint8))
    net.setInput(np.zeros((1, 1, 3, 5), np.float32), "map")
    net.setInput(np.zeros((1, 3, 90, 200), np.float32), "image")
    theirs = net.forward().reshape(2, -1, 4)
    variances = (0.1, 0.2, 0.3, 0.4)
    entry = PriorMap((3, 5), (30.0, 40.0), caffe_box_sizes((30,), (60,), (2, 3)), clip="corners", variances=variances)
    np.testing.assert_allclose(prior_corners([entry], (90, 200)).numpy(), theirs[0], rtol=0, atol=2e-7)
    np.testing.assert_array_equal(prior_variances([entry]).numpy(), theirs[1])
    assert theirs[0].min() == 0 and theirs[0].max() == 1  # the clip did something


def test_clip_of_the_centre_form() -> None:
    """ssd.pytorch clamps cx, cy, w, h: a prior wider than the image becomes exactly as wide, its corners stay out."""
    wide = ((373.352, 186.676),)
    clipped = PriorMap((1, 1), (300.0, 300.0), wide, clip="centers")
    torch.testing.assert_close(prior_boxes([clipped], (300, 300)), torch.tensor([[0.5, 0.5, 1.0, 0.6222533]]))
    whole = PriorMap((1, 1), (300.0, 300.0), wide)
    assert prior_boxes([whole], (300, 300))[0, 2] > 1.2
    # A prior that sticks out at the left: the corner clip moves its centre, the centre clip does not.
    left = PriorMap((3, 3), (100.0, 100.0), ((200.0, 50.0),), clip="centers")
    torch.testing.assert_close(prior_corners([left], (300, 300))[0, 0], torch.tensor(-0.5 / 3))


def test_priors_object() -> None:
    maps = [PriorMap((2, 2), (8.0, 8.0), ((4.0, 4.0),)), PriorMap((1, 1), (16.0, 16.0), ((8.0, 8.0), (8.0, 4.0)))]
    priors = Priors.of(maps, (16, 16))
    assert Priors.of(list(maps), (16, 16)) is priors
    assert len(priors) == 6 == sum(m.count for m in maps)
    assert priors.form("center_size") is priors.centers
    assert priors.form("corner") is priors.form("corner_size") is priors.corners
    given = Priors.from_corners(priors.corners, priors.variances)
    assert torch.equal(given.centers, priors.centers)
    assert Priors.of(maps, (16, 16), torch.float64).centers.dtype == torch.float64


def test_priors_made_in_inference_mode_can_be_trained_with() -> None:
    with torch.inference_mode():
        priors = Priors.of([PriorMap((1, 1), (7.0, 7.0), ((4.0, 4.0),))], (7, 7))
    loc = torch.zeros(1, 4, requires_grad=True)
    (loc * priors.centers).sum().backward()
    assert loc.grad is not None


def test_nothing_to_make_priors_from() -> None:
    with pytest.raises(FormatError, match="no priors"):
        prior_boxes([], (300, 300))
    with pytest.raises(FormatError, match="no priors"):
        prior_variances([])
    with pytest.raises(FormatError, match="must be positive"):
        prior_corners([PriorMap((1, 1), (1.0, 1.0), ((1.0, 1.0),))], (0, 300))


def test_clipping_in_pixels_ends_at_the_last_pixel() -> None:
    """ssd_keras: corners at or beyond the image's side become the side less one, those below 0 become 0."""
    entry = PriorMap((1, 1), (10, 10), ((30.0, 12.0),), clip="pixels")
    assert prior_corners([entry], (20, 16))[0].tolist() == pytest.approx([0.0, 0.0, 15 / 16, 11 / 20])


def test_double_arithmetic_rounds_once() -> None:
    """Centres, corners and fractions in float64, one rounding to float32; Caffe's order rounds the centres too."""
    step, side, cell = 100 / 3, 100.0, 20.1
    plain = PriorMap((3, 3), (step, step), ((cell, cell),))
    double = PriorMap((3, 3), (step, step), ((cell, cell),), arithmetic="double")
    centres = [(0.5 + place) * step for place in range(3)]
    wanted = np.float32([[(x - cell / 2) / side, (y - cell / 2) / side] for y in centres for x in centres])
    found = prior_corners([double], (100, 100))[:, :2].numpy()
    assert np.abs(found - wanted).max() <= 2.0**-25 and not np.array_equal(
        found, prior_corners([plain], (100, 100))[:, :2].numpy()
    )
