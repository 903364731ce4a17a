"""Names of a VGG16 SSD's tensors in PyTorch projects: ssd.pytorch, simple-ssd, torchvision, and the bare backbone file.

``vgg.<i>`` and ``backbone.features.<i>`` count VGG16's layers with ReLUs and pools; torchvision continues behind conv4_3 in
``backbone.extra``. Layouts are the reference's own: OIHW, loc (dx, dy, dw, dh), Caffe's anchor order.
"""

from __future__ import annotations

from collections.abc import Iterator

from ssdconv.converters.same_network import Layer, Role, vgg_layers
from ssdconv.converters.tensors import MappedTensor
from ssdconv.errors import UsageError
from ssdconv.ssd_ref.config import SSDConfig

VGG_INDEX = {
    "conv1_1": 0, "conv1_2": 2, "conv2_1": 5, "conv2_2": 7, "conv3_1": 10, "conv3_2": 12, "conv3_3": 14,
    "conv4_1": 17, "conv4_2": 19, "conv4_3": 21, "conv5_1": 24, "conv5_2": 26, "conv5_3": 28, "fc6": 31, "fc7": 33,
}  # fmt: skip
"""Caffe's layer name -> index in the VGG list of ssd.pytorch."""

TORCHVISION_EXTRA = {
    "conv5_1": "0.1", "conv5_2": "0.3", "conv5_3": "0.5", "fc6": "0.7.1", "fc7": "0.7.3",
    "conv6_1": "1.0", "conv6_2": "1.2", "conv7_1": "2.0", "conv7_2": "2.2",
    "conv8_1": "3.0", "conv8_2": "3.2", "conv9_1": "4.0", "conv9_2": "4.2",
}  # fmt: skip
"""Caffe's layer name -> place in torchvision's ``backbone.extra``."""

ROLES: dict[str, tuple[Role, ...]] = {
    "ssd.pytorch": ("backbone", "l2norm", "extras", "loc", "conf"),
    "simple-ssd": ("l2norm", "backbone", "extras", "loc", "conf"),
    "torchvision": ("l2norm", "backbone", "extras", "conf", "loc"),
    "vgg16_reducedfc": ("backbone",),
}
"""Style -> parts of the network in the order of its files."""


def module_name(layer: Layer, style: str) -> str:
    """Path of a layer's module in a project's network.

    Raises:
        UsageError: no such style.
    """
    if style not in ROLES:
        raise UsageError(f"no style {style!r}", expected=f"one of {', '.join(ROLES)}")
    if style == "torchvision":
        return _torchvision(layer)
    if layer.role == "backbone":
        return ("" if style == "vgg16_reducedfc" else "vgg.") + str(VGG_INDEX[layer.name])
    if layer.role == "l2norm":
        return "L2Norm"
    if layer.role == "extras":
        stage, part = layer.name.removeprefix("conv").split("_")
        return f"extras.{(int(stage) - 6) * 2 + int(part) - 1}"
    return f"{layer.role}.{layer.name}"


def _torchvision(layer: Layer) -> str:
    if layer.role in ("loc", "conf"):
        kind = "regression_head" if layer.role == "loc" else "classification_head"
        return f"head.{kind}.module_list.{layer.name}"
    if layer.role == "l2norm":
        return "backbone"
    if layer.name in TORCHVISION_EXTRA:
        return f"backbone.extra.{TORCHVISION_EXTRA[layer.name]}"
    return f"backbone.features.{VGG_INDEX[layer.name]}"


def entries(config: SSDConfig, style: str, prefix: str = "") -> Iterator[MappedTensor]:
    """The mapping of every tensor of a style, in the order of that project's own files.

    Args:
        config: a VGG16 SSD300.
        style: a key of ``ROLES``.
        prefix: what stands before each name ("module.").

    Raises:
        MappingError: the style cannot express the network.
        UsageError: no such style.
    """
    layers = list(vgg_layers(config, style))
    for role in ROLES.get(style, ("backbone",)):
        for layer in layers:
            if layer.role != role:
                continue
            name = module_name(layer, style)
            for kind, target, shape in layer.tensors():
                suffix = "scale_weight" if name == "backbone" else kind
                yield MappedTensor(f"{prefix}{name}.{suffix}", target, shape)


def probes(config: SSDConfig, style: str) -> Iterator[tuple[str, str]]:
    """(module of the project's network, reference module) of every layer; torchvision's L2 normalisation is no module."""
    for layer in vgg_layers(config, style):
        name = module_name(layer, style)
        if name != "backbone":
            yield name, layer.module
