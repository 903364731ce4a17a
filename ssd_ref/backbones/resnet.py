"""ResNet backbones as GluonCV builds them: v1, v1b, v1s (arXiv:1512.03385) and v2 (arXiv:1603.05027).

========  =====================================================================================================
version   differs by
========  =====================================================================================================
``v1``    stride in a bottleneck's first 1x1; a bottleneck's 1x1 convolutions have biases
``v1b``   stride in a bottleneck's 3x3; no biases
``v1s``   v1b with three 3x3 convolutions (64, 64, 128 channels) in place of the 7x7
``v2``    normalisation before convolution; the pixels themselves are normalised first (``norm0``, gamma fixed to 1)
========  =====================================================================================================

Children: ``norm0`` (v2), ``conv1`` or ``conv1_1`` … ``conv1_3``, ``pool1``, then ``stage1`` … ``stage4`` of blocks ``0``, ``1``, ….

Blocks normalise behind the addition (v1, v1b, v1s) or before it (v2). Every convolution is a ``ConvUnit`` child ``conv1``, ``conv2``, …
(``.conv``, ``.norm``, ``.act``); the shortcut, where it is not the identity, is ``downsample``. Blocks take and give (N, C, H, W).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor, nn

from ssdconv.errors import FormatError
from ssdconv.ssd_ref.backbones.plain import BLOCKS
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


Version = Literal["v1", "v1b", "v1s", "v2"]

_TAP = re.compile(r"stage([1-4])(?:\.(\d+)\.act([123]))?")


class ResNet(nn.Module):
    """A ResNet up to its last tap.

    Args:
        out_indices: ``stage3`` for a stage's output; with v2 also ``stage3.7.act2``, an activation inside block 7 of stage 3.
        depth: 18, 34, 50, 101 or 152.
        version: see the module's table.
        strides: of the four stages.
        eps: of every batch normalisation.
        stride_in_3x3: where a bottleneck strides, against its version; None for the version's own place.

    Raises:
        FormatError: no such depth or tap.
    """

    def __init__(
        self,
        out_indices: Sequence[str],
        *,
        depth: int,
        version: Version = "v1",
        strides: Sequence[int] = (1, 2, 2, 2),
        eps: float = 1e-5,
        stride_in_3x3: bool | None = None,
    ) -> None:
        super().__init__()
        in_3x3 = version != "v1" if stride_in_3x3 is None else stride_in_3x3
        if depth not in BLOCKS:
            raise FormatError(f"no ResNet with {depth} layers", expected=f"one of {', '.join(map(str, BLOCKS))}")
        self.out_indices = tuple(out_indices)
        places = [_parse(tap, version, depth) for tap in out_indices]
        end = max(places, key=lambda place: (place[0], place[1], place[2] or 9))
        self.stages = tuple(f"stage{number}" for number in range(1, end[0] + 1))
        norm = NormSpec(eps)
        width = self._stem(version, norm)
        widths: dict[tuple[int, int, int], int] = {}
        for number, stride in zip(range(1, end[0] + 1), strides, strict=False):
            channels = 64 * 2 ** (number - 1) * (4 if depth >= 50 else 1)
            stage = nn.Sequential()
            for index in range(end[1] + 1 if number == end[0] else BLOCKS[depth][number - 1]):
                step = stride if index == 0 else 1
                if version == "v2":
                    until = end[2] if (number, index) == end[:2] else 0
                    block = PreActivationBlock(width, channels, step, bottleneck=depth >= 50, norm=norm, until=until)
                    widths |= {(number, index, int(act[-1])): inner for act, inner in block.widths.items()}
                    stage.append(block)
                else:
                    stage.append(_after(version, width, channels, step, depth >= 50, norm, in_3x3))
                width = widths[number, index, 0] = channels
            self.add_module(f"stage{number}", stage)
        self.channels = [widths[place] for place in places]

    def _stem(self, version: Version, norm: NormSpec) -> int:
        if version == "v2":
            self.add_module("norm0", batch_norm(3, NormSpec(norm.eps, fix_gamma=True)))
        specs = [ConvSpec("conv1", 64, 7, 2, 3, bias=False, norm=norm)]
        if version == "v1s":
            widths = ((64, 2), (64, 1), (128, 1))
            specs = [ConvSpec(f"conv1_{i}", w, 3, s, 1, bias=False, norm=norm) for i, (w, s) in enumerate(widths, 1)]
        width = 3
        for spec in specs:
            self.add_module(spec.name, ConvUnit(width, spec))
            width = spec.out_channels
        self.add_module("pool1", nn.MaxPool2d(3, 2, 1))
        return width

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> one (N, channels[i], h_i, w_i) per tap."""
        outputs: Seen = {}
        for name, child in self.named_children():
            if name not in self.stages:
                x = child(x)
                continue
            for index, block in child.named_children():
                seen: Seen = {}
                x = block(x, seen) if isinstance(block, PreActivationBlock) else block(x)
                outputs.update((f"{name}.{index}.{key}", value) for key, value in seen.items())
                outputs = {key: value for key, value in outputs.items() if key in self.out_indices}
            outputs[name] = x
        return [outputs[tap] for tap in self.out_indices]


def _after(
    version: Version, in_channels: int, channels: int, stride: int, bottleneck: bool, norm: NormSpec, in_3x3: bool
) -> ResidualBlock:
    return ResidualBlock(
        in_channels,
        channels,
        stride,
        bottleneck=bottleneck,
        stride_in_3x3=in_3x3,
        bias_1x1=version == "v1" and bottleneck,
        norm=norm,
    )


def _parse(tap: str, version: Version, depth: int) -> tuple[int, int, int]:
    """(stage, block, activation or 0) of a tap."""
    match = _TAP.fullmatch(tap)
    stage = int(match[1]) if match else 1
    block = int(match[2]) if match and match[2] else BLOCKS[depth][stage - 1] - 1
    inside = int(match[3]) if match and match[3] else 0
    if match is None or block >= BLOCKS[depth][stage - 1] or (inside and version != "v2"):
        raise FormatError(f"no layer {tap!r} to tap in ResNet-{depth} {version}", expected="such as 'stage3'")
    return stage, block, inside


def resnet(out_indices: Sequence[str], **options: object) -> ResNet:
    """A ResNet; options as in ``ResNet``."""
    return ResNet(out_indices, **options)  # type: ignore[arg-type]
