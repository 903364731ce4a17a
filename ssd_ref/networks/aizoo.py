"""The face-mask detector of AIZOOTech/FaceMaskDetection: one network that its authors published as files of four frameworks.

The Caffe and MXNet files hold it with batch normalisation merged into the convolutions, the TensorFlow graph before merging (eps
1e-3). Facts from its ``*_infer.py``, ``utils/anchor_generator.py`` and ``utils/nms.py``: RGB pixels resized by OpenCV and
divided by 255; per cell two squares and two upright boxes of the first size; two sigmoid scores without background; a
prior counts with its better class, and one NMS for both classes drops boxes at an IoU above 0.4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from ssdconv.ssd_ref.config import (
    Backbone,
    ConvSpec,
    Heads,
    NormSpec,
    Postprocess,
    Preprocess,
    PriorMap,
    SSDConfig,
    Staged,
)

NAME = "aizoo_facemask"
SIDE = 260
GRIDS = (33, 17, 9, 5, 3)
SIZES = ((0.04, 0.056), (0.08, 0.11), (0.16, 0.22), (0.32, 0.45), (0.64, 0.72))
"""Sides of a map's two squares, as fractions of the image."""
RATIOS = (0.62, 0.42)
"""Width over height of its two upright boxes, which have the area of the first square."""
CLASSES = ("Mask", "NoMask")
NORM = NormSpec(1e-3)
RULE = Postprocess(
    activation="sigmoid",
    background=None,
    score_threshold=0.5,
    top_k=-1,
    nms_threshold=0.4,
    keep_top_k=-1,
    nms_scope="image",
    nms_margin=1e-3,
)


def prior_maps() -> tuple[PriorMap, ...]:
    """The 5,972 priors, in the files' order within a cell."""
    maps = []
    for grid, sizes in zip(GRIDS, SIZES, strict=True):
        squares = [(SIDE * size, SIDE * size) for size in sizes]
        upright = [(SIDE * sizes[0] * math.sqrt(r), SIDE * sizes[0] / math.sqrt(r)) for r in RATIOS]
        maps.append(PriorMap((grid, grid), (SIDE / grid, SIDE / grid), (*squares, *upright)))
    return tuple(maps)


def aizoo(name: str, num_classes: int | None = None, *, source: str) -> SSDConfig:
    """The network as a source's file holds it: merged for ``caffe`` and ``gluon``, with batch normalisation for ``tensorflow``."""
    count = num_classes or len(CLASSES)
    norm = NORM if source == "tensorflow" else None
    before = ConvSpec("before", 64, 3, padding=1, bias=norm is None, norm=norm)
    options = {} if norm is None else {"norm": {"eps": norm.eps}}
    return SSDConfig(
        name=name,
        source=source,
        num_classes=count,
        pixels=Preprocess((SIDE, SIDE), "RGB", unit=255.0),
        priors=prior_maps(),
        detect=RULE,
        class_names=CLASSES if count == len(CLASSES) else (),
        layers=Staged(
            Backbone("aizoo", tuple(f"conv2d_{i}" for i in range(3, 8)), options), heads=Heads(3, before=before)
        ),
    )


def row(source: str) -> dict[str, Callable[[str, int | None], SSDConfig]]:
    """The network's entry in a source's table of networks."""
    return {NAME: partial(aizoo, source=source)}
