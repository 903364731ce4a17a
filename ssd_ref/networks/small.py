"""Networks small enough to try things out on a CPU; none is a network of any source, nor in the registry.

``small_ssd`` has seven convolutions with batch normalisation and four maps of priors. Its backbone is that of ``ssd7``; the priors follow
arXiv:1512.02325, section 2.2: scales spread evenly, sizes s and sqrt(s s'), ratios 2 and 1/2. ``narrowed`` is a named network with fewer
channels: the same layers, priors and rules.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from ssdconv.errors import UsageError
from ssdconv.ssd_ref.classes import BACKGROUND
from ssdconv.ssd_ref.config import Backbone, Postprocess, Preprocess, PriorMap, SSDConfig, Staged

SCALES = (0.14, 0.28, 0.46, 0.68, 0.92)


def small_ssd(classes: Sequence[str], size: int = 128, width: int = 16, name: str = "small_ssd") -> SSDConfig:
    """The network's config.

    Args:
        classes: names without background.
        size: side of the input in pixels, a multiple of 64; the maps have size/8, size/16, size/32 and size/64 cells a side.
        width: channels of the first convolution.

    Raises:
        UsageError: another size.
    """
    if size % 64 or size < 64:
        raise UsageError("the input's side must be a multiple of 64", got=size)
    maps = []
    for level, (scale, larger) in enumerate(pairwise(SCALES)):
        cells = size // 8 >> level
        side, middle, root = size * scale, size * math.sqrt(scale * larger), math.sqrt(2.0)
        shapes = ((side, side), (middle, middle), (side * root, side / root), (side / root, side * root))
        maps.append(PriorMap((cells, cells), (size / cells, size / cells), shapes))
    return SSDConfig(
        name=name,
        source="ssdconv",
        num_classes=len(classes) + 1,
        pixels=Preprocess((size, size), "BGR", (127.5, 127.5, 127.5), (64.0, 64.0, 64.0)),
        priors=tuple(maps),
        detect=Postprocess(),
        class_names=(BACKGROUND, *classes),
        layers=Staged(Backbone("ssd7", ("conv4", "conv5", "conv6", "conv7"), {"width": width})),
    )


WIDTHS = ("vgg16", "keras_resnet50")
"""Backbones whose ``width``, 64 in the published networks, can be chosen."""


def narrowed(config: SSDConfig, width: int = 4) -> SSDConfig:
    """``config`` with ``width`` channels where the first stage has 64, extra layers alike; as it is where it has no such option."""
    staged = config.layers
    if not isinstance(staged, Staged) or staged.kind not in WIDTHS:
        return config
    stages = tuple(
        tuple(replace(c, out_channels=max(c.out_channels * width // 64, 1)) for c in stage)
        for stage in staged.extras.stages
    )
    backbone = replace(staged.backbone, options={**staged.backbone.options, "width": width})
    return replace(config, layers=replace(staged, backbone=backbone, extras=replace(staged.extras, stages=stages)))
