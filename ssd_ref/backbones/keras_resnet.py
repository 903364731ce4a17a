"""Keras' classic ResNet50 with jedol/SSD-Keras_Tensorflow's stages 6 to 8; see ``keras_resnet_shape`` for what differs from others.

Children: ``conv1`` (7x7, stride 2, padding 3, with bias), ``pool1`` (3x3, stride 2, SAME: 150 rows are padded at the bottom only), then the
blocks, each with ``branch2a``, ``branch2b``, ``branch2c``, and ``branch1`` where the shortcut has a convolution.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ssdconv.ssd_ref.backbones.keras_resnet_shape import BlockSpec, blocks
from ssdconv.ssd_ref.backbones.plain import PoolSpec
from ssdconv.ssd_ref.backbones.sequential import max_pool
from ssdconv.ssd_ref.config import ConvSpec, NormSpec
from ssdconv.ssd_ref.layers import ConvUnit, Tapped


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


def keras_resnet50(taps: Sequence[str], *, width: int = 64, eps: float = 1e-3, stride_in_3x3: bool = False) -> Tapped:
    """The backbone up to its last tap.

    Args:
        taps: block names, such as ``res3d``.
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
    return Tapped(units, taps, [channels.get(tap, 0) for tap in taps])
