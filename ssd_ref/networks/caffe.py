"""The named networks of the original Caffe SSD (weiliu89/caffe, branch ssd) and of chuanqi305/MobileNet-SSD.

Sizes are those of ``examples/ssd/ssd_pascal.py`` and ``ssd_coco.py``: minimum sizes step evenly from 20 % to 90 % of the
input (15 % for COCO at 300), with a smaller first one. Caffe casts them to integers, which shows at 512.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ssdconv.ssd_ref.box_sizes import caffe_box_sizes
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

VGG_PIXELS = {size: Preprocess((size, size), "BGR", (104.0, 117.0, 123.0)) for size in (300, 512)}

SIZES: dict[str, tuple[float, ...]] = {
    "ssd300_voc": (30, 60, 111, 162, 213, 264, 315),
    "ssd300_coco": (21, 45, 99, 153, 207, 261, 315),
    "ssd512_voc": (35.84, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.6),
    "ssd512_coco": (20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72),
}
"""Declared minimum sizes in pixels; each map's maximum is the next map's minimum."""

GRIDS = {300: (38, 19, 10, 5, 3, 1), 512: (64, 32, 16, 8, 4, 2, 1)}
STEPS = {300: (8, 16, 32, 64, 100, 300), 512: (8, 16, 32, 64, 128, 256, 512)}
RATIOS: dict[int, tuple[tuple[float, ...], ...]] = {
    300: ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
    512: ((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,)),
}


def vgg_extras(size: int, width: int = 64) -> Extras:
    """conv6_1 … conv9_2 (300) or conv10_2 (512); ``width`` scales the channels, 64 is the published network."""
    narrow, wide = width * 2, width * 4
    stages = [
        (ConvSpec("conv6_1", wide, 1), ConvSpec("conv6_2", wide * 2, 3, 2, 1)),
        (ConvSpec("conv7_1", narrow, 1), ConvSpec("conv7_2", wide, 3, 2, 1)),
    ]
    if size == 300:
        stages += [(ConvSpec(f"conv{i}_1", narrow, 1), ConvSpec(f"conv{i}_2", wide, 3)) for i in (8, 9)]
    else:
        stages += [(ConvSpec(f"conv{i}_1", narrow, 1), ConvSpec(f"conv{i}_2", wide, 3, 2, 1)) for i in (8, 9)]
        stages += [(ConvSpec("conv10_1", narrow, 1), ConvSpec("conv10_2", wide, 4, 1, 1))]
    return Extras(tuple(stages))


def vgg_staged(size: int, width: int = 64, l2norm: L2NormSpec | None = None) -> Staged:
    """VGG16-reduced with SSD's extras and heads; conv4_3 is L2-normalised before its heads."""
    return Staged(
        Backbone("vgg16", ("conv4_3", "fc7"), {} if width == 64 else {"width": width}),
        vgg_extras(size, width),
        Heads(3, {0: l2norm or L2NormSpec()}),
    )


def prior_maps(
    size: int, sizes: Sequence[float], *, truncate: bool = True, grids: Sequence[int] | None = None
) -> tuple[PriorMap, ...]:
    """Prior maps of a VGG SSD: map i has minimum ``sizes[i]`` and maximum ``sizes[i + 1]``."""
    return tuple(
        PriorMap((grid, grid), (step, step), caffe_box_sizes((low,), (high,), ratios, truncate=truncate))
        for grid, step, low, high, ratios in zip(
            grids or GRIDS[size], STEPS[size], sizes[:-1], sizes[1:], RATIOS[size], strict=True
        )
    )


def vgg(name: str, num_classes: int | None = None, *, width: int = 64) -> SSDConfig:
    """``ssd300_voc``, ``ssd300_coco``, ``ssd512_voc`` or ``ssd512_coco``; any class count (background included)."""
    size = int(name[3:6])
    count = num_classes or (21 if name.endswith("voc") else 81)
    return SSDConfig(
        name=name,
        source="caffe",
        num_classes=count,
        pixels=VGG_PIXELS[size],
        priors=prior_maps(size, SIZES[name]),
        detect=Postprocess(),
        class_names=names_for(count),
        layers=vgg_staged(size, width),
    )


MOBILENET_MINIMA = (60, 105, 150, 195, 240, 285)
MOBILENET_GRIDS = (19, 10, 5, 3, 2, 1)


def mobilenet(name: str = "mobilenet_ssd_voc", num_classes: int | None = None) -> SSDConfig:
    """``mobilenet_ssd_voc`` (batch normalisation merged into biases) or ``mobilenet_ssd_voc_bn`` (Caffe BatchNorm + Scale).

    Heads are 1x1; the first map has no maximum size and three priors. No step is given, so it is 300/grid.
    """
    norm = NormSpec(1e-5, accumulated=True) if name.endswith("_bn") else None
    count = num_classes or 21

    def conv(layer: str, out: int, kernel: int) -> ConvSpec:
        stride = 2 if kernel == 3 else 1
        return ConvSpec(layer, out, kernel, stride, kernel // 2, bias=norm is None, norm=norm)

    widths = ((14, 256, 512), (15, 128, 256), (16, 128, 256), (17, 64, 128))
    stages = tuple((conv(f"conv{i}_1", a, 1), conv(f"conv{i}_2", b, 3)) for i, a, b in widths)
    options = {"norm": {"eps": norm.eps, "accumulated": True}} if norm else {}
    maxima = (*MOBILENET_MINIMA[1:], 300)
    maps = []
    for index, (grid, low, high) in enumerate(zip(MOBILENET_GRIDS, MOBILENET_MINIMA, maxima, strict=True)):
        cells = caffe_box_sizes((low,), (high,), (2, 3)) if index else caffe_box_sizes((low,), (), (2,))
        maps.append(PriorMap((grid, grid), (300 / grid, 300 / grid), cells))
    return SSDConfig(
        name=name,
        source="caffe",
        num_classes=count,
        pixels=Preprocess((300, 300), "BGR", (127.5, 127.5, 127.5), scale=0.007843),
        priors=tuple(maps),
        detect=Postprocess(),
        class_names=names_for(count),
        layers=Staged(Backbone("mobilenet_v1", ("conv11", "conv13"), options), Extras(stages), Heads(1)),
    )


NETWORKS: Mapping[str, Callable[[str, int | None], SSDConfig]] = {
    **dict.fromkeys(SIZES, vgg),
    "mobilenet_ssd_voc": mobilenet,
    "mobilenet_ssd_voc_bn": mobilenet,
    **aizoo.row("caffe"),
}
"""Network name -> builder ``(name, num_classes) -> SSDConfig``."""
