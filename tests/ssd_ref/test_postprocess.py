"""Detections against the original Caffe's, OpenCV's DetectionOutput run live, and a plain loop over the rule.

Forms of detections: pixels, JSON, NumPy, thresholds, and Caffe's rows.
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from ssdconv.errors import FormatError
from ssdconv.ssd_ref.boxes import iou_matrix
from ssdconv.ssd_ref.config import Postprocess, PriorMap
from ssdconv.ssd_ref.postprocess import Detections, caffe_rows, detect, detect_with
from ssdconv.ssd_ref.priors import Priors

VARIANCES = torch.tensor([0.1, 0.1, 0.2, 0.2])


def some_heads(
    seed: int, images: int, priors: int, classes: int, boxes: int = 1, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor, Priors]:
    make = torch.Generator().manual_seed(seed)
    low = torch.rand(priors, 2, generator=make) * 0.8
    corners = torch.cat([low, low + 0.05 + 0.3 * torch.rand(priors, 2, generator=make)], 1)
    loc = torch.randn(images, priors, boxes * 4, generator=make)
    conf = torch.randn(images, priors, classes, generator=make) * 2
    made = Priors.from_corners(corners.to(dtype), VARIANCES.expand(priors, 4).to(dtype))
    return loc.to(dtype), conf.to(dtype), made


GOLDEN = {
    "voc": Postprocess(activation="none"),
    "dense": Postprocess(activation="none"),
    "corner": Postprocess(activation="none", code="corner"),
    "variance_encoded": Postprocess(activation="none", variance_encoded=True),
    "keep_all": Postprocess(activation="none", keep_top_k=-1),
    "nothing": Postprocess(activation="none", score_threshold=0.9999),
}


@pytest.mark.shared
@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_to_the_original_caffe(shared: Path, name: str, dtype: torch.dtype) -> None:
    data = np.load(shared / "golden/detection_output.npz")
    classes = json.loads((shared / "golden/detection_output.json").read_text())[name]["classes"]
    loc, conf, priors, rows = (torch.from_numpy(data[f"{name}/{part}"]) for part in ("loc", "conf", "priors", "out"))
    corners, variances = priors.view(2, -1, 4).to(dtype)
    count = len(corners)
    heads = loc.view(2, count, 4).to(dtype), conf.view(2, count, classes).to(dtype)
    ours = caffe_rows(detect_with(*heads, Priors.from_corners(corners, variances), GOLDEN[name]))
    theirs = rows.numpy()
    assert ours.shape == theirs.shape
    np.testing.assert_array_equal(ours[:, :3], theirs[:, :3])  # item, label, score: same rows in the same order
    np.testing.assert_allclose(ours[:, 3:], theirs[:, 3:], rtol=0, atol=2.5e-7)


def opencv(loc: torch.Tensor, scores: torch.Tensor, priors: Priors, rule: Postprocess) -> np.ndarray[Any, Any]:
    """Rows of OpenCV's DetectionOutput layer for one image.

    It reads no variances when they are encoded, fills up to ``keep_top_k`` rows with zeros (-1 would crash it), and
    takes a shared box for the background when there is no background class.
    """
    classes, count = scores.shape[1], len(priors)
    text = f"""
    input: "loc" input_shape {{ dim: 1 dim: {loc.numel()} }}
    input: "conf" input_shape {{ dim: 1 dim: {scores.numel()} }}
    input: "prior" input_shape {{ dim: 1 dim: {2 - rule.variance_encoded} dim: {count * 4} }}
    layer {{ name: "out" type: "DetectionOutput" bottom: "loc" bottom: "conf" bottom: "prior" top: "out"
      detection_output_param {{ num_classes: {classes} share_location: {str(rule.share_location).lower()}
        background_label_id: {-1 if rule.background is None else rule.background} keep_top_k: {rule.keep_top_k}
        nms_param {{ nms_threshold: {rule.nms_threshold} top_k: {rule.top_k} }} code_type: {rule.code.upper()}
        confidence_threshold: {rule.score_threshold}
        variance_encoded_in_target: {str(rule.variance_encoded).lower()} }} }}"""
    net = cv2.dnn.readNetFromCaffe(np.frombuffer(text.encode(), np.uint8))
    net.setInput(loc.reshape(1, -1).numpy(), "loc")
    net.setInput(scores.reshape(1, -1).numpy(), "conf")
    blob = torch.stack([priors.corners, priors.variances]).view(1, 2, -1)
    net.setInput(blob[:, : 2 - rule.variance_encoded].contiguous().numpy(), "prior")
    rows = np.asarray(net.forward()).reshape(-1, 7)
    return rows[rows[:, 2] > 0]


@pytest.mark.parametrize(
    "rule",
    [
        Postprocess(),
        Postprocess(top_k=30, keep_top_k=25),
        Postprocess(top_k=9999, keep_top_k=9999, nms_threshold=0.2),
        Postprocess(score_threshold=0.3, nms_threshold=0.6),
        Postprocess(background=2),
        Postprocess(code="corner"),
        Postprocess(code="corner", variance_encoded=True),
        Postprocess(variance_encoded=True),
        Postprocess(share_location=False),
        Postprocess(share_location=False, background=None, keep_top_k=40),
    ],
    ids=lambda rule: ",".join(f"{k}={v}" for k, v in vars(rule).items() if v != getattr(Postprocess(), k)) or "voc",
)
def test_equal_to_opencv(rule: Postprocess) -> None:
    loc, conf, priors = some_heads(3, 3, 250, 5, 1 if rule.share_location else 5)
    found = detect_with(loc, conf, priors, rule)
    for image in range(3):
        theirs = opencv(loc[image], conf[image].softmax(-1), priors, rule)
        ours = caffe_rows(found[image : image + 1])
        assert len(ours) == len(theirs) > 20
        theirs = theirs[np.lexsort((-theirs[:, 2], theirs[:, 1]))]
        np.testing.assert_allclose(ours[:, 1:3], theirs[:, 1:3], rtol=0, atol=1e-6)
        np.testing.assert_allclose(ours[:, 3:], theirs[:, 3:], rtol=0, atol=2e-6)


def plain(
    loc: torch.Tensor, conf: torch.Tensor, priors: Priors, rule: Postprocess
) -> list[tuple[float, int, int, tuple[float, ...]]]:
    """One image by the words of Postprocess: (score, label, prior, box), with lists and loops."""
    logits, loc = conf.tolist(), loc.view(len(conf), -1, 4)
    rows = []
    for prior, label in itertools.product(range(len(logits)), range(len(logits[0]))):
        row = logits[prior]
        if rule.activation == "softmax":
            score = math.exp(row[label]) / sum(math.exp(value) for value in row)
        else:
            score = 1 / (1 + math.exp(-row[label])) if rule.activation == "sigmoid" else row[label]
        passes = score >= rule.score_threshold if rule.score_inclusive else score > rule.score_threshold
        if not passes or label == rule.background:
            continue
        d = loc[prior, 0 if rule.share_location else label].tolist()
        v = [1.0] * 4 if rule.variance_encoded else priors.variances[prior].tolist()
        (x0, y0, x1, y1), side = priors.corners[prior].tolist(), 1.0
        w, h = x1 - x0, y1 - y0
        if rule.code == "center_size":
            cx, cy = (x0 + x1) / 2 + v[0] * d[0] * w, (y0 + y1) / 2 + v[1] * d[1] * h
            most = math.inf if rule.max_exponent is None else rule.max_exponent
            w, h = w * math.exp(min(v[2] * d[2], most)), h * math.exp(min(v[3] * d[3], most))
            box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
        else:
            scale = (w, h, w, h) if rule.code == "corner_size" else (side,) * 4
            box = [p + a * b * s for p, a, b, s in zip((x0, y0, x1, y1), v, d, scale, strict=True)]
        if rule.clip == "before_nms":
            box = [min(max(value, 0.0), 1.0) for value in box]
        if rule.min_size > 0 and not (box[2] - box[0] > rule.min_size and box[3] - box[1] > rule.min_size):
            continue
        rows.append((score, label, prior, tuple(box)))
    rows.sort(key=lambda row: (-row[0], row[1], row[2]))
    if rule.top_k_scope == "image" and rule.top_k >= 0:
        rows = rows[: rule.top_k]
    kept = []
    for label in range(len(logits[0])):
        mine = [row for row in rows if row[1] == label]
        if rule.top_k_scope == "class" and rule.top_k >= 0:
            mine = mine[: rule.top_k]
        limit, chosen = rule.nms_threshold, []
        for row in mine:
            others = torch.tensor([other[3] for other in chosen], dtype=torch.float64).view(-1, 4)
            worst = iou_matrix(torch.tensor([row[3]], dtype=torch.float64), others)[0].tolist()
            if all(value < limit if rule.nms_inclusive else value <= limit for value in worst):
                chosen.append(row)
                limit = limit * rule.nms_eta if rule.nms_eta < 1 and limit > 0.5 else limit
        kept += chosen[: rule.max_per_class] if rule.max_per_class >= 0 else chosen
    kept.sort(key=lambda row: (-row[0], row[1], row[2]))
    if rule.clip == "after":
        kept = [(*row[:3], tuple(min(max(value, 0.0), 1.0) for value in row[3])) for row in kept]
    return kept[: rule.keep_top_k] if rule.keep_top_k >= 0 else kept


RULES = {
    "gluon": Postprocess(top_k=60, top_k_scope="image", keep_top_k=30),
    "gluon, all kept": Postprocess(top_k=40, top_k_scope="image", keep_top_k=-1),
    "gluon, no limit": Postprocess(top_k=-1, top_k_scope="image", keep_top_k=100),
    "chainer": Postprocess(score_inclusive=True, top_k=-1, nms_inclusive=True, keep_top_k=-1),
    "jedol": Postprocess(top_k=-1, clip="before_nms", min_size=1e-9, max_per_class=400, keep_top_k=200),
    "hikapok": Postprocess(top_k=20, clip="before_nms", min_size=0.2, max_per_class=5, keep_top_k=-1),
    "clip after": Postprocess(clip="after", top_k=25),
    "sigmoid, no background": Postprocess(activation="sigmoid", background=None, score_threshold=0.6),
    "raw scores": Postprocess(activation="none", score_threshold=-0.5, background=None),
    "last class is background": Postprocess(background=3),
    "adaptive": Postprocess(nms_threshold=0.9, nms_eta=0.8),
    "torchvision": Postprocess(clip="before_nms", max_exponent=0.1),
    "corner size": Postprocess(code="corner_size"),
    "corner size, encoded": Postprocess(code="corner_size", variance_encoded=True, share_location=False),
    "one box per class": Postprocess(share_location=False, top_k=10, keep_top_k=12),
    "nothing kept": Postprocess(keep_top_k=0),
    "no candidates": Postprocess(top_k=0),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("tied", [False, True])
def test_equal_to_a_plain_loop(name: str, tied: bool) -> None:
    rule = RULES[name]
    loc, conf, priors = some_heads(17, 3, 60, 4, 1 if rule.share_location else 4, torch.float64)
    if tied:  # equal rows of logits give equal scores, within a class and across
        conf = (conf * 0.7).round()
        if rule.activation == "softmax":
            conf[:, :, 1:] = conf[:, :, 1:2]
    found = detect_with(loc, conf, priors, rule)
    for image in range(3):
        wanted, got = plain(loc[image], conf[image], priors, rule), found[image]
        if tied and rule.activation == "softmax":  # the loop's exp may round ties apart
            wanted = plain(loc[image], conf[image].softmax(-1), priors, replace(rule, activation="none"))
        assert got.labels.tolist() == [row[1] for row in wanted]
        assert got.priors.tolist() == [row[2] for row in wanted]
        assert got.scores.tolist() == pytest.approx([row[0] for row in wanted], abs=1e-12)
        boxes = torch.tensor([row[3] for row in wanted], dtype=torch.float64).view(-1, 4)
        torch.testing.assert_close(got.boxes, boxes, rtol=0, atol=1e-12)


def test_every_rule_of_the_list_matters() -> None:
    """Each rule above gives other detections than the default: the comparison is not idle.

    Chainer's differs where a limit is met exactly, see below.
    """
    for name, rule in RULES.items():
        if name == "chainer":
            continue
        loc, conf, priors = some_heads(17, 3, 60, 4, 1 if rule.share_location else 4, torch.float64)
        default = Postprocess(share_location=rule.share_location)
        pairs = zip(detect_with(loc, conf, priors, rule), detect_with(loc, conf, priors, default), strict=True)
        assert any(len(a) != len(b) or not torch.equal(a.boxes, b.boxes) for a, b in pairs), name


def test_limits_met_exactly() -> None:
    corners = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.25]])  # IoU 1/2, heights 1/2 and 1/4
    priors = Priors.from_corners(corners, VARIANCES.expand(2, 4))
    loc, conf = torch.zeros(1, 2, 4), torch.tensor([[[0.75], [0.5]]])
    rule = Postprocess(activation="none", background=None, score_threshold=0.5, nms_threshold=0.5)

    def kept(rule: Postprocess) -> list[int]:
        return detect_with(loc, conf, priors, rule)[0].priors.tolist()

    assert kept(rule) == [0]
    assert kept(replace(rule, score_inclusive=True)) == [0, 1]
    assert kept(replace(rule, score_inclusive=True, nms_inclusive=True)) == [0]
    assert kept(replace(rule, score_inclusive=True, min_size=0.25)) == [0]  # at or below
    assert kept(replace(rule, score_inclusive=True, min_size=0.2499)) == [0, 1]


def test_boxes_without_area_stay_unless_the_rule_drops_them() -> None:
    priors = Priors.from_corners(torch.tensor([[0.2, 0.2, 0.4, 0.4]]), torch.ones(1, 4))
    loc, conf = torch.tensor([[[0.5, 0.5, 0.0, 0.0]]]), torch.tensor([[[0.9]]])  # corners cross over
    rule = Postprocess(activation="none", background=None, code="corner")
    assert len(detect_with(loc, conf, priors, rule)[0]) == 1
    assert len(detect_with(loc, conf, priors, replace(rule, min_size=1e-9))[0]) == 0


def test_a_batch_is_its_images() -> None:
    loc, conf, priors = some_heads(23, 5, 300, 6)
    conf[2] = torch.tensor([50.0, 0, 0, 0, 0, 0])  # an image in which nothing is found
    together = detect_with(loc, conf, priors, Postprocess())
    assert len(together) == 5 and len(together[2]) == 0
    for image in range(5):
        alone = detect_with(loc[image : image + 1], conf[image : image + 1], priors, Postprocess())[0]
        for mine, other in zip(vars(together[image]).values(), vars(alone).values(), strict=True):
            assert torch.equal(mine, other)
    assert detect_with(loc[:0], conf[:0], priors, Postprocess()) == []


def test_from_the_maps_of_a_config() -> None:
    maps = (PriorMap((2, 2), (50.0, 50.0), ((40.0, 40.0), (20.0, 60.0))),)
    conf = torch.zeros(1, 8, 2)
    conf[0, 5, 1] = 9  # row 1, column 0, second prior; nothing else passes 0.6
    found = detect(torch.zeros(1, 8, 4), conf, maps, (100, 100), Postprocess(score_threshold=0.6))[0]
    assert found.priors.tolist() == [5]
    torch.testing.assert_close(found.boxes, torch.tensor([[0.15, 0.45, 0.35, 1.05]]))


def test_results_can_be_used_in_training() -> None:
    loc, conf, priors = some_heads(1, 1, 50, 3)
    found = detect_with(loc.requires_grad_(), conf.requires_grad_(), priors, Postprocess())[0]
    weight = torch.ones(1, requires_grad=True)
    (found.scores * weight).sum().backward()
    assert weight.grad is not None and loc.grad is None


def test_heads_that_do_not_fit() -> None:
    loc, conf, priors = some_heads(2, 2, 10, 3)
    for bad_loc, bad_conf, message in (
        (loc, conf[:, :9], "conf does not fit"),
        (loc, conf[0], "conf does not fit"),
        (loc[:1], conf, "loc does not fit"),
        (loc[:, :, :3], conf, "loc does not fit"),
    ):
        with pytest.raises(FormatError, match=message):
            detect_with(bad_loc, bad_conf, priors, Postprocess())
    with pytest.raises(FormatError, match="one box per prior and class"):
        detect_with(loc, conf, priors, Postprocess(share_location=False))


@pytest.mark.parametrize("head", ["loc", "conf"])
def test_not_a_number(head: str) -> None:
    loc, conf, priors = some_heads(2, 2, 10, 3)
    (loc if head == "loc" else conf)[1, 4, 1] = float("nan")
    conf[1, 4, 2] += 9  # so that the box is a candidate
    with pytest.raises(FormatError, match=f"{head} has values that are not numbers"):
        detect_with(loc, conf, priors, Postprocess())


def test_infinite_logits_are_numbers() -> None:
    """+inf and -inf in one head sum to NaN; scores taken as they are may hold both."""
    loc, conf, priors = some_heads(2, 1, 10, 3)
    conf[0, 0, 1], conf[0, 1, 1] = float("inf"), float("-inf")
    found = detect_with(loc, conf, priors, Postprocess(activation="none"))[0]
    assert found.scores[0] == float("inf") and found.priors[0] == 0


def test_heads_that_lie_otherwise_in_memory_give_the_same() -> None:
    """A layer graph may end in a transposed view; each image's and class' own boxes too."""
    maps = (PriorMap((2, 3), (10.0, 10.0), ((8.0, 8.0),)),)
    rule = Postprocess(share_location=False, score_threshold=0.1, keep_top_k=-1)
    rng = torch.Generator().manual_seed(0)
    loc, conf = torch.randn(2, 6, 12, generator=rng), torch.randn(2, 6, 3, generator=rng)
    wanted = detect(loc, conf, maps, (20, 30), rule)
    lying = [x.permute(2, 1, 0).contiguous().permute(2, 1, 0) for x in (loc, conf)]
    assert not any(x.is_contiguous() for x in lying) and sum(map(len, wanted)) > 3
    for a, b in zip(detect(*lying, maps, (20, 30), rule), wanted, strict=True):
        assert torch.equal(a.boxes, b.boxes)


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


def _given(boxes: list[list[float]], scores: list[list[float]], rule: Postprocess) -> Detections:
    """Detections of boxes as they are, with scores (box, class)."""
    priors = Priors.from_corners(torch.zeros(len(boxes), 4), torch.ones(len(boxes), 4))
    rule = replace(rule, activation="none", code="corner")
    return detect_with(torch.tensor([boxes]), torch.tensor([scores]), priors, rule)[0]


@pytest.mark.parametrize(("clip", "left"), [("after", 2), ("before_nms", 1)])
def test_boxes_clipped_after_nms_overlap_as_they_are(clip: Any, left: int) -> None:
    """What lies outside the image keeps two boxes apart, unless it is cut away first."""
    boxes = [[-0.9, 0.0, 0.2, 1.0], [0.0, 0.0, 0.25, 1.0]]
    found = _given(boxes, [[0.0, 0.9], [0.0, 0.8]], Postprocess(background=0, clip=clip))
    assert len(found) == left and float(found.boxes.min()) == 0.0


@pytest.mark.parametrize(("competes", "labels"), [(False, [1]), (True, [])])
def test_the_best_class_is_that_of_the_objects_unless_background_competes(competes: bool, labels: list[int]) -> None:
    rule = Postprocess(background=0, nms_scope="image", background_competes=competes)
    assert _given([[0.1, 0.1, 0.5, 0.5]], [[0.6, 0.3, 0.1]], rule).labels.tolist() == labels


@pytest.mark.parametrize(("drop", "kept"), [(True, [1]), (False, [0])])
def test_boxes_without_area_after_the_clip_make_room_for_others(drop: bool, kept: list[int]) -> None:
    """The better box lies outside of the image: it counts among ``keep_top_k`` only where empty boxes stay."""
    centers = torch.tensor([[1.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2]])
    corners = torch.cat([centers[:, :2] - 0.1, centers[:, :2] + 0.1], 1)
    priors = Priors(centers, corners, torch.ones(2, 4))
    rule = Postprocess(activation="none", top_k=-1, keep_top_k=1, clip="after", drop_empty=drop)
    (found,) = detect_with(torch.zeros(1, 2, 4), torch.tensor([[[0.0, 0.9], [0.0, 0.8]]]), priors, rule)
    assert found.priors.tolist() == kept
