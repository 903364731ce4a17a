"""What a user states: checked keys, networks completed by it, contradictions refused, proofs that remember it."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

import ssdconv
from ssdconv import cli
from ssdconv.converters.caffe.net import CaffeNet
from ssdconv.converters.convert import convert
from ssdconv.converters.inspect import template
from ssdconv.converters.plan import Request
from ssdconv.converters.registry import source
from ssdconv.converters.spec import Spec, SpecDetection, SpecPixels, prior_maps, read_spec, spec_of
from ssdconv.errors import FormatError, MissingError, SsdconvError, UsageError
from ssdconv.parity.verify import verify
from ssdconv.ssd_ref.checkpoint import read
from ssdconv.ssd_ref.config import Preprocess, PriorMap
from ssdconv.ssd_ref.evidence import from_plain
from ssdconv.ssd_ref.model import seeded_tensors
from ssdconv.ssd_ref.networks.registry import network
from ssdconv.ssd_ref.networks.small import narrowed
from ssdconv.ssd_ref.priors import prior_boxes

pytestmark = pytest.mark.usefixtures("one_thread")

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 60 dim: 80 } } }\n'
MAPS = ((8, (10, 16, 24), 8, 10), (16, (32, 48), 4, 5))
"""Step, sides of the boxes, rows, columns: the kind of Ultra-Light-Fast-Generic-Face-Detector-1MB, made small."""


def layer(kind: str, name: str, bottoms: str, **params: str) -> str:
    read = " ".join(f'bottom: "{b}"' for b in bottoms.split())
    told = " ".join(f"{key}_param {{ {text} }}" for key, text in params.items())
    return f'layer {{ name: "{name}" type: "{kind}" {read} top: "{name}" {told} }}\n'


def face_net(last: str = "Softmax") -> str:
    """A net that ends in ``boxes`` (1, P, 4) and ``scores`` (1, P, 2)."""
    text = layer("Convolution", "c0", "data", convolution="num_output: 8 kernel_size: 5 stride: 4 pad: 2")
    text += layer("ReLU", "r0", "c0") + layer(
        "Convolution", "c1", "r0", convolution="num_output: 8 kernel_size: 3 stride: 2 pad: 1"
    )
    text += layer("Convolution", "c2", "c1", convolution="num_output: 8 kernel_size: 3 stride: 2 pad: 1")
    for index, (_, sides, _, _) in enumerate(MAPS, 1):
        for kind, values in (("loc", 4), ("conf", 2)):
            at = f"{kind}{index}"
            count = len(sides) * values
            text += layer("Convolution", at, f"c{index}", convolution=f"num_output: {count} kernel_size: 3 pad: 1")
            text += layer("Permute", f"{at}_p", at, permute="order: 0 order: 2 order: 3 order: 1")
            text += layer("Reshape", f"{at}_r", f"{at}_p", reshape=f"shape {{ dim: 1 dim: -1 dim: {values} }}")
    text += layer("Concat", "boxes", "loc1_r loc2_r", concat="axis: 1")
    text += layer("Concat", "raw", "conf1_r conf2_r", concat="axis: 1")
    return text + (
        layer("Softmax", "scores", "raw", softmax="axis: 2") if last == "Softmax" else layer(last, "scores", "raw")
    )


FACES: dict[str, Any] = {
    "pixels": {"order": "RGB", "mean": 127, "std": 128},
    "priors": {
        "clip": "centers",
        "variances": [0.1, 0.2],
        "maps": [{"step": step, "min_sizes": list(sides)} for step, sides, _, _ in MAPS],
    },
    "detection": {"score_threshold": 0.4, "top_k": 200, "nms_threshold": 0.3, "nms_epsilon": 1e-5, "keep_top_k": -1},
    "classes": ["background", "face"],
}


Made = tuple[Path, Path]


@pytest.fixture(scope="module")
def faces(caffe_file: Callable[..., Made], tmp_path_factory: pytest.TempPathFactory) -> Made:
    return caffe_file(INPUT + face_net(), tmp_path_factory.mktemp("faces"), 5)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    image = cv2.resize(np.random.default_rng(3).integers(0, 256, (9, 12, 3), dtype=np.uint8), (160, 120))
    cv2.imwrite(str(tmp_path / "a.png"), image)
    return tmp_path / "a.png"


def by_hand(weights: Path, prototxt: Path, picture: Path, activation: str = "") -> list[tuple[float, ...]]:
    """(score, xmin, ymin, xmax, ymax) in fractions, by plain loops over what OpenCV computes from the file."""
    net = cv2.dnn.readNetFromCaffe(str(prototxt), str(weights))
    net.enableFusion(False)
    net.enableWinograd(False)
    image = cv2.cvtColor(cv2.resize(cv2.imread(str(picture)), (80, 60)), cv2.COLOR_BGR2RGB).astype(np.float64)
    net.setInput(((image - 127) / 128).transpose(2, 0, 1)[None].astype(np.float32))
    locs, scores = (
        y.reshape(-1, n).astype(np.float64) for y, n in zip(net.forward(["boxes", "scores"]), (4, 2), strict=True)
    )
    if activation == "sigmoid":
        scores = 1 / (1 + np.exp(-scores))
    priors = []
    for step, sides, rows, columns in MAPS:
        for y, x, side in itertools.product(range(rows), range(columns), sides):
            prior = ((x + 0.5) * step / 80, (y + 0.5) * step / 60, side / 80, side / 60)
            priors.append([min(max(v, 0.0), 1.0) for v in prior])
    found = []
    for (dx, dy, dw, dh), (_, score), (px, py, pw, ph) in zip(locs, scores, priors, strict=True):
        cx, cy = px + 0.1 * dx * pw, py + 0.1 * dy * ph
        w, h = pw * math.exp(0.2 * dw), ph * math.exp(0.2 * dh)
        if score > 0.4:
            found.append((score, cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2))
    kept: list[tuple[float, ...]] = []
    for box in sorted(found, reverse=True)[:200]:
        if all(overlap(box, other) <= 0.3 for other in kept):
            kept.append(box)
    return kept


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    wide = max(min(a[3], b[3]) - max(a[1], b[1]), 0) * max(min(a[4], b[4]) - max(a[2], b[2]), 0)
    areas = sum((box[3] - box[1]) * (box[4] - box[2]) for box in (a, b))
    return wide / (areas - wide + 1e-5)


def write_spec(folder: Path, content: dict[str, Any]) -> Path:
    (folder / "faces.yaml").write_text(yaml.safe_dump(content))
    return folder / "faces.yaml"


def test_a_net_of_heads_alone_detects(faces: Made, picture: Path, tmp_path: Path) -> None:
    weights, prototxt = faces
    convert(weights, tmp_path / "x.pth", prototxt=prototxt)
    with pytest.raises(MissingError, match="--spec FILE"):
        ssdconv.load(tmp_path / "x.pth").detect([str(picture)])
    report = convert(weights, tmp_path / "x.pth", prototxt=prototxt, spec=write_spec(tmp_path, FACES))
    model = ssdconv.load(tmp_path / "x.pth")
    found, wanted = model.detect([str(picture)])[0], by_hand(weights, prototxt, picture)
    assert len(found) == len(wanted) > 10 and model.config.class_names == ("background", "face")
    assert np.allclose(found.scores, [w[0] for w in wanted], atol=1e-5)
    assert np.allclose(found.boxes, [[w[1] * 160, w[2] * 120, w[3] * 160, w[4] * 120] for w in wanted], atol=2e-3)
    user = {c.link for c in report.evidence if c.basis == "user"}
    assert user == {"pixels", "priors", "detection rule", "classes"} and not [
        c for c in report.evidence if c.basis == "assumed"
    ]
    assert not [w for w in report.warnings if "assumed" in w or "priors" in w]


@pytest.mark.parametrize("last", ["Sigmoid", "none"])
def test_scores_by_sigmoid_in_the_net_or_behind_it(
    last: str, caffe_file: Callable[..., Made], picture: Path, tmp_path: Path
) -> None:
    """A net without an activation gives raw scores; the spec says what becomes of them."""
    text = face_net("Sigmoid") if last == "Sigmoid" else face_net("Power")
    weights, prototxt = caffe_file(INPUT + text, tmp_path, 5)
    spec = FACES | {"detection": FACES["detection"] | {"activation": "sigmoid", "background": 0}}
    convert(weights, tmp_path / "x.pth", prototxt=prototxt, spec=spec_of(spec))
    wanted = by_hand(weights, prototxt, picture, "" if last == "Sigmoid" else "sigmoid")
    found = ssdconv.load(tmp_path / "x.pth").detect([str(picture)])[0]
    assert len(found) == len(wanted) > 5
    assert np.allclose(found.scores, [w[0] for w in wanted], atol=1e-5)


@pytest.mark.parametrize(("boxes", "unit"), [("corners", (1, 1)), ("pixel_corners", (80, 60))])
def test_boxes_that_the_net_decoded_itself(
    boxes: str, unit: tuple[int, int], faces: Made, picture: Path, tmp_path: Path
) -> None:
    weights, prototxt = faces
    detection = {"boxes": boxes, "score_threshold": 0.4, "nms_threshold": 1.0, "top_k": -1, "keep_top_k": -1}
    spec = spec_of({"pixels": FACES["pixels"], "detection": detection})
    convert(weights, tmp_path / "x.pth", prototxt=prototxt, spec=spec)
    model = ssdconv.load(tmp_path / "x.pth")
    assert model.config.num_priors == 280
    x = torch.randn(1, 3, 60, 80)
    with torch.inference_mode():
        loc, conf = model(x)
        (found,) = model.postprocess(loc, conf)
    scores = conf.softmax(-1)[0, :, 1]
    order = scores.argsort(descending=True, stable=True)[: int((scores > 0.4).sum())]
    assert len(found) == len(order) > 20
    assert torch.allclose(found.boxes, loc[0, order] / torch.tensor([*unit, *unit]), rtol=1e-6, atol=0)


def test_detect_says_what_was_assumed(
    faces: Made, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = spec_of({k: v for k, v in FACES.items() if k != "pixels"})
    for name, spec in (("half", half), ("whole", spec_of(FACES))):
        convert(faces[0], tmp_path / f"{name}.pth", prototxt=faces[1], spec=spec)
    assert cli.main(["detect", str(picture), "--weights", str(tmp_path / "half.pth")]) == 0
    said = capsys.readouterr()
    assert "does not say: pixels (" in said.err and "--spec FILE" in said.err and "assumed" not in said.out
    assert cli.main(["detect", str(picture), "--weights", str(tmp_path / "whole.pth")]) == 0
    assert "assumed" not in capsys.readouterr().err


def test_verify_and_inspect_remember_it(
    faces: Made, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, prototxt = faces
    spec = write_spec(tmp_path, FACES)
    assert (
        cli.main(["caffe2pt", str(weights), str(tmp_path / "x.pth"), "--prototxt", str(prototxt), "--spec", str(spec)])
        == 0
    )
    assert "given by the user: spec faces: RGB, (x - 127) / 128" in capsys.readouterr().out
    spec.unlink()
    provenance = read(tmp_path / "x.pth").provenance
    assert provenance["request"]["spec"] == json.loads(json.dumps(FACES)) | {"name": "faces"}
    assert {c.link for c in from_plain(provenance["evidence"]) if c.basis == "user"} >= {"priors", "pixels"}
    report = verify(tmp_path / "x.pth", weights, images=[picture])
    assert report.passed
    links = {link.link: link for link in report.links}
    assert {links[n].basis for n in ("pixels", "priors", "detection rule")} == {"user"}
    model = ssdconv.load(tmp_path / "x.pth")
    changed = read(tmp_path / "x.pth")
    from dataclasses import replace

    from ssdconv.ssd_ref.checkpoint import save

    other = replace(model.config, pixels=replace(model.config.pixels, mean=(0.0, 0.0, 0.0)))
    save(tmp_path / "y.pth", other, changed.state_dict, changed.provenance)
    assert not verify(tmp_path / "y.pth", weights, images=[picture]).passed


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"pixels": {"mean": 90}}, "pixels.mean"),
        ({"pixels": {"std": 2.0}}, "pixels.std"),
        ({"detection": {"nms_threshold": 0.3}}, "detection.nms_threshold"),
        ({"detection": {"activation": "sigmoid"}}, "detection.activation"),
        ({"detection": {"boxes": "corners"}}, "detection.boxes"),
        ({"priors": {"variances": 0.3}}, "priors"),
        ({"priors": {"maps": [{"grid": [38, 38], "boxes": [[1, 1]] * 4}]}}, "priors"),
        ({"input": {"height": 304, "width": 300}}, "input"),
    ],
)
def test_a_contradiction_is_refused_unless_overridden(content: dict[str, Any], key: str, tmp_path: Path) -> None:
    weights, prototxt = told(tmp_path)
    with pytest.raises(
        UsageError, match=f"contradicts the file: {re.escape(key)} .*which the file states.*got"
    ) as caught:
        convert(weights, tmp_path / "y.pth", prototxt=prototxt, spec=spec_of(content))
    assert f"override: [{key}]" in str(caught.value)
    if (key == "priors" and "maps" in content["priors"]) or key in ("input", "detection.boxes"):
        return  # these need more than one key
    report = convert(weights, tmp_path / "y.pth", prototxt=prototxt, spec=spec_of(content | {"override": [key]}))
    assert any("instead of what the file states" in c.text and c.basis == "user" for c in report.evidence)


def told(folder: Path) -> Made:
    """A narrow SSD300 whose prototxt tells pixels, priors and rule."""
    config = narrowed(network("ssd300_voc", "caffe", None), 4)
    weights, prototxt = source("caffe").module.write(
        config, seeded_tensors(config, 1), folder / "x.caffemodel", Request()
    )
    data = 'layer { name: "d" type: "ImageData" top: "x" transform_param { mean_value: 104 mean_value: 117 mean_value: 123 } }'
    prototxt.write_text(prototxt.read_text() + data)
    return weights, prototxt


def test_what_agrees_stays_the_file_s_statement(tmp_path: Path) -> None:
    weights, prototxt = told(tmp_path)
    plain = convert(weights, tmp_path / "a.pth", prototxt=prototxt)
    same = {
        "input": {"height": 300, "width": 300},
        "pixels": {"order": "BGR", "mean": [104, 117, 123], "scale": 1},
        "detection": {"nms_threshold": 0.45, "background": 0},
    }
    again = convert(weights, tmp_path / "b.pth", prototxt=prototxt, spec=spec_of(same))
    assert plain.config == again.config
    assert {(c.link, c.basis) for c in plain.evidence} <= {(c.link, c.basis) for c in again.evidence}


FILES = {
    "caffe": ("ssd300_voc", "x.caffemodel"),
    "gluon": ("ssd_300_mobilenet0.25_voc", "x.params"),
    "keras": ("jedol_ssd300_vgg16_voc", "x.h5"),
    "chainer": ("ssd300_voc", "x.npz"),
    "tensorflow": ("hikapok_ssd300_vgg16_voc", "x.ckpt"),
    "pytorch": ("ssd_pytorch_ssd300_voc", "x.pth"),
}


@pytest.mark.parametrize("system", FILES)
def test_it_works_for_every_source(system: str, tmp_path: Path) -> None:
    name, file = FILES[system]
    config = narrowed(network(name, system, None), 4)
    written = source(system).module.write(config, seeded_tensors(config, 1), tmp_path / file, Request())
    maps = [
        {"grid": list(m.grid), "step": list(m.step), "boxes": [[round(side, 3) + 1 for side in c] for c in m.box_sizes]}
        for m in config.priors
    ]
    spec = {
        "pixels": {"mean": [1, 2, 3], "scale": 0.5, "resize": "pil_bilinear"},
        "priors": {"maps": maps, "variances": [0.2, 0.3]},
        "detection": {"score_threshold": 0.25, "top_k": 77},
        "classes": [f"thing{i}" for i in range(20)],
        "override": ["pixels", "priors", "detection"],
    }
    order = "RGB" if system == "pytorch" else None
    report = convert(written[0], tmp_path / "out.safetensors", channel_order=order, spec=spec_of(spec))
    made = read(tmp_path / "out.safetensors").config
    assert (made.pixels.mean, made.pixels.scale, made.pixels.resize) == ((1.0, 2.0, 3.0), 0.5, "pil_bilinear")
    assert (made.detect.score_threshold, made.detect.top_k) == (0.25, 77)
    assert made.class_names == ("background", *(f"thing{i}" for i in range(20)))
    assert made.priors[0].box_sizes[0][0] == pytest.approx(config.priors[0].box_sizes[0][0] + 1, abs=1e-3)
    assert made.priors[0].variances == (0.2, 0.2, 0.3, 0.3) and made.num_priors == config.num_priors
    basis = {c.link: c.basis for c in report.evidence if c.basis == "user"}
    assert basis.keys() >= {"pixels", "priors", "detection rule", "classes"}


def test_priors_must_be_as_many_as_boxes(faces: Made, tmp_path: Path) -> None:
    priors = FACES["priors"] | {"maps": FACES["priors"]["maps"][:1]}
    with pytest.raises(FormatError, match=r"expected 280 for an input of 80x60, got 240 priors \(8x10x3\)"):
        convert(faces[0], tmp_path / "x.pth", prototxt=faces[1], spec=spec_of({"priors": priors}))
    with pytest.raises(FormatError, match=r"first layer.*expected BGR"):
        convert(faces[0], tmp_path / "x.pth", prototxt=faces[1], spec=spec_of({"pixels": {"order": "GRAY"}}))
    with pytest.raises(FormatError, match="background is no class"):
        convert(faces[0], tmp_path / "x.pth", prototxt=faces[1], spec=spec_of({"detection": {"background": 2}}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pixels: {meen: 3}", r"f\.yaml, pixels: unknown key 'meen'.*\n.*did you mean 'mean'"),
        ("mean: 3", r"unknown key 'mean'"),
        ("nms_threshold: 3", r"unknown key 'nms_threshold'.*\n.*stands under 'detection.nms_threshold'"),
        ("priors: {maps: [{stp: 3}]}", r"priors.maps\[0\]: unknown key 'stp'.*\n.*'step'"),
        ("input: {height: 0, width: 3}", r"key input.height: .*>= 1"),
        ("input: {height: 5}", r"key input: .*width"),
        ("pixels: {order: GREY}", r"key pixels.order: .*GREY"),
        ("pixels: {std: 0}", r"key pixels.std"),
        ("pixels: {mean: [1, 2, 3, 4]}", r"key pixels.mean"),
        ("detection: {top_k: -2}", r"key detection.top_k: .*>= -1"),
        ("override: [pixel.mean]", r"override: unknown key 'pixel.mean'.*\n.*'pixels.mean'"),
        ("priors: {maps: []}", r"key priors.maps: .*length >= 1"),
        ("priors: {maps: [{step: 8, min_sizes: [3]}]}\ndetection: {boxes: corners}", r"exclude each other"),
        ("[1]", r"key \(top\)"),
        ("a: [", r"not YAML"),
    ],
)
def test_a_spec_s_mistakes_are_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(text)
    with pytest.raises(FormatError, match=message):
        read_spec(tmp_path / "f.yaml")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"min_sizes": [3]}, "needs its grid or its step"),
        ({"step": 8}, "either boxes, or min_sizes"),
        ({"step": 8, "min_sizes": [3], "boxes": [[1, 2]]}, "got boxes, min_sizes"),
        ({"step": 8, "min_sizes": [3, 4], "max_sizes": [5]}, "counts|no maximum or one for each"),
        ({"step": 8, "min_sizes": [3], "variances": [1, 2, 3]}, "two .centre, size. or four"),
    ],
)
def test_a_map_s_mistakes_are_named(entry: dict[str, Any], message: str) -> None:
    spec = spec_of({"priors": {"maps": [entry]}})
    assert isinstance(spec, Spec)
    with pytest.raises(FormatError, match=message):
        prior_maps(spec.priors, (60, 80))  # type: ignore[arg-type]


def test_json_and_empty_specs(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(FACES))
    (tmp_path / "b.yaml").write_text("")
    assert read_spec(tmp_path / "a.json") == spec_of(FACES, name="a")
    assert read_spec(tmp_path / "b.yaml").to_plain() == {"name": "b"}
    with pytest.raises(MissingError, match="--spec-template"):
        read_spec(tmp_path / "c.yaml")


def test_tables_as_each_family_writes_them() -> None:
    """ssd.pytorch's and Caffe's parameters make the priors of the named networks; fractions make those of the same pixels."""
    ours = network("ssd300_voc", "caffe", None).priors
    steps, mins, maxs = (8, 16, 32, 64, 100, 300), (30, 60, 111, 162, 213, 264), (60, 111, 162, 213, 264, 315)
    ratios = ([2], [2, 3], [2, 3], [2, 3], [2], [2])
    rows = zip(steps, mins, maxs, ratios, (38, 19, 10, 5, 3, 1), strict=True)
    maps = [{"grid": [g, g], "step": s, "min_sizes": [a], "max_sizes": [b], "ratios": r} for s, a, b, r, g in rows]
    caffe = spec_of({"priors": {"rounding": "caffe", "maps": maps}}).priors
    assert torch.equal(prior_boxes(prior_maps(caffe, (300, 300)), (300, 300)), prior_boxes(ours, (300, 300)))  # type: ignore[arg-type]
    for entry in maps:
        entry.update(
            step=entry["step"] / 300, min_sizes=[entry["min_sizes"][0] / 300], max_sizes=[entry["max_sizes"][0] / 300]
        )
    plain = spec_of({"priors": {"unit": "fraction", "clip": "centers", "maps": maps}}).priors
    clamped = network("ssd_pytorch_ssd300_voc", "pytorch", None).priors
    made = prior_boxes(prior_maps(plain, (300, 300)), (300, 300))  # type: ignore[arg-type]
    assert torch.allclose(made, prior_boxes(clamped, (300, 300)), atol=1e-6)


def test_defaults_of_a_map_and_its_own() -> None:
    spec = spec_of(
        {"priors": {"offset": 0.25, "variances": 0.1, "maps": [{"grid": [2, 4], "boxes": [[3, 5]], "clip": "corners"}]}}
    )
    wanted = PriorMap((2, 4), (30.0, 20.0), ((3.0, 5.0),), 0.25, "corners", (0.1, 0.1, 0.1, 0.1))
    assert prior_maps(spec.priors, (60, 80)) == (wanted,)  # type: ignore[arg-type]


def test_a_template_says_what_is_lacking_and_can_be_used(
    faces: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["inspect", str(faces[0]), "--prototxt", str(faces[1]), "--spec-template"]
    assert cli.main(command) == 0
    text = capsys.readouterr().out
    assert "priors: the file tells none" in text and "280 are needed" in text and "# input: {height: 60" in text
    assert spec_of(yaml.safe_load(text)).to_plain().keys() == {"name", "pixels", "detection"}
    convert(faces[0], tmp_path / "x.pth", prototxt=faces[1], spec=spec_of(yaml.safe_load(text)))
    assert cli.main([*command, "--json"]) == 0 and json.loads(capsys.readouterr().out)["template"] == text


def test_a_template_with_every_line_is_the_network_itself(tmp_path: Path) -> None:
    weights, prototxt = told(tmp_path)
    text = template(weights, prototxt)
    lines = [
        re.sub(r"^# (?=( *- |  |input:|pixels:|priors:|detection:|classes:))", "", line) for line in text.splitlines()
    ]
    full = spec_of(yaml.safe_load("\n".join(line for line in lines if not line.startswith("# "))))
    assert full.to_plain().keys() == {"name", "input", "pixels", "priors", "detection", "classes"}
    plain = convert(weights, tmp_path / "a.pth", prototxt=prototxt).config
    made = convert(weights, tmp_path / "b.pth", prototxt=prototxt, spec=full).config
    assert (plain.pixels, plain.priors, plain.detect) == (made.pixels, made.priors, made.detect)


def test_a_template_of_a_file_without_input_size(faces: Made, tmp_path: Path, caffe_file: Callable[..., Made]) -> None:
    from ssdconv.converters.caffe.prototxt import read_prototxt
    from ssdconv.converters.caffe.reader import read_caffemodel
    from ssdconv.converters.caffe.writer import write_caffemodel

    silent = tmp_path / "silent.prototxt"
    silent.write_text('input: "data"\n' + face_net())
    with read_caffemodel(faces[0]) as table:
        from dataclasses import replace

        net = read_prototxt(silent)
        shapes = {la.name: la.blobs for la in table.found(CaffeNet).layers}
        layers = tuple(replace(la, blobs=shapes.get(la.name, ())) for la in net.layers)
        write_caffemodel(
            replace(net, layers=layers), {n: np.array(t.load()) for n, t in table.items()}, tmp_path / "s.caffemodel"
        )
    with pytest.raises(SsdconvError, match="--spec FILE"):
        convert(tmp_path / "s.caffemodel", tmp_path / "x.pth")
    text = template(tmp_path / "s.caffemodel")
    assert "\ninput: {height: 300, width: 300}  # the file tells none" in text
    spec = write_spec(tmp_path, FACES | {"input": {"height": 60, "width": 80}})
    report = convert(tmp_path / "s.caffemodel", tmp_path / "x.pth", spec=spec)
    assert report.config.pixels == Preprocess((60, 80), "RGB", (127.0,) * 3, (128.0,) * 3)
    assert any(c.link == "architecture" and c.basis == "user" and "80x60" in c.text for c in report.evidence)
    assert verify(tmp_path / "x.pth", tmp_path / "s.caffemodel").passed


def test_the_documentation_s_specs_are_specs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "spec.md").read_text()
    blocks = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        assert prior_maps(spec_of(yaml.safe_load(block)).priors, (240, 320))  # type: ignore[arg-type]
    keys = set(re.findall(r"`([a-z_]+\.[a-z_]+)`", text))
    for name, parts in {"detection": SpecDetection, "pixels": SpecPixels}.items():
        for key in parts.__struct_fields__:
            assert f"{name}.{key}" in keys or f"`.{key}`" in text, f"{name}.{key} is not documented"
