"""Five full-size networks against what the projects' original code computed from the same weights: pixels, heads, priors, detections.

The weights are made by the seeded rule of the data's README; each tensor's CRC-32 is checked before anything is made from it.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import torch

from ssdconv.converters.convert import convert
from ssdconv.converters.tensorflow.bundle import write_bundle
from ssdconv.ssd_ref.checkpoint import build, read
from ssdconv.ssd_ref.config import Graph, Postprocess
from ssdconv.ssd_ref.postprocess import detect
from ssdconv.ssd_ref.preprocess import prepare, read_image
from ssdconv.ssd_ref.priors import prior_boxes, prior_corners

Array = npt.NDArray[Any]
pytestmark = [pytest.mark.shared, pytest.mark.slow]
SIX = {"jedol": (0, 1, 2, 4, 3, 5), "hikapok": (1, 0, 2, 4, 3, 5)}
FOUR = {"hikapok": (1, 0, 2, 3)}
"""Place in the project's cell of each of the reference's anchors, where it is another one."""


@dataclass(frozen=True)
class Found:
    """Figures of one comparison: largest differences relative to the largest value, of priors absolute."""

    logits: float
    loc: float
    priors: float
    detections: Mapping[str, tuple[int, int, int]]


FIRST = ("conv1_1/kernel:0", "conv1/kernel:0", "ssd300/conv1/conv1_1/kernel")


def weights(folder: Path, name: str) -> dict[str, Array]:
    """The weights of one network by their names in its file, in file order."""
    facts = json.loads((folder / f"{name}.tensors.json").read_text())
    found = {}
    for tensor, shape, crc in facts["tensors"]:
        array = _values(tensor, shape, facts).astype(np.float32)
        assert zlib.crc32(array.tobytes()) == crc, tensor
        found[tensor] = array
    return found


def _values(name: str, shape: list[int], facts: Mapping[str, Any]) -> Array:
    z = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(shape)
    leaf = name.rsplit("/", 1)[-1].removesuffix(":0")
    conf = any(word in name for word in ("mbox_conf", "mbox_logit", "/cls_"))
    loc = not conf and any(word in name for word in ("mbox_loc", "/loc_"))
    if leaf == "kernel":
        a = z * np.sqrt(2 / (shape[0] * shape[1] * shape[2]))
        a = a / 50 if name in FIRST else a
        a = a * (facts["gain_conf"] if conf else facts["gain_loc"] if loc else 1.0)
        normed = any(word in name for word in ("norm_mbox", "multibox_head/cls_0", "multibox_head/loc_0"))
        return np.asarray(a * 0.5 if normed else a)
    if leaf == "bias":
        a = z * 0.1
        if conf:
            a[0::21] += facts["bias_background"]
        return np.asarray(a)
    if leaf in ("scale", "conv4_3_norm_gamma", "weights"):
        return np.asarray(20 * (1 + 0.2 * z))
    if leaf == "gamma":
        return np.asarray((1 + 0.1 * z) * (0.3 if "branch2c" in name else 1.0))
    return np.asarray(abs(1 + 0.2 * z) if leaf == "moving_variance" else 0.1 * z)


def weight_file(folder: Path, name: str, out: Path, text: str = "") -> Path:
    """The weights as a file of the project's framework; a whole Keras model where ``text`` describes it."""
    found = weights(folder, name)
    if name.startswith("hikapok"):
        write_bundle(out / "net.ckpt", found)
        return out / "net.ckpt.index"
    groups: dict[str, list[str]] = {}
    for tensor in found:
        groups.setdefault(tensor.split("/")[0], []).append(tensor)
    with h5py.File(out / "net.h5", "w") as file:
        file.attrs["layer_names"] = np.array([group.encode() for group in groups])
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.2.4"
        if text:
            file.attrs["model_config"] = text.encode()
        for group, tensors in groups.items():
            made = file.create_group(f"model_weights/{group}" if text else group)
            made.attrs["weight_names"] = np.array([tensor.encode() for tensor in tensors])
            for tensor in tensors:
                made.create_dataset(tensor, data=found[tensor])
    return out / "net.h5"


def theirs_to_ours(maps: Any, project: str) -> Array:
    """Index of each of our priors in the project's order."""
    places, start = [], 0
    for entry in maps:
        cells = len(entry.box_sizes)
        order = {6: SIX, 4: FOUR}.get(cells, {}).get(project, tuple(range(cells)))
        base = start + np.arange(entry.grid[0] * entry.grid[1])[:, None] * cells
        places.append((base + np.array(order)).ravel())
        start += entry.count
    return np.concatenate(places)


def picture(name: str, folder: Path) -> Array:
    """What the network was fed, BGR."""
    if "ssd512" in name:
        small = np.random.RandomState(512).randint(0, 256, (64, 64, 3))
        return np.kron(small, np.ones((8, 8, 1), int)).astype(np.uint8)[..., ::-1]
    return read_image(folder / "000001.png")


def compared(name: str, folder: Path, out: Path, text: str = "") -> Found:
    """Write the weights, convert the file, and compare with what the original computed."""
    convert(weight_file(folder, name, out, text), out / "out.pth")
    model = build(read(out / "out.pth")).eval()
    config, project = model.config, name.split("_")[0]
    with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
        truth = {key: file[key] for key in file.files}
    pixels = prepare([picture(name, folder)], config.pixels)
    if "input_bgr_minus_mean_strided5" in truth:
        assert np.array_equal(pixels[0].numpy().transpose(1, 2, 0)[::5, ::5], truth["input_bgr_minus_mean_strided5"])
    with torch.inference_mode():
        loc, conf = (value[0].numpy() for value in model(pixels))
    order = theirs_to_ours(config.priors, project)
    back = np.argsort(order)
    keep = truth.get("prior_index", np.arange(len(order)))
    their_loc = truth["loc_dydxdhdw"][:, [1, 0, 3, 2]] if project == "hikapok" else truth["loc"]
    gaps = [
        float(np.abs(mine[back][keep] - other).max() / np.abs(other).max())
        for mine, other in ((conf, truth["logits"]), (loc, their_loc))
    ]
    if project == "hikapok":
        boxes, given = prior_boxes(config.priors, config.pixels.size).numpy(), truth["priors_cycxhw"][:, [1, 0, 3, 2]]
    elif project == "jedol":
        boxes, given = prior_corners(config.priors, config.pixels.size).numpy(), truth["priors"]
    else:
        boxes, given = prior_boxes(config.priors, config.pixels.size).numpy(), truth["priors"]
    sums = truth.get("logits_sum_per_class_f64")
    if sums is not None:
        assert np.abs(conf.astype(np.float64).sum(0) - sums).max() <= 1e-5 * np.abs(conf).sum(0).max()
    found = {}
    for key, rule in rules(config.detect, truth).items():
        mine = detect(
            torch.from_numpy(loc)[None], torch.from_numpy(conf)[None], config.priors, config.pixels.size, rule
        )
        found[key] = paired(rows_of(mine[0].numpy(), key, config.pixels.size), truth[key], key, config.pixels.size)
    return Found(gaps[0], gaps[1], float(np.abs(boxes[back] - given).max()), found)


def rules(usual: Postprocess, truth: Mapping[str, Array]) -> dict[str, Postprocess]:
    """The stored detections that the reference's rule can give, and the rule."""
    found = {}
    for key in truth:
        if key.startswith("det_0."):
            found[key] = replace(usual, score_threshold=float(key.removeprefix("det_")))
        elif key in ("det_inference_layer", "det_decode_detections", "det_yxyx_normalised"):
            found[key] = usual
        elif key in ("det_inference_fast_layer", "det_decode_detections_fast"):
            fast = replace(usual, nms_scope="image", background_competes=True)
            found[key] = replace(fast, score_inclusive=key.startswith("det_decode"))
    return found


def rows_of(found: Mapping[str, Array], key: str, size: tuple[int, int]) -> Array:
    """(n, 6) class from 1, score, corners as fractions of the image."""
    return np.column_stack([found["labels"], found["scores"], found["boxes"]])


def paired(mine: Array, stored: Array, key: str, size: tuple[int, int]) -> tuple[int, int, int]:
    """Our rows, the original's, and how many pair within 1e-4 of the score and 0.05 pixels."""
    theirs = stored.astype(np.float64).copy()
    extent = np.array([353.0, 500.0] * 2) if key.startswith("det_0.") else np.array([size[1], size[0]] * 2, float)
    if key == "det_yxyx_normalised":
        theirs[:, 2:] = theirs[:, [3, 2, 5, 4]]
    else:
        theirs[:, 2:] /= extent
    if key.startswith("det_0."):
        theirs[:, 0] += 1  # jedol counts its classes from 0
    free, count = list(range(len(mine))), 0
    for row in theirs:
        near = [
            (abs(mine[k, 1] - row[1]), k)
            for k in free
            if mine[k, 0] == row[0]
            and abs(mine[k, 1] - row[1]) <= 1e-4
            and np.abs((mine[k, 2:] - row[2:]) * extent).max() <= 0.05
        ]
        if near:
            free.remove(min(near)[1])
            count += 1
    return len(mine), len(stored), count


@pytest.mark.parametrize(
    "name",
    [
        "jedol_vgg16_ssd300",
        "jedol_resnet50_ssd300",
        "ssd_keras_ssd300_voc",
        "ssd_keras_ssd512_voc",
        "hikapok_ssd300_vgg16",
    ],
)
def test_full_size_network_is_the_original(shared: Path, tmp_path: Path, name: str) -> None:
    found = compared(name, shared / "golden" / "keras_tf" / "full", tmp_path)
    print(name, found)
    assert found.logits <= 1e-4 and found.loc <= 1e-4 and found.priors <= 2e-6
    assert found.detections
    for key, (mine, theirs, same) in found.detections.items():
        assert mine == theirs and same >= theirs - 2, key  # two rows: one at the cut on each side


@pytest.mark.parametrize(
    ("name", "text"), [("ssd_keras_ssd300_voc", "ssd300_voc"), ("ssd_keras_ssd512_voc", "ssd512_voc")]
)
def test_whole_model_of_full_size_is_the_original(shared: Path, tmp_path: Path, name: str, text: str) -> None:
    """The same weights below the original's own ``to_json``: nothing comes from a table."""
    golden = shared / "golden" / "keras_tf"
    found = compared(name, golden / "full", tmp_path, (golden / "json" / f"{text}.json").read_text())
    print(name, found)
    assert isinstance(read(tmp_path / "out.pth").config.layers, Graph)
    assert found.logits <= 1e-5 and found.loc <= 1e-5 and found.priors <= 1e-7
    assert len(found.detections) == 4
    for key, (mine, theirs, same) in found.detections.items():
        assert mine == theirs and same >= theirs - 2, key
