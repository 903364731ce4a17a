"""Whole Keras models against what the original code computed: anchors, raw outputs and decoded boxes of every stored file."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from ssdconv.converters.convert import convert, open_source, reverse
from ssdconv.converters.keras.files import KerasFile
from ssdconv.converters.keras.model_config import parse
from ssdconv.converters.keras.whole import RULES, network_of
from ssdconv.converters.plan import Request
from ssdconv.errors import FormatError, MappingError, SsdconvError, UsageError
from ssdconv.ssd_ref.checkpoint import load, read
from ssdconv.ssd_ref.config import Graph, Postprocess, SSDConfig
from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.postprocess import Detections
from ssdconv.ssd_ref.preprocess import normalise
from ssdconv.ssd_ref.priors import Priors

FILES = (
    "h01_300x480_default",
    "h02_200x320_inference",
    "h03_128x96_fast_swap",
    "h04_96x128_perlayer_minmax_clip",
    "h05_112x112_corners_norm",
    "h06_96x128_steps_offsets",
    "h07_150x201_clip_norm_odd",
    "h08_96x96_absolute_inference",
    "o09_dfb8655_valid_lambda",
    "o10_63e50ea_valid_steps_limit",
    "o11_fbf8452_valid_oldanchors",
)
BUILT = {
    "h06_96x128_steps_offsets": {"steps": "8,17x15,32,60x64", "offsets": "0.5,0.4,0.3x0.6,0.5"},
    "o10_63e50ea_valid_steps_limit": {"steps": "8,16,32,64", "offsets": "1"},
}
"""The steps and offsets that a network was built with, where the file cannot tell them."""
PHOTOS = ("000001", "000006", "000022", "000456", "001763", "004545")
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Golden:
    """One stored file with what the original computed."""

    name: str
    path: Path
    arrays: dict[str, Array]
    stated: dict[str, Any]
    decode: list[Any]


@pytest.fixture(scope="module", params=FILES)
def golden(request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    folder, name = shared / "golden" / "keras_tf" / "ssd7", request.param
    path = unpacked(folder, name, tmp_path_factory.mktemp("whole"))
    with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    decode = json.loads((folder / "variants.json").read_text())["variants"][name]["decode"]
    return Golden(name, path, arrays, anchor_config(path), decode)


def unpacked(folder: Path, name: str, target: Path) -> Path:
    plain, packed = folder / f"{name}.h5", folder / f"{name}.h5.gz"
    (target / f"{name}.h5").write_bytes(gzip.decompress(packed.read_bytes()) if packed.exists() else plain.read_bytes())
    return target / f"{name}.h5"


def anchor_config(path: Path) -> dict[str, Any]:
    with open_source(path).table as table:
        model = json.loads(table.found(KerasFile).model)
    return next(la["config"] for la in model["config"]["layers"] if la["class_name"] == "AnchorBoxes")


def as_original(config: SSDConfig, stated: dict[str, Any]) -> Array:
    """The reference's priors in the form, unit and order of the original's anchors."""
    priors = Priors.of(config.priors, config.pixels.size)
    height, width = config.pixels.size
    scale = np.ones(4) if stated["normalize_coords"] else np.array([width, height, width, height])
    if stated["coords"] == "centroids":
        return priors.centers.numpy() * scale
    corners = priors.corners.numpy() * scale
    return corners if stated["coords"] == "corners" else corners[:, [0, 2, 1, 3]]


def apart(config: SSDConfig, stated: dict[str, Any], anchors: Array) -> float:
    unit = 1.0 if stated["normalize_coords"] else max(config.pixels.size)
    return float(np.abs(as_original(config, stated) - anchors).max() / unit)


def prepared(images: Array, config: SSDConfig) -> torch.Tensor:
    """RGB images as the network reads them."""
    turned = images if config.pixels.order == "RGB" else images[..., ::-1]
    return torch.from_numpy(np.stack([normalise(image, config.pixels).transpose(2, 0, 1) for image in turned]))


def outputs(model: SSD, images: Array, stated: dict[str, Any]) -> tuple[Array, Array]:
    """Scores and box codes in the original's order of coordinates."""
    with torch.inference_mode():
        loc, conf = model(prepared(images, model.config))
    codes = loc.numpy()
    return conf.softmax(-1).numpy(), codes[..., [0, 2, 1, 3]] if stated["coords"] == "minmax" else codes


@pytest.mark.shared
def test_anchors_outputs_and_boxes(golden: Golden, tmp_path: Path) -> None:
    convert(
        golden.path, tmp_path / "file.pth", settings={"steps": "integer"} if "o11" in golden.name else {"steps": "file"}
    )
    convert(golden.path, tmp_path / "built.pth", settings=BUILT.get(golden.name, {}))
    loaded, built = read(tmp_path / "file.pth").config, load(tmp_path / "built.pth")
    assert apart(loaded, golden.stated, golden.arrays["anchors_after_load_model"]) < 1e-7
    assert apart(built.config, golden.stated, golden.arrays["anchors"]) < 1e-7
    if "anchors_python3" in golden.arrays:  # the same file where Python 3 divides
        convert(golden.path, tmp_path / "three.pth", settings={"steps": "file"})
        assert apart(read(tmp_path / "three.pth").config, golden.stated, golden.arrays["anchors_python3"]) < 1e-7
    scores, codes = outputs(built, golden.arrays["inputs"], golden.stated)
    for mine, theirs in ((scores, golden.arrays["conf_softmax"]), (codes, golden.arrays["loc"])):
        assert np.abs(mine - theirs).max() <= 5e-6 * np.abs(theirs).max()
    order = [0, 2, 1, 3] if golden.stated["coords"] == "minmax" else [0, 1, 2, 3]
    for entry in built.config.priors:
        assert np.array_equal(np.float32(entry.variances), golden.arrays["variances"][order])


def rules(golden: Golden, own: Postprocess) -> Iterator[tuple[str, Postprocess]]:
    """What was decoded, and by which rule."""
    threshold, overlap, best = golden.decode
    limit = -1 if best == "all" else best
    for key, name in (("decode_detections", "decode_detections"), ("decode_y", "decode_detections")):
        yield (
            key,
            replace(RULES[name], score_threshold=threshold, nms_threshold=overlap, keep_top_k=limit, code=own.code),
        )
    for key in ("decode_detections_fast", "decode_y2"):
        fast = RULES["decode_detections_fast"]
        yield key, replace(fast, score_threshold=threshold, nms_threshold=overlap, keep_top_k=limit, code=own.code)
    yield "decoded_layer", own


@pytest.mark.shared
def test_decoded_boxes_are_the_originals(golden: Golden, tmp_path: Path) -> None:
    convert(golden.path, tmp_path / "built.pth", settings=BUILT.get(golden.name, {}))
    model = load(tmp_path / "built.pth")
    own = model.config.detect
    codes = golden.arrays["loc"][..., [0, 2, 1, 3]] if golden.stated["coords"] == "minmax" else golden.arrays["loc"]
    scores = torch.from_numpy(golden.arrays["conf_softmax"])
    compared = 0
    for key, rule in rules(golden, own):
        if key not in golden.arrays:
            continue
        object.__setattr__(model, "config", replace(model.config, detect=replace(rule, activation="none")))
        found = model.postprocess(torch.from_numpy(codes), scores)
        start = 0
        for image, count in zip(found, golden.arrays[f"{key}_n"], strict=True):
            rows = golden.arrays[key][start : start + count]
            start += count
            if "o11" in golden.name:  # that commit's rows are xmin, xmax, ymin, ymax
                rows = rows[:, [0, 1, 2, 4, 3, 5]]
            same_rows(image, rows, model.config.pixels.size)
        compared += 1
    assert compared == (3 if "decoded_layer" in golden.arrays else 2)


def same_rows(found: Detections, rows: Array, size: tuple[int, int], slack: float = 1e-6) -> None:
    height, width = size
    mine = found.numpy()
    boxes = mine["boxes"] * [width, height, width, height]
    assert len(boxes) == len(rows)
    left = list(range(len(rows)))
    for label, score, box in zip(mine["labels"], mine["scores"], boxes, strict=True):
        fitting = [k for k in left if rows[k, 0] == label and abs(rows[k, 1] - score) < slack]
        best = min(fitting, key=lambda k: np.abs(rows[k, 2:] - box).max(), default=None)
        assert best is not None and np.abs(rows[best, 2:] - box).max() <= 1e-5 * max(size) + 1e-4
        left.remove(best)


@pytest.mark.shared
def test_settings_are_refused_unless_they_say_something(golden: Golden) -> None:
    if "h06" not in golden.name:
        return
    for settings in (
        {"steps": "8,16"},
        {"steps": "wide"},
        {"offsets": "a"},
        {"rule": "x"},
        {"pixels.order": "GRB"},
        {"no.such": "1"},
    ):
        with pytest.raises(UsageError):
            open_source(golden.path, None, Request(settings=settings))
    with pytest.raises(UsageError, match="describes its own network"):
        open_source(golden.path, None, Request(network="ssd7"))


JSONS = {
    "ssd300_voc": {},
    "ssd300_voc_inference": {},
    "ssd300_coco": {},
    "ssd300_400px": {},
    "ssd300_300x400_nosteps_clip_othermeans": {"steps": "file"},
    "ssd300_old_dfb8655": {},
    "ssd300_old_23ffad6": {},
    "ssd512_voc": {},
    "ssd512_coco_inference_fast": {},
}
"""Model text -> settings that say what it was built with where the assumption is another."""


@pytest.mark.shared
@pytest.mark.parametrize("name", JSONS)
def test_texts_alone_give_the_geometry(name: str, shared: Path) -> None:
    folder = shared / "golden" / "keras_tf" / "json"
    text = (folder / f"{name}.json").read_text()
    stated = next(la["config"] for la in json.loads(text)["config"]["layers"] if la["class_name"] == "AnchorBoxes")
    with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
        for settings, key in ((JSONS[name], "anchors"), ({"steps": "file"}, "anchors_after_model_from_json")):
            config = network_of(parse(text, name), settings, name).config
            assert apart(config, stated, arrays[key]) < 1e-7
            assert [[*m.grid, len(m.box_sizes)] for m in config.priors] == arrays["grid_h_w_boxes"].tolist()
            assert SSDConfig.from_json(config.to_json()) == config


@pytest.mark.shared
def test_ssd300_texts_give_their_pixels_and_padding(shared: Path) -> None:
    folder = shared / "golden" / "keras_tf" / "json"
    found = {n: network_of(parse((folder / f"{n}.json").read_text(), n), {}, n).config for n in JSONS}
    assert found["ssd300_voc"].pixels.mean == (104.0, 117.0, 123.0) and found["ssd300_voc"].pixels.order == "BGR"
    other = found["ssd300_300x400_nosteps_clip_othermeans"]
    assert other.pixels.mean == (104.0, 110.0, 120.5) and other.pixels.std == (58.0, 57.0, 56.0)
    assert other.pixels.size == (300, 400) and other.num_classes == 8 and other.priors[0].clip == "pixels"
    assert isinstance(other.layers, Graph) and other.layers.layers[0].type == "Gather"  # 1, 2, 0 is no order of pixels
    assert found["ssd512_coco_inference_fast"].detect.nms_scope == "image"
    assert found["ssd512_coco_inference_fast"].detect.max_per_class == 300
    padding = {}
    for name in ("ssd300_voc", "ssd300_old_23ffad6"):
        graph = found[name].layers
        assert isinstance(graph, Graph)
        padding[name] = {s.name: s.params.get("padding") for s in graph.layers if s.name in ("conv6_2", "pool1")}
    assert padding["ssd300_voc"] == {"conv6_2": "valid", "pool1": "same"}
    assert padding["ssd300_old_23ffad6"] == {"conv6_2": "same", "pool1": "valid"}


@pytest.fixture(scope="module")
def real(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[SSD, dict[str, Array]]:
    folder, target = shared / "golden" / "keras_tf" / "real", tmp_path_factory.mktemp("real")
    convert(unpacked(folder, "ssd7", target), target / "ssd7.pth")
    with np.load(folder / "toshihiroryuu_ssd7.npz", allow_pickle=False) as file:
        return load(target / "ssd7.pth"), {key: file[key] for key in file.files}


@pytest.mark.shared
def test_the_real_file_is_the_original(real: tuple[SSD, dict[str, Array]], shared: Path) -> None:
    model, arrays = real
    assert [m.grid for m in model.config.priors] == [(35, 58), (16, 28), (7, 13), (2, 5)]
    centers = Priors.of(model.config.priors, (300, 480)).centers.numpy() * [480, 300, 480, 300]
    assert np.abs(centers - arrays["anchors"]).max() < 1e-4
    for index, photo in enumerate(PHOTOS):
        image = cv2.resize(cv2.imread(str(shared / "data" / "images" / f"{photo}.jpg")), (480, 300))
        x = prepared(image[None, ..., ::-1], model.config)
        with torch.inference_mode():
            loc, conf = model(x)
        if index == 0:
            assert np.abs(conf[0].softmax(-1).numpy() - arrays["conf_softmax_000001"]).max() < 1e-5
            assert np.abs(loc[0].numpy() - arrays["loc_000001"]).max() < 1e-5 * np.abs(arrays["loc_000001"]).max()
        else:
            rows = arrays["prior_index"]
            assert np.abs(conf[0].softmax(-1).numpy()[rows] - arrays["conf_softmax"][index - 1]).max() < 1e-5
        for threshold in ("0.01", "0.3", "0.5"):
            start = int(arrays[f"decode_y_{threshold}_n"][:index].sum())
            rows = arrays[f"decode_y_{threshold}"][start : start + int(arrays[f"decode_y_{threshold}_n"][index])]
            rule = replace(model.config.detect, score_threshold=float(threshold))
            object.__setattr__(model, "config", replace(model.config, detect=rule))
            same_rows(model.postprocess(loc, conf)[0], rows, (300, 480), 1e-5)


@pytest.mark.shared
def test_the_real_file_on_photos(real: tuple[SSD, dict[str, Array]], shared: Path) -> None:
    model, _ = real
    photos = [shared / "data" / "images" / f"{photo}.jpg" for photo in PHOTOS]
    assert [len(found) for found in model.detect(photos, threshold=0.5)] == [2, 6, 1, 1, 0, 0]


def test_an_unknown_layer_is_named() -> None:
    layers = [
        {
            "class_name": "InputLayer",
            "name": "in",
            "config": {"batch_input_shape": [None, 64, 64, 3]},
            "inbound_nodes": [],
        },
        {"class_name": "Swirl", "name": "twist", "config": {}, "inbound_nodes": [[["in", 0, 0, {}]]]},
    ]
    text = json.dumps(
        {
            "class_name": "Model",
            "config": {
                "name": "m",
                "layers": layers,
                "input_layers": [["in", 0, 0]],
                "output_layers": [["twist", 0, 0]],
            },
        }
    )
    model = parse(text, "file")
    with pytest.raises(FormatError, match="'twist' \\(Swirl\\)"):
        network_of(model, {}, "file")


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"class_name": "Model"}', '{"class_name": "Model", "config": {"layers": 3}}']
)
def test_damaged_texts_are_format_errors(text: str) -> None:
    with pytest.raises(FormatError):
        parse(text, "file")


def test_layers_in_a_circle_are_refused() -> None:
    layers = [
        {"class_name": "ReLU", "name": n, "config": {}, "inbound_nodes": [[[other, 0, 0, {}]]]}
        for n, other in (("a", "b"), ("b", "a"))
    ]
    text = json.dumps(
        {
            "class_name": "Model",
            "config": {"layers": layers, "input_layers": [["a", 0, 0]], "output_layers": [["b", 0, 0]]},
        }
    )
    with pytest.raises(FormatError, match="circle"):
        parse(text, "file")


def contents(path: Path) -> dict[str, Any]:
    """Every dataset's bytes, and what the file says about itself."""
    import h5py

    found: dict[str, Any] = {}
    with h5py.File(path, "r") as file:
        file["model_weights"].visititems(
            lambda n, d: found.update({n: d[()].tobytes()}) if hasattr(d, "shape") else None
        )
        for name in ("model_config", "keras_version", "backend"):
            told = file.attrs[name]
            found[name] = told.decode() if isinstance(told, bytes) else str(told)
        for layer, group in file["model_weights"].items():
            names = [n.decode() for n in group.attrs["weight_names"]] if len(group.attrs["weight_names"]) else []
            found |= {f"order of {layer}": names} if names else {}
    return found


@pytest.mark.shared
def test_there_and_back_is_the_same_file(golden: Golden, tmp_path: Path) -> None:
    convert(golden.path, tmp_path / "there.pth")
    reverse(tmp_path / "there.pth", tmp_path / "back.h5", "keras")
    assert contents(tmp_path / "back.h5") == contents(golden.path)
    with pytest.raises(MappingError, match="Caffe has no layer"):
        reverse(tmp_path / "there.pth", tmp_path / "back.caffemodel", "caffe")
    with pytest.raises(UsageError, match="another form"):
        reverse(tmp_path / "there.pth", tmp_path / "back.keras", "keras")


def edited(path: Path, target: Path, change: Callable[[dict[str, Any], Any], None]) -> Path:
    """A copy of a file with another text, and other weights."""
    import h5py

    target.write_bytes(path.read_bytes())
    with h5py.File(target, "r+") as file:
        told = file.attrs["model_config"]
        model = json.loads(told)
        change(model, file["model_weights"])
        del file.attrs["model_config"]
        file.attrs["model_config"] = json.dumps(model).encode()
    return target


@pytest.fixture(scope="module")
def small(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(shared / "golden" / "keras_tf" / "ssd7", "h03_128x96_fast_swap", tmp_path_factory.mktemp("small"))


def layer_of(model: dict[str, Any], name: str) -> dict[str, Any]:
    return next(la for la in model["config"]["layers"] if la["name"] == name)


@pytest.mark.shared
def test_pruning_wrappers_are_seen_through(small: Path, tmp_path: Path) -> None:
    name = "prune_low_magnitude_conv2"

    def prune(model: dict[str, Any], weights: Any) -> None:
        conv = layer_of(model, "conv2")
        inner = {"class_name": "Conv2D", "config": conv["config"]}
        conv.update(
            class_name="PruneLowMagnitude", name=name, config={"name": name, "layer": inner, "pruning_schedule": {}}
        )
        layer_of(model, "bn2")["inbound_nodes"] = [[[name, 0, 0, {}]]]
        weights.move("conv2", name)
        for extra, value in (
            ("mask:0", np.ones((3, 3, 32, 48), "f4")),
            ("threshold:0", np.float32(0)),
            ("pruning_step:0", np.int64(7)),
        ):
            weights[name].create_dataset(f"{name}/{extra}", data=value)

    path = edited(small, tmp_path / "pruned.h5", prune)
    report = convert(path, tmp_path / "pruned.pth")
    convert(small, tmp_path / "plain.pth")
    assert sorted(drop.source.rsplit("/", 1)[-1] for drop in report.drops) == [
        "mask:0",
        "pruning_step:0",
        "threshold:0",
    ]
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, 128, 96)).astype("f4"))
    with torch.inference_mode():
        for mine, theirs in zip(load(tmp_path / "pruned.pth")(x), load(tmp_path / "plain.pth")(x), strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.shared
def test_a_lambda_that_nothing_explains_is_asked_for(small: Path, tmp_path: Path) -> None:
    def hide(model: dict[str, Any], weights: Any) -> None:
        layer_of(model, "input_mean_normalization")["config"]["function"] = ["4wEAAAAA\n", None, None]

    path = edited(small, tmp_path / "hidden.h5", hide)
    with pytest.raises(FormatError, match="'input_mean_normalization' \\(Lambda\\)"):
        convert(path, tmp_path / "x.pth")
    report = convert(path, tmp_path / "x.pth", settings={"lambda.input_mean_normalization": "subtract:123,117,104"})
    assert report.config.pixels == convert(small, tmp_path / "y.pth").config.pixels
    with pytest.raises(UsageError, match="no step of preparing pixels"):
        convert(path, tmp_path / "x.pth", settings={"lambda.input_mean_normalization": "import os"})


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("conv3", "padding", "causal", "conv3"),
        ("conv3", "data_format", "channels_first", "conv3"),
        ("conv3", "activation", "mystery", "conv3"),
        ("conv3", "filters", 1 << 40, "conv3"),
        ("bn3", "axis", 1, "bn3"),
        ("anchors5", "this_scale", None, "anchors5"),
        ("anchors5", "aspect_ratios", [1.0], "anchors5"),
        ("anchors5", "this_steps", [8, 8], "anchors5"),
        ("classes4_reshape", "target_shape", [-1, 7], "classes4_reshape"),
        ("decoded_predictions", "normalize_coords", False, "decoded_predictions"),
        ("input_1", "batch_input_shape", [None, 128, 96, 1], "input_1"),
    ],
)
def test_contradictions_name_the_layer(
    small: Path, tmp_path: Path, name: str, field: str, value: Any, message: str
) -> None:
    path = edited(small, tmp_path / "x.h5", lambda model, _: layer_of(model, name)["config"].update({field: value}))
    with pytest.raises((FormatError, MappingError), match=message):
        convert(path, tmp_path / "x.pth")


def spoiled(value: Any, rng: np.random.Generator, odds: float) -> Any:
    """A text with some of its values replaced, dropped or of another kind."""
    if rng.random() < odds:
        odd = [None, -1, 0, 1 << 70, 1e308, float("nan"), "x", "", [], {}, [[]], True, [None], {"class_name": "Lambda"}]
        return odd[int(rng.integers(len(odd)))]
    if isinstance(value, dict):
        return {k: spoiled(v, rng, odds) for k, v in value.items() if rng.random() > odds}
    if isinstance(value, list):
        return [spoiled(v, rng, odds) for v in value if rng.random() > odds]
    return value


@pytest.mark.shared
def test_spoiled_texts_are_errors_of_ours(small: Path) -> None:
    with open_source(small).table as table:
        told = json.loads(table.found(KerasFile).model)
    rng, good = np.random.default_rng(7), 0
    for _ in range(400):
        text = json.dumps(spoiled(told, rng, float(rng.choice([0.0003, 0.001, 0.01]))))
        try:
            network_of(parse(text, "file"), {}, "file")
            good += 1
        except SsdconvError as error:
            assert str(error)
    assert good < 400


@pytest.mark.parametrize("place", ["1e999", "NaN", "9" * 5000])
def test_a_place_that_is_no_number_is_refused(place: str) -> None:
    """JSON of other programs can hold infinities, which are no numbers of an output."""
    layer = {"class_name": "ReLU", "name": "a", "config": {"name": "a"}, "inbound_nodes": []}
    config = {"name": "m", "layers": [layer], "input_layers": [["a", 0, 0]], "output_layers": [["a", "PLACE", 0]]}
    text = json.dumps({"class_name": "Functional", "config": config}).replace('"PLACE"', place)
    with pytest.raises(FormatError, match=r"x\.json"):
        parse(text, "x.json")
