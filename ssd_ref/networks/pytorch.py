"""SSD300 on VGG16 as PyTorch projects have it: amdegroot/ssd.pytorch, HosinPrime/simple-ssd-for-beginners, torchvision.

ssd.pytorch and simple-ssd clamp their priors' centre, width and height to the image; torchvision (0.28, run live) clamps width
and height only, so that centres of the 10x10 map's last column and row, at 304 pixels, stay outside. Which channel order conv1_1
reads is a fact of the file for ssd.pytorch: files trained by that code are RGB, files made from Caffe weights are BGR;
simple-ssd feeds BGR, torchvision RGB.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ssdconv.errors import UsageError
from ssdconv.ssd_ref.classes import BACKGROUND, COCO, names_for
from ssdconv.ssd_ref.config import L2NormSpec, Postprocess, Preprocess, PriorMap, SSDConfig
from ssdconv.ssd_ref.networks.caffe import SIZES, prior_maps, vgg_staged

Order = Literal["RGB", "BGR"]

MEANS: Mapping[str, tuple[float, float, float]] = {"RGB": (123.0, 117.0, 104.0), "BGR": (104.0, 117.0, 123.0)}
"""Mean per channel order, of ssd.pytorch and simple-ssd."""

TORCHVISION_PIXELS = Preprocess(
    (300, 300),
    "RGB",
    (0.48235, 0.45882, 0.40784),
    (1 / 255, 1 / 255, 1 / 255),
    255.0,
    resize="torch_bilinear",
)
"""torchvision.models.detection.ssd: mean on [0, 1], standard deviation 1/255. It normalises before it resizes."""

SSD_PYTORCH = Postprocess(top_k=200, keep_top_k=-1)
"""layers/functions/detection.py: 200 candidates per class; its limit over all classes has no effect."""
SIMPLE_SSD = Postprocess(score_inclusive=True, top_k=-1, nms_threshold=0.5, keep_top_k=-1)
TORCHVISION = Postprocess(clip="before_nms", max_exponent=math.log(1000.0 / 16))
"""Candidates 400 per class, 200 boxes per image; the decoder caps dw and dh."""


@dataclass(frozen=True)
class Kind:
    """What one project's networks have in common.

    Attributes:
        style: the project's word in ``converters.pytorch.styles``.
        order: channel order that its code feeds.
        l2norm, detect: as in the config.
        sizes: whose prior sizes, a key of ``networks.caffe.SIZES``.
        num_classes: of the published network.
    """

    style: str
    order: Order
    l2norm: L2NormSpec
    detect: Postprocess
    sizes: str
    num_classes: int


_OUTSIDE = L2NormSpec(1e-10, "outside")

KINDS: dict[str, Kind] = {
    "ssd_pytorch_ssd300_voc": Kind("ssd.pytorch", "RGB", _OUTSIDE, SSD_PYTORCH, "ssd300_voc", 21),
    "ssd_pytorch_ssd300_coco": Kind("ssd.pytorch", "RGB", _OUTSIDE, SSD_PYTORCH, "ssd300_coco", 81),
    "ssd_pytorch_ssd300_coco201": Kind("ssd.pytorch", "RGB", _OUTSIDE, SSD_PYTORCH, "ssd300_coco", 201),
    "simple_ssd_ssd300_voc": Kind("simple-ssd", "BGR", _OUTSIDE, SIMPLE_SSD, "ssd300_voc", 21),
    "torchvision_ssd300_vgg16": Kind(
        "torchvision", "RGB", L2NormSpec(1e-12, "max_norm"), TORCHVISION, "ssd300_coco", 91
    ),
}
"""Network name -> its kind. ssd.pytorch's own COCO configuration says 201 classes; files from Caffe have 81."""
COCO201 = ("ssd_pytorch_ssd300_coco201", 201)
"""Name and channels of the network that ssd.pytorch's own COCO configuration makes: no other has so many."""


def pytorch(name: str, num_classes: int | None = None, *, width: int = 64, order: str | None = None) -> SSDConfig:
    """One of ``KINDS``.

    Args:
        num_classes: conf channels per prior, background included; torchvision's 91 are COCO's ids as they are.
        width: channels of conv1; 64 is the published network.
        order: channel order that conv1_1 reads, "RGB" or "BGR"; None for what the project's code feeds.

    Raises:
        UsageError: another order than RGB for torchvision, or an unknown one.
    """
    kind = KINDS[name]
    order = order or kind.order
    if order not in MEANS or (kind.style == "torchvision" and order != "RGB"):
        raise UsageError(
            f"{name} cannot read {order} pixels", expected="RGB" if kind.style == "torchvision" else "RGB or BGR"
        )
    count = num_classes or kind.num_classes
    if kind.style == "torchvision":
        pixels = TORCHVISION_PIXELS
    else:
        pixels = Preprocess((300, 300), "RGB" if order == "RGB" else "BGR", MEANS[order])
    return SSDConfig(
        name=name,
        source="pytorch",
        num_classes=count,
        pixels=pixels,
        priors=_priors(kind),
        detect=kind.detect,
        class_names=coco201_names() if (name, count) == COCO201 else names_for(count),
        layers=vgg_staged(300, width, kind.l2norm),
    )


def coco201_names() -> tuple[str, ...]:
    """Names of ssd.pytorch's 201 channels for COCO: its label map (data/coco_labels.txt) numbers the 80 categories in ascending id from 1
    on; the 120 channels behind them were never trained for anything."""
    return (BACKGROUND, *COCO, *(f"unused {channel}" for channel in range(len(COCO) + 1, 201)))


def _priors(kind: Kind) -> tuple[PriorMap, ...]:
    maps = prior_maps(300, SIZES[kind.sizes], truncate=False)
    if kind.style != "torchvision":
        return tuple(replace(entry, clip="centers") for entry in maps)
    return tuple(
        replace(entry, box_sizes=tuple((min(w, 300.0), min(h, 300.0)) for w, h in entry.box_sizes)) for entry in maps
    )


NETWORKS = dict.fromkeys(KINDS, pytorch)
"""Network name -> builder ``(name, num_classes) -> SSDConfig``."""
