"""Torch modules of the backbones that run unit after unit, built from the lists in ``plain``: VGG-16 "reduced", MobileNet v1, Keras' ResNet50.

Children of Keras' classic ResNet50 with jedol/SSD-Keras_Tensorflow's stages 6 to 8: ``conv1`` (7x7, stride 2, padding 3, with bias),
``pool1`` (3x3, stride 2, SAME: 150 rows are padded at the bottom only), then the blocks, each with ``branch2a``, ``branch2b``, ``branch2c``,
and ``branch1`` where the shortcut has a convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ssdconv.ssd_ref.backbones.plain import UNITS, BlockSpec, PoolSpec, ScaleSpec, Unit, blocks
from ssdconv.ssd_ref.config import ConvSpec, NormSpec
from ssdconv.ssd_ref.layers import ConvUnit, SamePad, Tapped


class InputScale(nn.Module):
    """Multiply each input channel by a stored constant (GluonCV's ``init_scale``, shape (1, 3, 1, 1))."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> the same shape."""
        return x * self.scale


def max_pool(spec: PoolSpec) -> nn.Module:
    """Max pooling with the spec's treatment of what does not divide evenly."""
    if spec.rounding == "same":
        pad = SamePad(spec.kernel, spec.stride, value=float("-inf"))
        return nn.Sequential(pad, nn.MaxPool2d(spec.kernel, spec.stride))
    return nn.MaxPool2d(spec.kernel, spec.stride, spec.padding, ceil_mode=spec.rounding == "ceil")


def build_units(units: Sequence[Unit], out_indices: Sequence[str], in_channels: int = 3) -> Tapped:
    """Modules for a unit list, cut behind the last tap."""
    modules: list[tuple[str, nn.Module]] = []
    channels: dict[str, int] = {}
    for unit in units:
        if isinstance(unit, ConvSpec):
            modules.append((unit.name, ConvUnit(in_channels, unit)))
            in_channels = unit.out_channels
        elif isinstance(unit, PoolSpec):
            modules.append((unit.name, max_pool(unit)))
        elif isinstance(unit, ScaleSpec):
            modules.append((unit.name, InputScale()))
        channels[unit.name] = in_channels
    last = max((i for i, (name, _) in enumerate(modules) if name in out_indices), default=len(modules) - 1)
    return Tapped(modules[: last + 1], out_indices, [channels.get(tap, 0) for tap in out_indices])


def vgg16(out_indices: Sequence[str], **options: Any) -> Tapped:
    """VGG-16 "reduced"; options as in ``plain.vgg16_units``."""
    return build_units(UNITS["vgg16"](**options), out_indices)


def mobilenet_v1(out_indices: Sequence[str], **options: Any) -> Tapped:
    """MobileNet v1; options as in ``plain.mobilenet_v1_units``."""
    return build_units(UNITS["mobilenet_v1"](**options), out_indices)


def ssd7(out_indices: Sequence[str], **options: Any) -> Tapped:
    """The seven layers of SSD7; options as in ``plain.ssd7_units``."""
    return build_units(UNITS["ssd7"](**options), out_indices)


def aizoo(out_indices: Sequence[str], **options: Any) -> Tapped:
    """The face-mask detector's layers; options as in ``plain.aizoo_units``."""
    return build_units(UNITS["aizoo"](**options), out_indices)


class KerasBlock(nn.Module):
    """``relu(branch2c(branch2b(branch2a(x))) + shortcut)``, batch normalisation behind every convolution, no biases."""

    def __init__(self, in_channels: int, spec: BlockSpec, norm: NormSpec, stride_in_3x3: bool = False) -> None:
        super().__init__()
        side, first = spec.dilation, 1 if stride_in_3x3 else spec.stride
        step = spec.stride // first
        self.branch2a = ConvUnit(in_channels, ConvSpec("2a", spec.inner, 1, first, bias=False, norm=norm))
        self.branch2b = ConvUnit(spec.inner, ConvSpec("2b", spec.inner, 3, step, side, side, bias=False, norm=norm))
        last = ConvSpec("2c", spec.out, 1, bias=False, norm=norm, activation="none")
        self.branch2c = ConvUnit(spec.inner, last)
        shortcut = ConvSpec("1", spec.out, 1, spec.stride, bias=False, norm=norm, activation="none")
        self.branch1 = ConvUnit(in_channels, shortcut) if spec.shortcut else None
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out, ceil(H/stride), ceil(W/stride))."""
        y = self.branch2c(self.branch2b(self.branch2a(x)))
        out: Tensor = self.act(y + (x if self.branch1 is None else self.branch1(x)))
        return out


def keras_resnet50(
    out_indices: Sequence[str], *, width: int = 64, eps: float = 1e-3, stride_in_3x3: bool = False
) -> Tapped:
    """The backbone up to its last tap.

    Args:
        out_indices: block names, such as ``res3d``.
        width: channels of conv1; 64 is the published network.
        eps: of every batch normalisation.
        stride_in_3x3: blocks stride in their 3x3 convolution, which is not what jedol's network does.
    """
    norm = NormSpec(eps)
    units: list[tuple[str, nn.Module]] = [
        ("conv1", ConvUnit(3, ConvSpec("conv1", width, 7, 2, 3, norm=norm))),
        ("pool1", max_pool(PoolSpec("pool1", 3, 2, rounding="same"))),
    ]
    channels, in_channels = {}, width
    for spec in blocks(width):
        units.append((spec.name, KerasBlock(in_channels, spec, norm, stride_in_3x3)))
        in_channels = channels[spec.name] = spec.out
    return Tapped(units, out_indices, [channels.get(tap, 0) for tap in out_indices])
