"""What sources share that hold a VGG16 SSD under names of their own: its layers, and whether their code would compute the same.

ChainerCV, Keras, TensorFlow and the PyTorch projects have Caffe's layers under other names; ``vgg_layers`` is one walk over the reference's
config that gives each layer's reference module, Caffe's name, and shape. Checkpoints of one source can be written for another one, whose
code feeds its own pixels in its own channel order and decodes with its own priors: so the first layer may have to be turned, and differences
that would show are refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ssdconv.converters.tensors import Array, TensorTable, flip_channels
from ssdconv.errors import MappingError
from ssdconv.ssd_ref.backbones.plain import UNITS, ScaleSpec
from ssdconv.ssd_ref.config import ConvSpec, Preprocess, SSDConfig, Staged

FIRST_LAYER = "backbone.conv1_1.conv.weight"
"""The reference tensor whose input channels are the image's."""


def first_layer_as(order: str, config: SSDConfig, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The tensors with the first convolution's input channels in ``order``: for a source whose code feeds that order.

    The network then reads pixels of ``order`` with the mean reversed too, and computes the same.
    """
    out = dict(tensors)
    if config.pixels.order != order:
        out[FIRST_LAYER] = np.ascontiguousarray(flip_channels().apply(tensors[FIRST_LAYER]))
    return out


def same_extras(config: SSDConfig, other: SSDConfig) -> bool:
    """Whether two VGG16 SSDs have the same layers after the backbone, up to their width."""
    assert isinstance(config.layers, Staged) and isinstance(other.layers, Staged)
    mine, theirs = (
        [[(s.name, s.kernel, s.stride, s.padding, s.dilation) for s in stage] for stage in c.layers.extras.stages]
        for c in (config, other)
        if isinstance(c.layers, Staged)
    )
    options = (dict(config.layers.backbone.options), dict(other.layers.backbone.options))
    for option in options:
        option.pop("width", None)
    anchors = [[len(m.box_sizes) for m in c.priors] for c in (config, other)]
    return mine == theirs and options[0] == options[1] and anchors[0] == anchors[1]


def check_pixels(config: SSDConfig, mean: Sequence[float], source: str) -> None:
    """Raise unless the network reads pixels of 0..255 with ``mean`` subtracted, in either channel order.

    How images are resized may differ: that moves pixels by less than a level, and is told in the documentation.

    Args:
        mean: what ``source`` subtracts, in RGB.

    Raises:
        MappingError: it was trained on other pixels than ``source`` would feed.
    """
    factors, shifts = raw_pixels(config.pixels)
    if config.pixels.order == "BGR":
        shifts = shifts[::-1]
    same = all(math.isclose(f, 1.0, rel_tol=1e-6) for f in factors)
    if not same or any(abs(a - b) > 0.01 for a, b in zip(shifts, mean, strict=True)):
        raise MappingError(
            f"{source} would feed this network other pixels than it was trained on",
            where=config.name,
            expected=f"RGB mean {tuple(mean)}, scale 1",
            got=f"RGB mean {tuple(round(s, 3) for s in shifts)}, scale {tuple(round(f, 5) for f in factors)}",
        )


def raw_pixels(pixels: Preprocess) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Factor and mean per channel on pixels of 0..255: the input is ``(x - mean) * factor``."""
    factors = tuple(pixels.scale / (pixels.unit * s) for s in pixels.std)
    return factors, tuple(m * pixels.unit for m in pixels.mean)


def prior_gap(config: SSDConfig, other: SSDConfig) -> float:
    """Largest difference in pixels between the prior sizes of two networks with equally many anchors per cell.

    Sizes beyond the image count as the image's: whether they are clamped is the source's way of decoding.
    """
    side = float(max(config.pixels.size))
    gaps = [
        abs(min(a, side) - min(b, side))
        for mine, theirs in zip(config.priors, other.priors, strict=True)
        for cell, twin in zip(mine.box_sizes, theirs.box_sizes, strict=True)
        for a, b in zip(cell, twin, strict=True)
    ]
    return max(gaps, default=0.0)


def refuse_priors(config: SSDConfig, theirs: Sequence[SSDConfig], source: str, allowed: bool) -> None:
    """Raise where the code of ``source`` would decode with prior sizes of another network; ``allowed`` lets it pass.

    Up to two pixels are let pass: Caffe cuts sizes to whole pixels.

    Raises:
        MappingError: the sizes are none of ``theirs``.
    """
    if theirs and not allowed and min(prior_gap(config, other) for other in theirs) > 2.0:
        raise MappingError(
            f"{source} has other prior sizes than this network: its boxes would be wrong there",
            where=config.name,
            expected=f"first map {' or '.join(str(other.priors[0].box_sizes[0]) for other in theirs)}",
            got=config.priors[0].box_sizes[0],
            hint="allow it with the option foreign_priors, and give the project's code these sizes",
        )


def length_of(table: TensorTable, name: str) -> int:
    """Length of a tensor of one axis, 0 where the file has none of that name."""
    shape = table[name].shape if name in table else ()
    return shape[0] if len(shape) == 1 else 0


def counts_of(table: TensorTable, conf: str, first: str, num_classes: int | None) -> tuple[int | None, int]:
    """Classes and width of a VGG16 SSD, from two biases: of the first conf head (four boxes per cell) and the first convolution.

    Args:
        conf, first: the names of the two.
        num_classes: what the user says; wins.

    Raises:
        MappingError: more than any SSD has.
    """
    channels, width = length_of(table, conf), length_of(table, first) or 64
    classes = num_classes or (max(channels // 4, 1) if channels else None)
    if width > 64 or (classes or 0) > 2_000:
        raise MappingError(
            "no SSD has such layers", where=str(table.path), got=f"{width} channels in {first}, {classes} classes"
        )
    return classes, width


Role = Literal["backbone", "extras", "l2norm", "loc", "conf"]


@dataclass(frozen=True)
class Layer:
    """One learned layer.

    Attributes:
        role: where it belongs.
        name: Caffe's name ("conv4_3", "fc6", "conv6_1"), or the index of the head or L2 normalisation.
        module: path of the reference module that holds its tensors.
        weight: shape of the weight (O, I, H, W), or (C,) of an L2 normalisation, which has no bias.
    """

    role: Role
    name: str
    module: str
    weight: tuple[int, ...]

    def tensors(self) -> Iterator[tuple[Literal["weight", "bias"], str, tuple[int, ...]]]:
        """(kind, reference tensor, shape) of each tensor."""
        yield "weight", f"{self.module}.weight", self.weight
        if self.role != "l2norm":
            yield "bias", f"{self.module}.bias", self.weight[:1]


def vgg_layers(config: SSDConfig, source: str, *, same_padding: bool = False) -> Iterator[Layer]:
    """Every learned layer of a VGG16 SSD.

    Args:
        config: a staged network on VGG16 with biases everywhere and one L2 normalisation on conv4_3.
        source: whose format is wanted, for the message.
        same_padding: it has TensorFlow's SAME padding.

    Raises:
        MappingError: ``source`` cannot express the network.
    """
    staged = config.layers
    if not isinstance(staged, Staged) or staged.kind != "vgg16" or staged.backbone.out_indices != ("conv4_3", "fc7"):
        raise MappingError(
            f"{source} has no such network: its SSDs are VGG16 SSDs",
            where=config.name,
            got=f"backbone {staged.kind!r}" if isinstance(staged, Staged) else "a layer graph",
        )
    heads = staged.heads
    if tuple(heads.l2norm) not in ((0,), ("0",)) or heads.kernel != 3 or not heads.bias or staged.extras.pool != "none":
        raise MappingError(f"{source} has no VGG16 SSD with such heads or extra stages", where=config.name)
    channels, taps = 3, []
    for unit in UNITS["vgg16"](**staged.backbone.options):
        if isinstance(unit, ScaleSpec):
            raise MappingError(
                f"{source} has no stored input scale", where=config.name, hint="GluonCV networks multiply their input"
            )
        if isinstance(unit, ConvSpec):
            yield Layer(
                "backbone",
                unit.name,
                f"backbone.{unit.name}.conv",
                (unit.out_channels, channels, unit.kernel, unit.kernel),
            )
            channels = unit.out_channels
        if unit.name in staged.backbone.out_indices:
            taps.append(channels)
    yield Layer("l2norm", "0", "heads.l2norm.0", (taps[0],))
    for stage in staged.extras.stages:
        for spec in stage:
            if spec.norm is not None or not spec.bias or (spec.padding == "same" and not same_padding):
                raise MappingError(f"{source} cannot express layer {spec.name!r}", where=config.name)
            yield Layer(
                "extras", spec.name, f"extras.{spec.name}.conv", (spec.out_channels, channels, spec.kernel, spec.kernel)
            )
            channels = spec.out_channels
        taps.append(channels)
    for role, values in (("loc", 4), ("conf", config.num_classes)):
        for index, (inner, entry) in enumerate(zip(taps, config.priors, strict=True)):
            shape = (len(entry.box_sizes) * values, inner, 3, 3)
            yield Layer("loc" if role == "loc" else "conf", str(index), f"heads.{role}.{index}", shape)
