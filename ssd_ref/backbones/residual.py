"""Residual blocks of the ResNet backbones: behind the addition (v1, v1b, v1s; arXiv:1512.03385) or before it (v2; arXiv:1603.05027).

Every convolution is a ``ConvUnit`` child ``conv1``, ``conv2``, … (``.conv``, ``.norm``, ``.act``); the shortcut, where it is not the
identity, is ``downsample``. Blocks take and give (N, C, H, W).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ssdconv.ssd_ref.config import ConvSpec, NormSpec
from ssdconv.ssd_ref.layers import ConvUnit, batch_norm

Seen = dict[str, Tensor]


class ResidualBlock(nn.Module):
    """``relu(body(x) + shortcut(x))``: two 3x3 convolutions, or 1x1, 3x3, 1x1 ("bottleneck") with a quarter of the channels.

    Args:
        in_channels, channels: of input and output.
        stride: of the block.
        bottleneck: three convolutions instead of two.
        stride_in_3x3: a bottleneck strides in its 3x3 convolution (v1b, v1s) and not in its first 1x1 (v1).
        bias_1x1: the body's 1x1 convolutions have biases (GluonCV's v1).
        norm: batch normalisation behind every convolution.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        *,
        bottleneck: bool,
        stride_in_3x3: bool,
        bias_1x1: bool,
        norm: NormSpec,
    ) -> None:
        super().__init__()
        first = 1 if stride_in_3x3 else stride
        if bottleneck:
            inner = channels // 4
            specs = [
                ConvSpec("conv1", inner, 1, first, bias=bias_1x1, norm=norm),
                ConvSpec("conv2", inner, 3, stride // first, 1, bias=False, norm=norm),
                ConvSpec("conv3", channels, 1, bias=bias_1x1, norm=norm, activation="none"),
            ]
        else:
            specs = [
                ConvSpec("conv1", channels, 3, stride, 1, bias=False, norm=norm),
                ConvSpec("conv2", channels, 3, 1, 1, bias=False, norm=norm, activation="none"),
            ]
        inner_channels = in_channels
        for spec in specs:
            self.add_module(spec.name, ConvUnit(inner_channels, spec))
            inner_channels = spec.out_channels
        self.convs = tuple(spec.name for spec in specs)
        if in_channels != channels:
            shortcut = ConvSpec("downsample", channels, 1, stride, bias=False, norm=norm, activation="none")
            self.downsample: ConvUnit | None = ConvUnit(in_channels, shortcut)
        else:
            self.downsample = None
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, channels, H/stride, W/stride)."""
        y = x
        for name in self.convs:
            y = self.get_submodule(name)(y)
        out: Tensor = self.act(y + (x if self.downsample is None else self.downsample(x)))
        return out


class PreActivationBlock(nn.Module):
    """``body(x) + shortcut(relu(norm(x)))`` with batch normalisation and ReLU before each convolution.

    Children run ``norm1, act1, conv1, norm2, act2, conv2, …``; convolutions have no biases. The shortcut is a plain 1x1
    convolution of ``act1``'s output, or x itself.

    Args:
        in_channels, channels: of input and output.
        stride: of the block; a bottleneck strides in its 3x3 convolution.
        bottleneck: three convolutions instead of two.
        norm: batch normalisation before every convolution.
        until: end with the output of ``act<until>``; what would follow does not exist. 0 for a whole block.
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int, *, bottleneck: bool, norm: NormSpec, until: int = 0
    ) -> None:
        super().__init__()
        inner = channels // 4 if bottleneck else channels
        shapes = [(inner, 1, 1), (inner, 3, stride), (channels, 1, 1)] if bottleneck else None
        shapes = shapes or [(channels, 3, stride), (channels, 3, 1)]
        self.until = until
        self.widths: dict[str, int] = {}
        width = in_channels
        for index, (out, kernel, step) in enumerate(shapes, 1):
            self.add_module(f"norm{index}", batch_norm(width, norm))
            self.add_module(f"act{index}", nn.ReLU())
            self.widths[f"act{index}"] = width
            if index == until:
                break
            self.add_module(f"conv{index}", nn.Conv2d(width, out, kernel, step, kernel // 2, bias=False))
            width = out
        self.downsample = (
            nn.Conv2d(in_channels, channels, 1, stride, bias=False) if in_channels != channels and not until else None
        )

    def forward(self, x: Tensor, seen: Seen | None = None) -> Tensor:
        """(N, in_channels, H, W) -> (N, channels, H/stride, W/stride), or the output of ``act<until>``.

        Args:
            x: input.
            seen: receives the outputs of ``act1``, ``act2``, … under these names.
        """
        children: Mapping[str, nn.Module | None] = self._modules
        y, shortcut = x, x
        for index in range(1, len(self.widths) + 1):
            y = self.get_submodule(f"act{index}")(self.get_submodule(f"norm{index}")(y))
            if seen is not None:
                seen[f"act{index}"] = y
            if index == 1 and self.downsample is not None:
                shortcut = self.downsample(y)
            if f"conv{index}" in children:
                y = self.get_submodule(f"conv{index}")(y)
        return y if self.until else y + shortcut
