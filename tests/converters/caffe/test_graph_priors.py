"""PriorBox layers: the tables that the original Caffe printed, and what its layer refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssdconv.converters.caffe.rule import prior_map
from ssdconv.errors import FormatError
from ssdconv.ssd_ref.config import LayerSpec, PriorMap
from ssdconv.ssd_ref.priors import Priors, prior_corners

TABLES = ("voc300", "coco300", "voc512", "coco512", "mobilenet_ssd_voc", "clip_offset")


def made(params: dict[str, Any], grid: tuple[int, int] = (5, 5), image: tuple[int, int] = (300, 300)) -> PriorMap:
    return prior_map(LayerSpec("p", "PriorBox", ("c", "data"), ("p",), params), grid, image)


def golden_params(table: dict[str, Any], index: int) -> dict[str, Any]:
    params: dict[str, Any] = {"min_size": [table["mins"][index]], "aspect_ratio": table["ratios"][index]}
    if table["maxs"][index] is not None:
        params["max_size"] = [table["maxs"][index]]
    if table["steps"][index] is not None:
        params["step"] = float(table["steps"][index])
    params |= {"clip": table["clip"]} if "clip" in table else {}
    params |= {"offset": table["offset"]} if "offset" in table else {}
    return params | {"variance": table.get("variances", [0.1, 0.1, 0.2, 0.2])}


@pytest.mark.shared
@pytest.mark.parametrize("name", TABLES)
def test_priors_equal_the_original_caffe_bit_for_bit(name: str, shared: Path) -> None:
    table = json.loads((shared / "golden/priors.json").read_text())[name]
    with np.load(shared / "golden/priors.npz") as file:
        boxes, variances = file[name].reshape(2, -1, 4)
    size = (table["size"], table["size"])
    maps = [made(golden_params(table, i), (grid, grid), size) for i, grid in enumerate(table["fmaps"])]
    priors = Priors.of(maps, size)
    assert np.array_equal(priors.corners.numpy(), boxes)
    assert np.array_equal(priors.variances.numpy(), variances)


@pytest.mark.shared
def test_tables_are_all_there(shared: Path) -> None:
    assert set(json.loads((shared / "golden/priors.json").read_text())) == set(TABLES)


def test_several_sizes_keep_their_order() -> None:
    cells = made(
        {"min_size": [10.9, 20.0], "max_size": [40.0, 80.0], "aspect_ratio": [4.0, 1.0], "flip": True}
    ).box_sizes
    # Caffe: per minimum size the square, the root of min * max, then 4 and 1/4; 10.9 counts as 10, ratio 1 as a repeat.
    assert cells == ((10, 10), (20, 20), (20, 5), (5, 20), (20, 20), (40, 40), (40, 10), (10, 40))


def test_no_flip() -> None:
    assert made({"min_size": [10.0], "aspect_ratio": [4.0], "flip": False}).box_sizes == ((10, 10), (20, 5))


def test_steps() -> None:
    assert made({"min_size": [9.0]}, (2, 4), (100, 300)).step == (50, 75)
    assert made({"min_size": [9.0], "step": 7.5}).step == (7.5, 7.5)
    assert made({"min_size": [9.0], "step_h": 3.0, "step_w": 4.0}).step == (3, 4)


def test_sizes_that_refer_to_another_image() -> None:
    doubled = made({"min_size": [9.0], "img_size": 150})
    assert (doubled.box_sizes, doubled.step, doubled.image) == (((9, 9),), (30, 30), (150, 150))
    corners = prior_corners([doubled], (300, 300))[0]
    assert corners.tolist() == pytest.approx([10.5 / 150, 10.5 / 150, 19.5 / 150, 19.5 / 150])
    wide = made({"min_size": [9.0], "img_h": 300, "img_w": 100, "step": 10.0})
    assert (wide.box_sizes, wide.step, wide.image) == (((9, 9),), (10, 10), (300, 100))
    assert prior_corners([wide], (300, 300))[0].tolist() == pytest.approx([0.005, 0.5 / 300, 0.095, 9.5 / 300])
    assert made({"min_size": [9.0], "img_size": 300}).image is None


def test_one_variance_counts_for_all_and_floats_are_short() -> None:
    assert made({"min_size": [9.0], "variance": [0.20000000298023224]}).variances == (0.2, 0.2, 0.2, 0.2)
    assert made({"min_size": [9.0]}).variances == (0.1, 0.1, 0.1, 0.1)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"min_size": []},
        {"min_size": [0.0]},
        {"min_size": [float("inf")]},
        {"min_size": [10.0], "max_size": [5.0]},
        {"min_size": [10.0], "max_size": [20.0, 30.0]},
        {"min_size": [10.0], "aspect_ratio": [-2.0]},
        {"min_size": [10.0], "aspect_ratio": [0.0]},
        {"min_size": [10.0], "variance": [0.1, 0.2]},
        {"min_size": [10.0], "variance": [0.0]},
        {"min_size": [10.0], "step": 0.0},
        {"min_size": [10.0], "step_h": 4.0},
        {"min_size": [10.0], "step": 1.0, "step_h": 4.0, "step_w": 4.0},
        {"min_size": [10.0], "img_size": 0},
        {"min_size": [10.0], "img_size": 5, "img_h": 5},
        {"min_size": [10.0], "offset": float("nan")},
    ],
)
def test_what_caffe_refuses_names_the_layer(params: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=r"layer 'p' \(PriorBox\)"):
        made(params)
