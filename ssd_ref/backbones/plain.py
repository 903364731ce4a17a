"""Backbones without branches, as lists of layer specs: VGG-16 "reduced" and MobileNet v1. Imports no torch.

The torch modules (``vgg.py``, ``mobilenet.py``) and the Caffe prototxt writer are both made from these lists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from ssdconv.ssd_ref.config import ConvSpec, NormSpec

Rounding = Literal["ceil", "floor", "same"]


@dataclass(frozen=True)
class PoolSpec:
    """Max pooling. ``rounding``: ``ceil`` (Caffe, Chainer, GluonCV), ``floor`` (torch's default), ``same`` (Keras, TF)."""

    name: str
    kernel: int
    stride: int
    padding: int = 0
    rounding: Rounding = "ceil"


@dataclass(frozen=True)
class ScaleSpec:
    """Multiplication of the input by a stored factor per channel."""

    name: str


Unit = ConvSpec | PoolSpec | ScaleSpec

VGG_BLOCKS = (2, 2, 3, 3, 3)
"""3x3 convolutions in each of VGG-16's five blocks."""


def vgg16_units(
    *, width: int = 64, fc6_dilation: int = 6, rounding: Rounding = "ceil", input_scale: bool = False
) -> tuple[Unit, ...]:
    """VGG-16 with fc6/fc7 as convolutions (arXiv:1512.02325, section 3).

    conv1_1 … conv5_3 are 3x3 with padding 1; pools 1-4 are 2x2 stride 2, pool5 is 3x3 stride 1; fc6 is a dilated 3x3, fc7 1x1.
    At 300 pixels pool3 makes 38 rows from 75 where pools round up.

    Args:
        width: channels of conv1; the others are multiples of it (64 is VGG-16; fc6 and fc7 have 16 x width).
        fc6_dilation: dilation and padding of fc6.
        rounding: how pools treat an odd side.
        input_scale: start with a stored factor per input channel (GluonCV's ``init_scale``).
    """
    units: list[Unit] = [ScaleSpec("init_scale")] if input_scale else []
    for block, count in enumerate(VGG_BLOCKS, 1):
        out = width * min(2 ** (block - 1), 8)
        units += [ConvSpec(f"conv{block}_{i}", out, 3, padding=1) for i in range(1, count + 1)]
        units.append(
            PoolSpec("pool5", 3, 1, 1, rounding) if block == 5 else PoolSpec(f"pool{block}", 2, 2, 0, rounding)
        )
    units.append(ConvSpec("fc6", width * 16, 3, padding=fc6_dilation, dilation=fc6_dilation))
    units.append(ConvSpec("fc7", width * 16, 1))
    return tuple(units)


MOBILENET_CHANNELS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
"""Output channels of MobileNet v1's 13 blocks at multiplier 1 (arXiv:1704.04861, table 1)."""
MOBILENET_STRIDED = (2, 4, 6, 12)
"""Blocks whose depthwise convolution has stride 2."""


def mobilenet_v1_units(
    *,
    multiplier: float = 1.0,
    norm: Mapping[str, Any] | NormSpec | None = None,
    activation: Literal["relu", "relu6"] = "relu",
) -> tuple[Unit, ...]:
    """MobileNet v1: ``conv0`` (3x3, stride 2), then ``conv<i>_dw`` (depthwise 3x3) and ``conv<i>`` (1x1) for i = 1 … 13.

    Args:
        multiplier: factor on all channel counts.
        norm: batch normalisation behind every convolution (``NormSpec`` or its JSON form); None for a merged net,
            whose convolutions have biases instead.
        activation: ReLU in MobileNet-SSD and GluonCV, ReLU6 in TensorFlow.
    """
    spec = norm if norm is None or isinstance(norm, NormSpec) else msgspec.convert(norm, NormSpec)

    def conv(name: str, out: int, kernel: int, stride: int, groups: int = 1) -> ConvSpec:
        return ConvSpec(
            name, out, kernel, stride, kernel // 2, groups=groups, bias=spec is None, norm=spec, activation=activation
        )

    inner = int(32 * multiplier)
    units: list[Unit] = [conv("conv0", inner, 3, 2)]
    for index, width in enumerate(MOBILENET_CHANNELS, 1):
        out = int(width * multiplier)
        units.append(conv(f"conv{index}_dw", inner, 3, 2 if index in MOBILENET_STRIDED else 1, groups=inner))
        units.append(conv(f"conv{index}", out, 1, 1))
        inner = out
    return tuple(units)


SSD7_CHANNELS = (32, 48, 64, 64, 48, 48, 32)
"""Output channels of SSD7's convolutions (pierluigiferrari/ssd_keras, models/keras_ssd7.py)."""


def ssd7_units(*, width: int = 32) -> tuple[Unit, ...]:
    """``conv1`` (5x5) to ``conv7`` (3x3), each with batch normalisation (eps 1e-3) and ELU, 2x2 pools that round down between.

    Args:
        width: channels of conv1; the others keep their ratio to it.
    """
    units: list[Unit] = []
    for index, channels in enumerate(SSD7_CHANNELS, 1):
        kernel, norm = 5 if index == 1 else 3, NormSpec(1e-3)
        out = channels * width // 32
        units.append(ConvSpec(f"conv{index}", out, kernel, padding=kernel // 2, norm=norm, activation="elu"))
        units.append(PoolSpec(f"pool{index}", 2, 2, rounding="floor"))
    return tuple(units)


AIZOO_CHANNELS = (32, 64, 64, 64, 128, 128, 64, 64)
"""Output channels of the face-mask detector's convolutions (AIZOOTech/FaceMaskDetection)."""


def aizoo_units(*, norm: Mapping[str, Any] | NormSpec | None = None) -> tuple[Unit, ...]:
    """``conv2d_0`` to ``conv2d_7`` (3x3, the last without padding), a 2x2 pool that rounds up behind each of the first six.

    Args:
        norm: batch normalisation behind every convolution; None for the merged network, whose convolutions have biases.
    """
    spec = norm if norm is None or isinstance(norm, NormSpec) else msgspec.convert(norm, NormSpec)
    units: list[Unit] = []
    for index, channels in enumerate(AIZOO_CHANNELS):
        padding = 0 if index == 7 else 1
        units.append(ConvSpec(f"conv2d_{index}", channels, 3, padding=padding, bias=spec is None, norm=spec))
        if index < 6:
            units.append(PoolSpec(f"maxpool2d_{index}", 2, 2))
    return tuple(units)


UNITS: Mapping[str, Callable[..., tuple[Unit, ...]]] = {
    "vgg16": vgg16_units,
    "mobilenet_v1": mobilenet_v1_units,
    "ssd7": ssd7_units,
    "aizoo": aizoo_units,
}
"""kind -> function giving the unit list for a config's backbone options."""
