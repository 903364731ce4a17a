"""Torch modules of the backbones without branches (VGG-16 "reduced", MobileNet v1), built from their unit lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ssdconv.ssd_ref.backbones.plain import UNITS, PoolSpec, ScaleSpec, Unit
from ssdconv.ssd_ref.config import ConvSpec
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


def build_units(units: Sequence[Unit], taps: Sequence[str], in_channels: int = 3) -> Tapped:
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
    last = max((i for i, (name, _) in enumerate(modules) if name in taps), default=len(modules) - 1)
    return Tapped(modules[: last + 1], taps, [channels.get(tap, 0) for tap in taps])


def vgg16(taps: Sequence[str], **options: Any) -> Tapped:
    """VGG-16 "reduced"; options as in ``plain.vgg16_units``."""
    return build_units(UNITS["vgg16"](**options), taps)


def mobilenet_v1(taps: Sequence[str], **options: Any) -> Tapped:
    """MobileNet v1; options as in ``plain.mobilenet_v1_units``."""
    return build_units(UNITS["mobilenet_v1"](**options), taps)


def ssd7(taps: Sequence[str], **options: Any) -> Tapped:
    """The seven layers of SSD7; options as in ``plain.ssd7_units``."""
    return build_units(UNITS["ssd7"](**options), taps)


def aizoo(taps: Sequence[str], **options: Any) -> Tapped:
    """The face-mask detector's layers; options as in ``plain.aizoo_units``."""
    return build_units(UNITS["aizoo"](**options), taps)
