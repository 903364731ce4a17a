"""Keras' layers, weights and layouts of each named network.

Kernels are HWIO. jedol's cells have their anchors as min, sqrt(min*max), 2, 3, 1/2, 1/3; SSD7's as 1/2, 1, sqrt, 2; ssd_keras' as the
reference. A block's convolution ``res2a_branch2a`` has its batch normalisation in layer ``bn2a_branch2a``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ssdconv.converters.same_network import vgg_layers
from ssdconv.converters.tensors import Op, Transpose, permute_anchors
from ssdconv.ssd_ref.backbones.plain import UNITS, blocks
from ssdconv.ssd_ref.config import ConvSpec, SSDConfig

Kind = Literal["kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance", "scale"]
NORM: dict[Kind, str] = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
"""Batch normalisation's weights in Keras' order -> the reference's."""

JEDOL_SIX = (0, 1, 2, 4, 3, 5)
SSD7_FOUR = (1, 2, 3, 0)


@dataclass(frozen=True)
class Row:
    """One weight of the network.

    Attributes:
        layer, kind: where Keras keeps it.
        target: the reference tensor.
        shape: as Keras stores it.
        ops: from Keras' layout to the reference's.
    """

    layer: str
    kind: Kind
    target: str
    shape: tuple[int, ...]
    ops: tuple[Op, ...] = ()


def _conv(layer: str, module: str, weight: tuple[int, ...], bias: bool, anchors: tuple[int, ...] = ()) -> Iterator[Row]:
    out, inner, height, width = weight
    order: tuple[Op, ...] = (permute_anchors(anchors, out // len(anchors)),) if anchors else ()
    kernel = (Transpose((3, 2, 0, 1)), *order)
    yield Row(layer, "kernel", f"{module}.weight", (height, width, inner, out), kernel)
    if bias:
        yield Row(layer, "bias", f"{module}.bias", (out,), order)


def _norm(layer: str, module: str, channels: int) -> Iterator[Row]:
    for kind, name in NORM.items():
        yield Row(layer, kind, f"{module}.{name}", (channels,))


def rows_of(config: SSDConfig) -> list[Row]:
    """Every weight of a network.

    Raises:
        MappingError: no Keras project has such a network.
    """
    kind = config.staged.backbone.kind if config.staged else "graph"
    if kind == "keras_resnet50":
        return list(_resnet(config))
    if kind == "ssd7":
        return list(_ssd7(config))
    return list(_vgg(config))


def head_names(config: SSDConfig) -> list[str]:
    """What the layers of each source's heads are called after."""
    assert config.staged is not None
    extras = [stage[-1].name for stage in config.staged.extras.stages]
    taps = list(config.staged.backbone.taps)
    if config.staged.backbone.kind == "vgg16":
        return ["conv4_3_norm", "fc7", *extras]
    return [*taps, "pool8"] if config.staged.extras.pool == "avg3" else taps


def _heads(config: SSDConfig, channels: list[int]) -> Iterator[Row]:
    jedol = config.name.startswith("jedol")
    for role, values in (("conf", config.num_classes), ("loc", 4)):
        word = "logit" if jedol and role == "conf" else role
        for index, (name, inner, prior) in enumerate(zip(head_names(config), channels, config.priors, strict=True)):
            cells = len(prior.cells)
            order = JEDOL_SIX if jedol and cells == 6 else ()
            weight = (cells * values, inner, 3, 3)
            yield from _conv(f"{name}_mbox_{word}", f"heads.{role}.{index}", weight, True, order)


def _vgg(config: SSDConfig) -> Iterator[Row]:
    heads = []
    for layer in vgg_layers(config, "Keras", same_padding=True):
        if layer.role == "l2norm":
            yield Row("conv4_3_norm", "scale", f"{layer.module}.weight", layer.weight)
        elif layer.role in ("backbone", "extras"):
            yield from _conv(layer.name, layer.module, layer.weight, True)
        elif layer.role == "loc":
            heads.append(layer.weight[1])
    yield from _heads(config, heads)


def _resnet(config: SSDConfig) -> Iterator[Row]:
    assert config.staged is not None
    width = config.staged.backbone.options.get("width", 64)
    yield from _conv("conv1", "backbone.conv1.conv", (width, 3, 7, 7), True)
    yield from _norm("bn_conv1", "backbone.conv1.norm", width)
    channels: dict[str, int] = {}
    inner = width
    for block in blocks(width):
        branches = {
            "2a": (block.inner, inner, 1),
            "2b": (block.inner, block.inner, 3),
            "2c": (block.out, block.inner, 1),
        }
        if block.shortcut:
            branches["1"] = (block.out, inner, 1)
        for branch, (out, before, side) in branches.items():
            module = f"backbone.{block.name}.branch{branch}"
            yield from _conv(f"{block.name}_branch{branch}", f"{module}.conv", (out, before, side, side), False)
            yield from _norm(f"bn{block.name[3:]}_branch{branch}", f"{module}.norm", out)
        inner = channels[block.name] = block.out
    taps = [channels[tap] for tap in config.staged.backbone.taps]
    yield from _heads(config, [*taps, taps[-1]])


def _ssd7(config: SSDConfig) -> Iterator[Row]:
    assert config.staged is not None
    inner, channels = 3, {}
    for unit in UNITS["ssd7"](**config.staged.backbone.options):
        if isinstance(unit, ConvSpec):
            module = f"backbone.{unit.name}"
            yield from _conv(unit.name, f"{module}.conv", (unit.out_channels, inner, unit.kernel, unit.kernel), True)
            yield from _norm(f"bn{unit.name[4:]}", f"{module}.norm", unit.out_channels)
            inner = channels[unit.name] = unit.out_channels
    for word, role, values in (("classes", "conf", config.num_classes), ("boxes", "loc", 4)):
        for index, tap in enumerate(config.staged.backbone.taps):
            weight = (4 * values, channels[tap], 3, 3)
            yield from _conv(f"{word}{tap[4:]}", f"heads.{role}.{index}", weight, True, SSD7_FOUR)


def probes_of(config: SSDConfig) -> Iterator[tuple[str, str]]:
    """(Keras layer, reference module) of every layer whose output is the same tensor on both sides.

    A convolution of VGG16 has its ReLU inside in Keras. Heads are compared in ``@loc`` and ``@conf``.
    """
    kind = config.staged.backbone.kind if config.staged else ""
    for row in rows_of(config):
        module = row.target.rsplit(".", 1)[0]
        if row.target.startswith("heads.") and row.kind != "scale":
            continue
        if row.kind == "kernel" and kind == "vgg16":
            yield row.layer, module.removesuffix(".conv")
        elif row.kind in ("kernel", "gamma", "scale"):
            yield row.layer, module
    pools = {"vgg16": range(1, 6), "ssd7": range(1, 7)}.get(kind, ())
    yield from ((f"pool{i}", f"backbone.pool{i}") for i in pools)
    if kind == "ssd7":
        yield from ((f"elu{i}", f"backbone.conv{i}.act") for i in range(1, 8))
    if kind == "keras_resnet50":
        yield "pool1", "backbone.pool1"
        yield from ((block.name, f"backbone.{block.name}") for block in blocks())
        yield "pool8", "extras.pool"
