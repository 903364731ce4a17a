"""Interp (bilinear, corners aligned) and Upsample (nearest) on (N, C, H, W)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ssdconv.ssd_ref.caffe_layers.geometry import interp_size
from ssdconv.ssd_ref.caffe_layers.registry import CaffeLayer, layer


@layer("Interp")
class Interp(CaffeLayer):
    """Bilinear resize in which first and last pixels stay put; negative ``pad_beg`` and ``pad_end`` cut edges first."""

    def forward(self, x: Tensor) -> Tensor:
        size = interp_size(self.p, (x.shape[2], x.shape[3]))
        begin, end = (self.p.integer(name, 0, low=-(2**31), high=0) for name in ("pad_beg", "pad_end"))
        inner = x[:, :, -begin : x.shape[2] + end, -begin : x.shape[3] + end]
        return F.interpolate(inner, size, mode="bilinear", align_corners=True)


@layer("Upsample")
class Upsample(CaffeLayer):
    """Every pixel repeated ``scale`` times in both directions."""

    def forward(self, x: Tensor) -> Tensor:
        scale = self.p.integer("scale", 1, low=1)
        return x.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
