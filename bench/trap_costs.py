"""What known conversion mistakes cost two small trained detectors, on photos: faces that are lost, and boxes that are none.

The detectors are OpenCV's res10 (Caffe) and AIZOO's face-mask detector (TensorFlow graph); both find faces. Each mistake is made
alone. A face that the right network finds with a score above 0.5 is lost when no box of the same class with a score above
0.5 overlaps it with an IoU of at least 0.5; boxes without such a partner in the right network's are extra. Prints one JSON object.
Usage: ``python bench/trap_costs.py`` with ``SSDCONV_SHARED`` at the reference data.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssdconv.converters.convert import open_source
from ssdconv.converters.plan import Request
from ssdconv.ssd_ref.backbones.plain import NormSpec
from ssdconv.ssd_ref.boxes import iou_matrix
from ssdconv.ssd_ref.config import SSDConfig, Staged
from ssdconv.ssd_ref.image_file import read_image
from ssdconv.ssd_ref.model import SSD

State = dict[str, torch.Tensor]
Network = tuple[SSDConfig, State]
Mistake = Callable[[SSDConfig, State], Network]
CLEAR = 0.5


def pixels(**change: Any) -> Mistake:
    return lambda c, s: (dataclasses.replace(c, pixels=dataclasses.replace(c.pixels, **change)), s)


def rule(**change: Any) -> Mistake:
    return lambda c, s: (dataclasses.replace(c, detect=dataclasses.replace(c.detect, **change)), s)


def maps(change: Callable[[Any], Any]) -> Mistake:
    return lambda c, s: (dataclasses.replace(c, priors=tuple(change(m) for m in c.priors)), s)


def tensors(change: Callable[[str, torch.Tensor], torch.Tensor]) -> Mistake:
    return lambda c, s: (c, {n: change(n, t) for n, t in s.items()})


def yx(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if ".loc." not in name or "predictor" not in name:
        return tensor
    return tensor.unflatten(0, (-1, 4))[:, [1, 0, 3, 2]].flatten(0, 1)


def eps(config: SSDConfig, state: State) -> Network:
    """AIZOO's network with PyTorch's eps, 1e-5, where Keras has 1e-3."""
    staged = config.layers
    assert isinstance(staged, Staged) and staged.heads.before is not None
    before = dataclasses.replace(staged.heads.before, norm=NormSpec(1e-5))
    backbone = dataclasses.replace(staged.backbone, options={"norm": {"eps": 1e-5}})
    heads = dataclasses.replace(staged.heads, before=before)
    return dataclasses.replace(config, layers=dataclasses.replace(staged, backbone=backbone, heads=heads)), state


def cells(order: tuple[int, ...]) -> Mistake:
    return maps(lambda m: dataclasses.replace(m, box_sizes=tuple(m.box_sizes[k] for k in order)))


AIZOO: dict[str, Mistake] = {
    "1 channel order": pixels(order="BGR"),
    "3 resize by Pillow": pixels(resize="pil_bilinear"),
    "3 resize in float": pixels(resize="opencv_linear_float"),
    "4 anchors 0 and 1 swapped": cells((1, 0, 2, 3)),
    "5 loc as (dy, dx, dh, dw)": tensors(yx),
    "7 eps 1e-5 for 1e-3": eps,
    "13 priors clamped to the image": maps(lambda m: dataclasses.replace(m, clip="centers")),
    "15 prior sizes of another data set (x 0.8)": maps(
        lambda m: dataclasses.replace(m, box_sizes=tuple((0.8 * w, 0.8 * h) for w, h in m.box_sizes))
    ),
    "18 NMS per class at 0.45": rule(nms_scope="class", nms_margin=0.0, nms_threshold=0.45),
}
RES10: dict[str, Mistake] = {
    "1 channel order": pixels(order="RGB"),
    "2 mean order": pixels(mean=(123.0, 177.0, 104.0)),
    "3 resize by Pillow": pixels(resize="pil_bilinear"),
    "3 resize in float": pixels(resize="opencv_linear_float"),
    "8 BatchNorm's factor not applied": tensors(lambda n, t: torch.ones_like(t) if n.endswith("factor") else t),
    "13 priors clamped to the image": maps(lambda m: dataclasses.replace(m, clip="centers")),
    "18 top 200 per image for 400 per class": rule(top_k=200, top_k_scope="image"),
}


def detect(network: Network, photos: list[np.ndarray]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(labels, boxes in pixels) with a score above ``CLEAR``, per photo."""
    config, state = network
    model = SSD(config)
    model.load_state_dict(state)
    found = [model.eval().detect([photo], CLEAR)[0] for photo in photos]
    return [(d.labels, d.boxes) for d in found]


def compare(truth: list[Any], other: list[Any]) -> dict[str, int]:
    lost = extra = 0
    for (labels, boxes), (labels2, boxes2) in zip(truth, other, strict=True):
        same = (iou_matrix(boxes[None], boxes2[None])[0] >= 0.5) & (labels[:, None] == labels2[None])
        lost += int((~same.any(1)).sum()) if len(labels2) else len(labels)
        extra += int((~same.any(0)).sum()) if len(labels) else len(labels2)
    return {"faces": sum(len(n) for n, _ in truth), "lost": lost, "extra": extra}


def main() -> None:
    shared = Path(os.environ.get("SSDCONV_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    files = [*(shared / "data/images").glob("*.jpg"), *(shared / "data/coco_val2017_subset/val2017").glob("*.jpg")]
    photos = [read_image(path) for path in sorted(files)]
    folder = shared / "weights" / "res10_face_ssd"
    nets = (
        ("aizoo", shared / "weights/aizoo_facemask/face_mask_detection.pb", None, {}, AIZOO),
        (
            "res10",
            folder / "res10_300x300_ssd_iter_140000.caffemodel",
            folder / "deploy.prototxt",
            {"mean": (104.0, 177.0, 123.0)},
            RES10,
        ),
    )
    result: dict[str, Any] = {"bench": "trap_costs", "photos": len(photos)}
    for name, path, prototxt, told, mistakes in nets:
        opened = open_source(path, None, Request(prototxt=prototxt))
        with opened.table as table:
            pairs = opened.plan.mapping.forward(table)
            state = {entry.target: torch.from_numpy(array.copy()) for entry, array in pairs}
        right = pixels(**told)(opened.plan.config, state)
        truth = detect(right, photos)
        result[name] = {trap: compare(truth, detect(make(*right), photos)) for trap, make in mistakes.items()}
        result[name]["none"] = compare(truth, detect(right, photos))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
