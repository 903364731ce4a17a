"""What backbones are made of, as lists of layer specs, and the maps that they give. Imports no torch.

Backbones without branches (VGG-16 "reduced", MobileNet v1 …) are lists of units, from which the torch modules (``sequential``) and Caffe's
prototxt are both made. Of ResNets the depths are here (arXiv:1512.03385, table 1), and the blocks of Keras' classic ResNet50 as
jedol/SSD-Keras_Tensorflow extends it: called as in Keras, ``res2a`` … ``res5c``, then ``res6a``, ``res7a``, ``res8a`` in place of SSD's extra
stages. Their stride is in a block's first 1x1 convolution and its shortcut; stage 5 has stride 1; in 5b and 5c, not in 5a, the 3x3
convolution is dilated by 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

import msgspec

from ssdconv.errors import UsageError
from ssdconv.ssd_ref.config import ConvSpec, Graph, Heads, NormSpec, Staged

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


BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Depth -> blocks per stage; from 50 layers on the blocks are bottlenecks."""


@dataclass(frozen=True)
class BlockSpec:
    """One bottleneck block.

    Attributes:
        name: ``res3a``.
        inner, out: channels of its first two convolutions, and of its output.
        stride: of the block.
        dilation: of its 3x3 convolution.
        shortcut: it has a convolution in its shortcut (``branch1``).
    """

    name: str
    inner: int
    out: int
    stride: int
    dilation: int
    shortcut: bool


STAGES = ((2, 3, 64, 256, 1), (3, 4, 128, 512, 2), (4, 6, 256, 1024, 2), (5, 3, 512, 2048, 1))
"""Stage, blocks, inner and output channels, stride."""


def blocks(width: int = 64) -> tuple[BlockSpec, ...]:
    """All blocks in order; ``width`` 64 is the published network, others scale the channels."""
    found = []
    for stage, count, inner, out, stride in STAGES:
        for index in range(count):
            dilation = 2 if stage == 5 and index else 1
            found.append(
                BlockSpec(
                    f"res{stage}{'abcdef'[index]}",
                    inner * width // 64,
                    out * width // 64,
                    1 if index else stride,
                    dilation,
                    not index,
                )
            )
    more = (BlockSpec(f"res{stage}a", 128 * width // 64, 512 * width // 64, 2, 1, True) for stage in (6, 7, 8))
    return (*found, *more)


Size = tuple[int, int]


def can_tell(layers: Staged | Graph) -> TypeGuard[Staged]:
    """Whether ``grids_of`` knows the backbone (one without branches)."""
    return isinstance(layers, Staged) and layers.kind in UNITS and layers.extras.pool == "none"


def grids_of(staged: Staged, size: Size) -> tuple[Size, ...]:
    """Rows and columns of each head's output, in the order of the maps.

    Args:
        staged: a network for which ``can_tell`` is true.
        size: input height and width in pixels.

    Raises:
        UsageError: the input is too small for the layers.
    """
    maps = []
    at = size
    for unit in UNITS[staged.backbone.kind](**staged.backbone.options):
        if isinstance(unit, PoolSpec):
            at = _pooled(at, unit)
        elif not isinstance(unit, ScaleSpec):
            at = _convolved(at, unit)
        if unit.name in staged.backbone.out_indices:
            maps.append(at)
    for stage in staged.extras.stages:
        for spec in stage:
            at = _convolved(at, spec)
        maps.append(at)
    grids = tuple(_headed(at, staged.heads) for at in maps)
    if any(side < 1 for grid in grids for side in grid):
        raise UsageError("the input is too small for this network's layers", got=f"{size[1]}x{size[0]} pixels")
    return grids


def _convolved(at: Size, spec: ConvSpec) -> Size:
    rows, columns = (_side(n, spec.kernel, spec.stride, spec.padding, spec.dilation) for n in at)
    return rows, columns


def _side(side: int, kernel: int, stride: int, padding: int | str, dilation: int) -> int:
    if isinstance(padding, str):
        return -(-side // stride)
    return (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _pooled(at: Size, spec: PoolSpec) -> Size:
    if spec.rounding == "same":
        return -(-at[0] // spec.stride), -(-at[1] // spec.stride)
    sides = []
    for side in at:
        room = side + 2 * spec.padding - spec.kernel
        steps = -(-room // spec.stride) if spec.rounding == "ceil" else room // spec.stride
        if spec.padding and spec.rounding == "ceil" and steps * spec.stride >= side + spec.padding:
            steps -= 1  # a window must start inside the image or its left padding
        sides.append(steps + 1)
    return sides[0], sides[1]


def _headed(at: Size, heads: Heads) -> Size:
    shrink = heads.kernel - 1 - 2 * heads.pad
    if heads.before is not None:
        at = _convolved(at, heads.before)
    return at[0] - shrink, at[1] - shrink
