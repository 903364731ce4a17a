"""Extra feature stages and the loc/conf heads of a staged SSD (arXiv:1512.02325, figure 2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ssdconv.ssd_ref.config import ConvSpec, Extras, Heads
from ssdconv.ssd_ref.layers import ConvUnit, L2Norm


class ExtraStages(nn.Module):
    """Stages of convolutions behind the backbone; each stage's output is one more feature map.

    Children carry the names of the conv specs (``conv6_1``, ``conv6_2``, …).
    """

    def __init__(self, in_channels: int, extras: Extras) -> None:
        super().__init__()
        self.stages: list[tuple[str, ...]] = []
        self.channels: list[int] = []
        for stage in extras.stages:
            for spec in stage:
                self.add_module(spec.name, ConvUnit(in_channels, spec))
                in_channels = spec.out_channels
            self.stages.append(tuple(spec.name for spec in stage))
            self.channels.append(in_channels)
        if extras.pool != "none":
            pool = nn.AvgPool2d(3, 1) if extras.pool == "avg3" else nn.AdaptiveAvgPool2d(1)
            self.add_module("pool", pool)
            self.stages.append(("pool",))
            self.channels.append(in_channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, H, W) of the last backbone tap -> one (N, channels[i], h_i, w_i) per stage."""
        outputs = []
        for stage in self.stages:
            for name in stage:
                x = self.get_submodule(name)(x)
            outputs.append(x)
        return outputs


def _head(channels: int, outputs: int, heads: Heads) -> nn.Module:
    if heads.depthwise is not None:
        depthwise = ConvSpec(
            "dw", channels, heads.kernel, padding=heads.pad, groups=channels, bias=False, norm=heads.depthwise
        )
        unit = ConvUnit(channels, depthwise)
        unit.add_module("predictor", nn.Conv2d(channels, outputs, 1, bias=heads.bias))
        return unit
    if heads.before is not None:
        unit = ConvUnit(channels, heads.before)
        inner = heads.before.out_channels
        unit.add_module("predictor", nn.Conv2d(inner, outputs, heads.kernel, padding=heads.pad, bias=heads.bias))
        return unit
    return nn.Conv2d(channels, outputs, heads.kernel, padding=heads.pad, bias=heads.bias)


class MultiBoxHeads(nn.Module):
    """L2 normalisation where configured, then a loc and a conf convolution per feature map.

    Children: ``l2norm.<source index>``, ``loc.<i>``, ``conf.<i>``. Output channels are anchor-major: for loc four
    consecutive channels (dx, dy, dw, dh) per anchor, for conf ``num_classes`` consecutive channels per anchor.
    """

    def __init__(self, channels: Sequence[int], anchors: Sequence[int], num_classes: int, heads: Heads) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.l2norm = nn.ModuleDict({str(k): L2Norm(channels[k], spec) for k, spec in heads.l2norm.items()})
        self.loc = nn.ModuleList(_head(c, 4 * a, heads) for c, a in zip(channels, anchors, strict=True))
        self.conf = nn.ModuleList(_head(c, num_classes * a, heads) for c, a in zip(channels, anchors, strict=True))

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Feature maps (N, C_i, h_i, w_i) -> loc (N, P, 4), conf (N, P, num_classes): cells row-major, anchors inner."""
        locs, confs = [], []
        for index, (x, loc, conf) in enumerate(zip(features, self.loc, self.conf, strict=True)):
            if str(index) in self.l2norm:
                x = self.l2norm[str(index)](x)
            n = x.shape[0]
            locs.append(loc(x).permute(0, 2, 3, 1).reshape(n, -1, 4))
            confs.append(conf(x).permute(0, 2, 3, 1).reshape(n, -1, self.num_classes))
        return torch.cat(locs, 1), torch.cat(confs, 1)
