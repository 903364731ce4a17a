"""Networks of two Keras projects: jedol/SSD-Keras_Tensorflow and pierluigiferrari/ssd_keras.

========================  =========================================================================================================
network                   differs from Caffe's by
========================  =========================================================================================================
``jedol_…_vgg16_voc``     SAME padding (conv7_2 pads at the bottom and right only), ImageNet's mean in BGR, boxes clipped before NMS
``jedol_…_resnet50_voc``  the backbone; raw BGR pixels without mean; 3x3 average pooling as last source
``ssd_keras_…``           prior sizes that are not cut to whole pixels; otherwise Caffe's network and weights
``ssd7``                  seven layers with ELU; variances of 1
========================  =========================================================================================================

Neither project limits the candidates before NMS; both keep 400 boxes per class and 200 per image.
"""

from __future__ import annotations

import math
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
from ssdconv.ssd_ref.networks.caffe import SIZES, prior_maps, vgg_extras
from ssdconv.ssd_ref.networks.tensorflow import same_backbone, same_extras

L2NORM = L2NormSpec(1e-12, "max_inside")
"""``K.l2_normalize``."""

JEDOL_MEAN = (103.939, 116.779, 123.68)
"""Subtracted from BGR pixels (keras.applications, mode "caffe")."""

KERAS_RULE = Postprocess(top_k=-1, max_per_class=400, keep_top_k=200)
NOT_EMPTY = 1e-30
"""Least side of a box: jedol's code drops boxes that clipping left without area."""
JEDOL_RULE = replace(KERAS_RULE, clip="before_nms", min_size=NOT_EMPTY)

RESNET_TAPS = ("res3d", "res5c", "res6a", "res7a", "res8a")


def jedol(name: str, num_classes: int | None = None, *, width: int = 64) -> SSDConfig:
    """``jedol_ssd300_vgg16_voc`` or ``jedol_ssd300_resnet50_voc``, with any class count (background included)."""
    count = num_classes or 21
    if "resnet50" in name:
        options = {} if width == 64 else {"width": width}
        staged = Staged(Backbone("keras_resnet50", RESNET_TAPS, options), Extras(pool="avg3"))
        pixels = Preprocess((300, 300), "BGR")
    else:
        staged = Staged(same_backbone(width), same_extras(300, width), Heads(3, {0: L2NORM}))
        pixels = Preprocess((300, 300), "BGR", JEDOL_MEAN)
    return SSDConfig(
        name=name,
        source="keras",
        num_classes=count,
        pixels=pixels,
        priors=prior_maps(300, SIZES["ssd300_voc"], truncate=False),
        detect=JEDOL_RULE,
        class_names=names_for(count),
        layers=staged,
    )


def ssd_keras(name: str, num_classes: int | None = None, *, width: int = 64) -> SSDConfig:
    """``ssd_keras_ssd300_voc``, ``…_coco``, ``ssd_keras_ssd512_voc`` or ``…_coco``.

    The model takes RGB pixels, subtracts the mean and turns them to BGR itself, which is what BGR pixels with the mean in BGR are.
    """
    family = name.removeprefix("ssd_keras_")
    size = int(family[3:6])
    count = num_classes or (81 if name.endswith("coco") else 21)
    return SSDConfig(
        name=name,
        source="keras",
        num_classes=count,
        pixels=Preprocess((size, size), "BGR", (104.0, 117.0, 123.0)),
        priors=prior_maps(size, SIZES[family], truncate=False),
        detect=KERAS_RULE,
        class_names=names_for(count),
        layers=Staged(same_backbone(width), vgg_extras(size, width), Heads(3, {0: L2NORM})),
    )


SSD7_SCALES = (0.08, 0.16, 0.32, 0.64, 0.96)
SSD7_GRIDS = ((37, 60), (18, 30), (9, 15), (4, 7))


def ssd7(name: str = "ssd7", num_classes: int | None = None, *, width: int = 32) -> SSDConfig:
    """SSD7 as its training notebook sets it up: 300x480 RGB pixels scaled to -1..1, 5 classes and background.

    The file tells neither input size nor prior sizes; a network trained with others decodes to wrong boxes.
    """
    count = num_classes or 6
    maps = []
    for (rows, columns), scale, larger in zip(SSD7_GRIDS, SSD7_SCALES[:-1], SSD7_SCALES[1:], strict=True):
        side, middle = 300 * scale, 300 * math.sqrt(scale * larger)
        shaped = [(side * math.sqrt(r), side / math.sqrt(r)) for r in (2.0, 0.5)]
        cells = ((side, side), (middle, middle), *shaped)
        maps.append(PriorMap((rows, columns), (300 / rows, 480 / columns), cells, variances=(1.0, 1.0, 1.0, 1.0)))
    return SSDConfig(
        name=name,
        source="keras",
        num_classes=count,
        pixels=Preprocess((300, 480), "RGB", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
        priors=tuple(maps),
        detect=KERAS_RULE,
        layers=Staged(
            Backbone("ssd7", ("conv4", "conv5", "conv6", "conv7"), {} if width == 32 else {"width": width}),
        ),
    )


NETWORKS = {
    "jedol_ssd300_vgg16_voc": jedol,
    "jedol_ssd300_resnet50_voc": jedol,
    "ssd_keras_ssd300_voc": ssd_keras,
    "ssd_keras_ssd300_coco": ssd_keras,
    "ssd_keras_ssd512_voc": ssd_keras,
    "ssd_keras_ssd512_coco": ssd_keras,
    "ssd7": ssd7,
}
"""Network name -> builder ``(name, num_classes) -> SSDConfig``."""
