"""The network of HiKapok/SSD.TensorFlow: SSD300 on VGG16, trained on VOC.

It follows Caffe's with differences that names and shapes do not show: TensorFlow's SAME padding (conv7_2 pads at the bottom and
right only), the paper's own prior sizes (0.375 of the image where Caffe has 0.37), 1/3 written as 0.3333, bilinear resizing on
TensorFlow 1's grid, and boxes of at most 3 % of the image's side dropped before non-maximum suppression.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from ssdconv.ssd_ref.classes import names_for
from ssdconv.ssd_ref.config import (
    Backbone,
    Extras,
    Heads,
    L2NormSpec,
    Postprocess,
    Preprocess,
    PriorMap,
    SSDConfig,
    Staged,
)
from ssdconv.ssd_ref.networks import aizoo
from ssdconv.ssd_ref.networks.caffe import GRIDS, RATIOS, STEPS, vgg_extras

MEAN = (103.94, 116.78, 123.68)
"""Subtracted from BGR pixels."""

SCALES = (0.1, 0.2, 0.375, 0.55, 0.725, 0.9)
EXTRA_SCALES = (0.1414, 0.2739, 0.4541, 0.6315, 0.8078, 0.9836)
"""Sides of a map's two square priors, as fractions of the image."""

L2NORM = L2NormSpec(1e-10, "max_inside")

RULE = Postprocess(max_per_class=200, keep_top_k=-1, clip="before_nms", min_size=0.03)


def same_backbone(width: int = 64) -> Backbone:
    """VGG16 with SAME pooling."""
    options = {"rounding": "same"} | ({} if width == 64 else {"width": width})
    return Backbone("vgg16", ("conv4_3", "fc7"), options)


def same_extras(size: int = 300, width: int = 64) -> Extras:
    """SSD300's extra layers with SAME padding where Caffe pads by 1."""
    stages = vgg_extras(size, width).stages
    return Extras(tuple(tuple(replace(c, padding="same") if c.padding == 1 else c for c in s) for s in stages))


def ratios() -> tuple[tuple[float, ...], ...]:
    """Width / height of a cell's boxes behind the squares, per map."""
    inverse = {2: 0.5, 3: 0.3333}
    return tuple(tuple(r for ratio in each for r in (ratio, inverse[int(ratio)])) for each in RATIOS[300])


def prior_maps(size: int = 300) -> tuple[PriorMap, ...]:
    """The priors, in the reference's order within a cell."""
    maps = []
    for grid, step, scale, extra, shapes in zip(GRIDS[300], STEPS[300], SCALES, EXTRA_SCALES, ratios(), strict=True):
        shaped = [(size * scale * math.sqrt(r), size * scale / math.sqrt(r)) for r in shapes]
        squares = [(size * scale, size * scale), (size * extra, size * extra)]
        maps.append(PriorMap((grid, grid), (step, step), (*squares, *shaped)))
    return tuple(maps)


def hikapok(name: str, num_classes: int | None = None, *, width: int = 64) -> SSDConfig:
    """``hikapok_ssd300_vgg16_voc``, with any class count (background included); ``width`` 64 is the published network."""
    count = num_classes or 21
    return SSDConfig(
        name=name,
        source="tensorflow",
        num_classes=count,
        pixels=Preprocess((300, 300), "BGR", MEAN, resize="tf1_bilinear"),
        priors=prior_maps(),
        detect=RULE,
        class_names=names_for(count),
        layers=Staged(same_backbone(width), same_extras(300, width), Heads(3, {0: L2NORM})),
    )


NETWORKS: Mapping[str, Callable[[str, int | None], SSDConfig]] = {
    "hikapok_ssd300_vgg16_voc": hikapok,
    **aizoo.row("tensorflow"),
}
"""Network name -> builder ``(name, num_classes) -> SSDConfig``."""
