"""BatchNorm (statistics as stored), Normalize (the L2 norm of the SSD branch), MVN and LRN, on (N, C, H, W)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ssdconv.ssd_ref.caffe_layers.registry import CaffeLayer, layer
from ssdconv.ssd_ref.config import LayerSpec
from ssdconv.ssd_ref.layers import plus, scaled_outside


@layer("BatchNorm")
class BatchNorm(CaffeLayer):
    """``(x - mean / factor) / sqrt(variance / factor + eps)`` per channel; without gamma and beta (Scale has them).

    ``mean`` (C,), ``variance`` (C,) and ``factor`` (1,) are kept as the file has them: running sums, and their weight.
    Factor 0 makes both statistics 0. They are buffers: training leaves them alone. ``use_global_stats: false`` takes
    the statistics of the batch instead, as Caffe does when a net says so for testing.
    """

    statistics = ("mean", "variance", "factor")
    mean: Tensor
    variance: Tensor
    factor: Tensor

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.eps = self.p.number("eps", 1e-5)
        self.stored = self.p.flag("use_global_stats", True)

    def initial(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(shape) if name == "mean" else torch.ones(shape)

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (x.dim() - 2) if x.dim() > 1 else (1,)
        if self.stored:
            empty = self.factor == 0
            scale = torch.where(empty, 0.0, 1.0 / torch.where(empty, 1.0, self.factor)).to(x.dtype)
            mean, variance = self.mean * scale, self.variance * scale
        else:
            axes = [axis for axis in range(x.dim()) if axis != 1]
            mean, variance = x.mean(axes), x.var(axes, correction=0)
        return (x - mean.reshape(shape)) / (variance.reshape(shape) + self.eps).sqrt()


@layer("Normalize")
class Normalize(CaffeLayer):
    """``x / sqrt(sum(x^2) + eps) * weight``: the sum runs over channels, or over channels and pixels.

    Two to four axes. ``weight`` (C,), or () with ``channel_shared``. ``across_spatial`` takes one norm per image; eps is 1e-10 and stands
    inside the root. ``outside`` trains with Caffe's gradient; see ``scaled_outside``.
    """

    weight: Tensor
    outside = False

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.whole = self.p.flag("across_spatial", True)
        self.eps = self.p.number("eps", 1e-10)

    def initial(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return torch.ones(shape)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight.reshape((1, -1) + (1,) * (x.dim() - 2))
        if self.outside and self.training:
            return scaled_outside(self._unit, x, scale)
        return self._unit(x) * scale

    def _unit(self, x: Tensor) -> Tensor:
        axes = tuple(range(1, x.dim())) if self.whole else (1,)
        return x / plus(x.square().sum(axes, keepdim=True), self.eps).sqrt()


@layer("MVN")
class MVN(CaffeLayer):
    """``(x - mean) / (sqrt(variance) + eps)`` of each image and channel, or (``across_channels``) of each image.

    Variance is that of the values at hand (divided by their count); without ``normalize_variance`` only the mean goes.
    eps is 1e-9 and stands outside the root. Up to four axes in, always four out: Caffe fills up with axes of one.
    """

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.axes = (1, 2, 3) if self.p.flag("across_channels", False) else (2, 3)
        self.divides = self.p.flag("normalize_variance", True)
        self.eps = self.p.number("eps", 1e-9)

    def forward(self, x: Tensor) -> Tensor:
        image = x.reshape(*x.shape, *(1,) * (4 - x.dim()))
        centred = image - image.mean(self.axes, keepdim=True)
        if not self.divides:
            return centred
        return centred / plus(centred.square().mean(self.axes, keepdim=True).sqrt(), self.eps)


@layer("LRN")
class LRN(CaffeLayer):
    """Local response normalisation, ``x * (k + alpha / n * sum(x^2))^-beta``.

    ACROSS_CHANNELS sums over ``local_size`` neighbouring channels, as Caffe does: each channel's sum is the one before with one
    square added and one taken away, which rounds more than a sum of its own would. WITHIN_CHANNEL averages over a square of
    ``local_size`` pixels (padding counted) and uses 1 for k.
    """

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        p = self.p
        self.size = p.integer("local_size", 5, low=1)
        self.alpha, self.beta, self.k = p.number("alpha", 1.0), p.number("beta", 0.75), p.number("k", 1.0)
        regions = ("ACROSS_CHANNELS", "WITHIN_CHANNEL")
        self.across = p.choice("norm_region", "ACROSS_CHANNELS", regions) == "ACROSS_CHANNELS"
        if self.size % 2 == 0:
            raise p.fail("local_size must be odd", got=self.size)

    def forward(self, x: Tensor) -> Tensor:
        half = self.size // 2
        square = x.square()
        if self.across:
            parts = F.pad(self.alpha / self.size * square, (0, 0, 0, 0, half, half))
            scales = [self.k + parts[:, : self.size].sum(1)]
            for channel in range(1, x.shape[1]):
                scales.append(scales[-1] + parts[:, channel + self.size - 1] - parts[:, channel - 1])
            return x * torch.stack(scales, 1).pow(-self.beta)
        mean = F.avg_pool2d(square, self.size, 1, half)
        return x * (1.0 + self.alpha * mean).pow(-self.beta)
