"""The learned layers of a VGG16 SSD in the order of the forward pass, for sources that name them by rules of their own.

ChainerCV and the PyTorch projects hold the same layers as Caffe under other names; one walk over the reference's config
gives each layer's reference module, Caffe's name, and shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ssdconv.errors import MappingError
from ssdconv.ssd_ref.backbones.plain import UNITS, ScaleSpec
from ssdconv.ssd_ref.config import ConvSpec, SSDConfig

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
    staged = config.staged
    if staged is None or staged.backbone.kind != "vgg16" or staged.backbone.taps != ("conv4_3", "fc7"):
        raise MappingError(
            f"{source} has no such network: its SSDs are VGG16 SSDs",
            where=config.name,
            got="a layer graph" if staged is None else f"backbone {staged.backbone.kind!r}",
        )
    heads = staged.heads
    if (
        tuple(heads.l2norm) not in ((0,), ("0",))
        or heads.kernel != 3
        or not heads.bias
        or heads.depthwise is not None
        or staged.extras.pool != "none"
    ):
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
        if unit.name in staged.backbone.taps:
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
            shape = (len(entry.cells) * values, inner, 3, 3)
            yield Layer("loc" if role == "loc" else "conf", str(index), f"heads.{role}.{index}", shape)
