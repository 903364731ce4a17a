"""The named networks of GluonCV 0.10 (gluoncv/model_zoo/ssd/presets.py), one that its parts allow (ResNet50 v1s), and its backbones.

They differ from the paper's SSD in more than the backbone: one list of sizes per network without explicit maxima, prior steps
that need not fit the grid (``ssd_300_mobilenet0.25``), and in the extra layers of ResNet and MobileNet networks batch
normalisation with MXNet's own defaults, eps 1e-3 and gamma fixed to 1, whatever gamma the file holds.

Backbones are GluonCV's classification networks by its names (gluoncv/model_zoo/model_zoo.py), without their classifiers: each is the
whole feature extractor, and a detector that reads earlier outputs uses the first part of it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ssdconv.errors import UsageError
from ssdconv.ssd_ref.backbones.plain import BLOCKS
from ssdconv.ssd_ref.classes import names_for
from ssdconv.ssd_ref.config import (
    Backbone,
    ConvSpec,
    Extras,
    Heads,
    L2NormSpec,
    NormSpec,
    Postprocess,
    Preprocess,
    PriorMap,
    SSDConfig,
    Staged,
)
from ssdconv.ssd_ref.networks import aizoo
from ssdconv.ssd_ref.networks.caffe import vgg_extras

EXPANDER_NORM = NormSpec(1e-3, fix_gamma=True)
"""Batch normalisation of the extra layers (raw ``mx.sym.BatchNorm``)."""

VOC_300 = (30.0, 60.0, 111.0, 162.0, 213.0, 264.0, 315.0)
COCO_300 = (21.0, 45.0, 99.0, 153.0, 207.0, 261.0, 315.0)
LITE_300 = (60.0, 105.0, 150.0, 195.0, 240.0, 285.0, 300.0)
EIGHT_512 = (51.2, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.6)
SEVEN_512 = (51.2, 102.4, 189.4, 276.4, 363.52, 450.6, 492.0)
RESNET50_COCO_512 = (51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72)

STEPS_300 = (8, 16, 32, 64, 100, 300)
STEPS_512 = (16, 32, 64, 128, 256, 512)


@dataclass(frozen=True)
class Design:
    """What tells one GluonCV network from another.

    Attributes:
        sizes: prior sizes in pixels; map i has ``sizes[i]`` and ``sqrt(sizes[i] * sizes[i + 1])``.
        grids, steps: side of each feature map, and distance of prior centres in pixels.
        long: how many maps after the first have ratios 3 and 1/3 as well.
        kind, out_indices, options: the backbone, see ``ssd_ref.backbones``.
        filters: output channels of the extra stages; () for VGG's own.
        narrow: (minimum, factor) of the 1x1 convolution before each.
        batch_norm: the extra layers have batch normalisation instead of biases.
        lite: 1x1 heads and priors as in TensorFlow's MobileNet-SSD.
    """

    sizes: tuple[float, ...]
    grids: tuple[int, ...]
    steps: tuple[int, ...]
    kind: str
    out_indices: tuple[str, ...]
    options: dict[str, Any]
    filters: tuple[int, ...] = (512, 512, 256, 256)
    narrow: tuple[int, float] = (128, 1.0)
    batch_norm: bool = True
    lite: bool = False
    long: int = field(default=3)


def _vgg(size: int, sizes: tuple[float, ...]) -> Design:
    grids, steps = ((38, 19, 10, 5, 3, 1), STEPS_300) if size == 300 else ((64, 32, 16, 8, 4, 2, 1), (8, *STEPS_512))
    taps = ("conv4_3", "fc7")
    return Design(sizes, grids, steps, "vgg16", taps, {"input_scale": True}, (), long=3 if size == 300 else 4)


def _resnet(
    depth: int, version: str, taps: Sequence[str] = ("stage3", "stage4"), sizes: tuple[float, ...] = SEVEN_512
) -> Design:
    wide = len(taps) == 3
    grids, steps = ((64,), (8,)) if wide else ((), ())
    return Design(
        sizes,
        (*grids, 32, 16, 8, 4, 2, 1),
        (*steps, *STEPS_512),
        "resnet",
        tuple(taps),
        {"depth": depth, "version": version},
        long=4 if wide else 3,
    )


def _mobilenet(multiplier: float, size: int) -> Design:
    options = {"multiplier": multiplier, "norm": {"eps": 1e-5}}
    taps = ("conv11", "conv13")
    if size == 512:
        return Design(SEVEN_512, (32, 16, 8, 4, 2, 1), STEPS_512, "mobilenet_v1", taps, options)
    grids = (19, 10, 5, 3, 2, 1)
    if multiplier == 1.0:
        steps = (16, 30, 60, 100, 150, 300)
        filters = (512, 256, 256, 128)
        return Design(LITE_300, grids, steps, "mobilenet_v1", taps, options, filters, (64, 0.5), lite=True, long=5)
    return Design(COCO_300, grids, STEPS_300, "mobilenet_v1", taps, options, (256, 256, 128, 128))


_RESNET34 = Design(
    COCO_300,
    (38, 19, 10, 5, 3, 1),
    STEPS_300,
    "resnet",
    ("stage2", "stage4"),
    {"depth": 34, "version": "v1b", "strides": [1, 2, 1, 2]},
    (256, 256, 128, 128),
    batch_norm=False,
)

DESIGNS: dict[str, Design] = {
    "ssd_300_vgg16_atrous_voc": _vgg(300, VOC_300),
    "ssd_300_vgg16_atrous_coco": _vgg(300, COCO_300),
    "ssd_512_vgg16_atrous_voc": _vgg(512, EIGHT_512),
    "ssd_512_vgg16_atrous_coco": _vgg(512, EIGHT_512),
    "ssd_512_resnet50_v1_voc": _resnet(50, "v1"),
    "ssd_512_resnet50_v1_coco": _resnet(50, "v1", sizes=RESNET50_COCO_512),
    "ssd_512_mobilenet1.0_voc": _mobilenet(1.0, 512),
    "ssd_512_mobilenet1.0_coco": _mobilenet(1.0, 512),
    "ssd_300_mobilenet0.25_voc": _mobilenet(0.25, 300),
    "ssd_300_mobilenet0.25_coco": _mobilenet(0.25, 300),
    "ssd_300_mobilenet1.0_lite_coco": _mobilenet(1.0, 300),
    "ssd_300_resnet34_v1b_voc": _RESNET34,
    "ssd_300_resnet34_v1b_coco": _RESNET34,
    "ssd_512_resnet18_v1_voc": _resnet(18, "v1"),
    "ssd_512_resnet18_v1_coco": _resnet(18, "v1"),
    "ssd_512_resnet50_v1s_voc": _resnet(50, "v1s"),
    "ssd_512_resnet101_v2_voc": _resnet(101, "v2", ("stage3.7.act2", "stage4.0.act3")),
    "ssd_512_resnet152_v2_voc": _resnet(152, "v2", ("stage2.2.act2", "stage3.11.act3", "stage4.0.act3"), EIGHT_512),
}
"""Network name -> its design. The taps of v2 lie inside blocks: GluonCV names the activation of that number."""


def cells(low: float, high: float, ratios: Sequence[float], *, lite: bool = False, first: bool = False) -> Any:
    """Width and height in pixels of each prior of a cell, in GluonCV's order and double precision.

    Args:
        low, high: this map's size and the next one's.
        ratios: aspect ratios besides 1.
        lite: TensorFlow's form: the square has half the size, ``sqrt(low * high)`` comes last and not on the ``first`` map.
    """
    middle = math.sqrt(low * high)
    shaped = [(low * math.sqrt(r), low / math.sqrt(r)) for r in ratios]
    if lite:
        return ((low / 2, low / 2), *shaped, *(() if first else ((middle, middle),)))
    return ((low, low), (middle, middle), *shaped)


def prior_maps(design: Design) -> tuple[PriorMap, ...]:
    """The priors of every map."""
    maps = []
    for index, (grid, step) in enumerate(zip(design.grids, design.steps, strict=True)):
        ratios = (2, 0.5, 3, 1.0 / 3) if 1 <= index <= design.long else (2, 0.5)
        low, high = design.sizes[index : index + 2]
        maps.append(PriorMap((grid, grid), (step, step), cells(low, high, ratios, lite=design.lite, first=index == 0)))
    return tuple(maps)


def extras(design: Design, size: int) -> Extras:
    """The extra stages: 1x1, then 3x3 with stride 2 (VGG has the paper's own)."""
    if not design.filters:
        return vgg_extras(size)
    norm = EXPANDER_NORM if design.batch_norm else None
    least, factor = design.narrow
    stages = []
    for index, channels in enumerate(design.filters, 1):
        inner = max(least, round(channels * factor))
        padding = 0 if norm is None and index == len(design.filters) else 1
        stages.append(
            (
                ConvSpec(f"extra{index}_1", inner, 1, bias=norm is None, norm=norm),
                ConvSpec(f"extra{index}_2", channels, 3, 2, padding, bias=norm is None, norm=norm),
            )
        )
    return Extras(tuple(stages))


def gluon(name: str, num_classes: int | None = None) -> SSDConfig:
    """One of ``DESIGNS``, with any class count (background included)."""
    design = DESIGNS[name]
    size = int(name.split("_")[1])
    count = num_classes or (81 if name.endswith("coco") else 21)
    return SSDConfig(
        name=name,
        source="gluon",
        num_classes=count,
        pixels=Preprocess((size, size), "RGB", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 255.0, resize="mxnet_9"),
        priors=prior_maps(design),
        detect=Postprocess(top_k=400, top_k_scope="image", keep_top_k=100),
        class_names=names_for(count),
        layers=Staged(
            Backbone(design.kind, design.out_indices, design.options),
            extras(design, size),
            Heads(1 if design.lite else 3, {} if design.filters else {0: L2NormSpec(1e-5, "inside")}),
        ),
    )


NETWORKS: Mapping[str, Callable[[str, int | None], SSDConfig]] = {**dict.fromkeys(DESIGNS, gluon), **aizoo.row("gluon")}
"""Network name -> builder ``(name, num_classes) -> SSDConfig``."""


MULTIPLIERS = (1.0, 0.75, 0.5, 0.25)
VERSIONS = {"v1": (18, 34, 50, 101, 152), "v1b": (18, 34, 50, 101, 152), "v1s": (50, 101, 152), "v2": tuple(BLOCKS)}
"""ResNet version -> depths that GluonCV has."""

BACKBONES: dict[str, Backbone] = {
    "vgg16_atrous": Backbone("vgg16", ("conv4_3", "fc7"), {"input_scale": True}),
    **{
        f"resnet{depth}_{version}": Backbone("resnet", ("stage4",), {"depth": depth, "version": version})
        for version, depths in VERSIONS.items()
        for depth in depths
    },
    **{
        f"mobilenet{multiplier}": Backbone(
            "mobilenet_v1", ("conv13",), {"multiplier": multiplier, "norm": {"eps": 1e-5}}
        )
        for multiplier in MULTIPLIERS
    },
}
"""Name -> backbone."""


def backbone(name: str) -> Backbone:
    """The backbone of that name.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    if name not in BACKBONES:
        close = difflib.get_close_matches(name, BACKBONES, 1)
        raise UsageError(
            f"no backbone {name!r} of GluonCV is known here",
            expected=f"one of {', '.join(BACKBONES)}",
            hint=f"did you mean {close[0]!r}?" if close else None,
        )
    return BACKBONES[name]
