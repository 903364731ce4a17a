"""ChainerCV's names of the layers of a VGG16 SSD, and the layout of its loc heads.

fc6 and fc7 are ``conv6`` and ``conv7``, so the extra layers count two higher than Caffe's: conv6_1 is ``conv8_1``. A loc head's
channels are (dy, dx, dh, dw) per anchor, the reference's (dx, dy, dw, dh). conv1_1 reads RGB, and so does the reference.
"""

from __future__ import annotations

from collections.abc import Iterator

from ssdconv.converters.same_network import Layer, vgg_layers
from ssdconv.converters.tensors import Entry, permute_anchors
from ssdconv.ssd_ref.config import SSDConfig

YX_TO_XY = (1, 0, 3, 2)


def link_name(layer: Layer) -> str:
    """Path of the Chainer link below the SSD, without the leading slash."""
    if layer.role == "l2norm":
        return "extractor/norm4"
    if layer.role in ("loc", "conf"):
        return f"multibox/{layer.role}/{layer.name}"
    if layer.role == "extras":
        stage, part = layer.name.removeprefix("conv").split("_")
        return f"extractor/conv{int(stage) + 2}_{part}"
    return "extractor/" + {"fc6": "conv6", "fc7": "conv7"}.get(layer.name, layer.name)


def entries(config: SSDConfig, prefix: str = "") -> Iterator[Entry]:
    """The mapping of every tensor.

    Args:
        config: a VGG16 SSD.
        prefix: what stands before ``extractor/`` and ``multibox/`` in the file.
    """
    for layer in vgg_layers(config, "ChainerCV"):
        for kind, target, shape in layer.tensors():
            suffix = "scale" if layer.role == "l2norm" else {"weight": "W", "bias": "b"}[kind]
            swap = (permute_anchors(range(shape[0] // 4), 4, inner=YX_TO_XY),) if layer.role == "loc" else ()
            yield Entry(f"{prefix}{link_name(layer)}/{suffix}", target, shape, swap)


def probes(config: SSDConfig) -> Iterator[tuple[str, str]]:
    """(Chainer link, reference module) of every layer whose outputs are equal.

    The loc heads are not among them, as their channels lie in another order; their values are compared in ``@loc``.
    """
    for layer in vgg_layers(config, "ChainerCV"):
        if layer.role != "loc":
            yield "/" + link_name(layer), layer.module
