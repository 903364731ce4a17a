"""Normalisations: Caffe's BatchNorm (statistics as stored), Normalize (the L2 norm of the SSD branch), MVN and LRN; Keras' two; MXNet's L2Normalization."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdconv.ssd_ref.config import LayerSpec
from ssdconv.ssd_ref.graph.operation import Operation, ParamMessage, Result, Shape, Shapes, operation

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import functional as F
else:
    from ssdconv.ssd_ref.graph.operation import F, torch


@operation(
    "BatchNorm",
    message=ParamMessage(
        "batch_norm_param",
        139,
        "use_global_stats:b=1 moving_average_fraction:f=2 eps:f=3",
        {"eps": 1e-5, "use_global_stats": True},
    ),
)
class StoredBatchNorm(Operation):
    """``(x - mean / factor) / sqrt(variance / factor + eps)`` per channel; without gamma and beta (Scale has them).

    ``mean`` (C,), ``variance`` (C,) and ``factor`` (1,) are kept as the file has them: running sums, and their weight.
    Factor 0 makes both statistics 0. They are buffers: training leaves them alone. ``use_global_stats: false`` takes
    the statistics of the batch instead, as Caffe does when a net says so for testing.
    """

    statistics = ("mean", "variance", "factor")

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.eps = self.p.number("eps")
        self.stored = self.p.flag("use_global_stats")

    @classmethod
    def learned(cls, spec: LayerSpec) -> tuple[str, ...]:
        return cls.statistics

    def shapes(self, bottoms: Shapes) -> Result:
        self.count(bottoms)
        channels = bottoms[0][1] if len(bottoms[0]) > 1 else 1
        return bottoms, ((channels,), (channels,), (1,))

    def initial(self, name: str, shape: Shape) -> Tensor:
        return torch.zeros(shape) if name == "mean" else torch.ones(shape)

    def run(self, x: Tensor, mean: Tensor, variance: Tensor, factor: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (x.dim() - 2) if x.dim() > 1 else (1,)
        if self.stored:
            empty = factor == 0
            scale = torch.where(empty, 0.0, 1.0 / torch.where(empty, 1.0, factor)).to(x.dtype)
            mean, variance = mean * scale, variance * scale
        else:
            axes = [axis for axis in range(x.dim()) if axis != 1]
            mean, variance = x.mean(axes), x.var(axes, correction=0)
        return (x - mean.reshape(shape)) / (variance.reshape(shape) + self.eps).sqrt()


@operation(
    "Normalize",
    message=ParamMessage(
        "norm_param",
        206,
        "across_spatial:b=1 scale_filler:Filler=2 channel_shared:b=3 eps:f=4",
        {"across_spatial": True, "channel_shared": True, "eps": 1e-10},
        elsewhere=frozenset({149, 150}),
    ),
)
class Normalize(Operation):
    """``x / sqrt(sum(x^2) + eps) * weight``: the sum runs over channels, or over channels and pixels.

    Two to four axes. ``weight`` (C,), or () with ``channel_shared``. ``across_spatial`` takes one norm per image; eps stands
    inside the root. ``outside`` trains with Caffe's gradient; see ``layers.scaled_outside``.
    """

    outside = False

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.whole = self.p.flag("across_spatial")
        self.eps = self.p.number("eps")

    @classmethod
    def learned(cls, spec: LayerSpec) -> tuple[str, ...]:
        return ("weight",)

    def shapes(self, bottoms: Shapes) -> Result:
        self.count(bottoms)
        x = bottoms[0]
        if not 2 <= len(x) <= 4:
            raise self.p.fail("needs a channel axis" if len(x) < 2 else "takes at most four axes", got=x)
        return bottoms, (() if self.p.flag("channel_shared") else (x[1],),)

    def initial(self, name: str, shape: Shape) -> Tensor:
        return torch.ones(shape)

    def run(self, x: Tensor, weight: Tensor) -> Tensor:
        scale = weight.reshape((1, -1) + (1,) * (x.dim() - 2))
        if self.outside and self.training:
            from ssdconv.ssd_ref.layers import scaled_outside

            return scaled_outside(self._unit, x, scale)
        return self._unit(x) * scale

    def _unit(self, x: Tensor) -> Tensor:
        from ssdconv.ssd_ref.layers import plus

        axes = tuple(range(1, x.dim())) if self.whole else (1,)
        return x / plus(x.square().sum(axes, keepdim=True), self.eps).sqrt()


@operation(
    "MVN",
    message=ParamMessage(
        "mvn_param",
        120,
        "normalize_variance:b=1 across_channels:b=2 eps:f=3",
        {"normalize_variance": True, "across_channels": False, "eps": 1e-9},
    ),
)
class MVN(Operation):
    """``(x - mean) / (sqrt(variance) + eps)`` of each image and channel, or (``across_channels``) of each image.

    Variance is that of the values at hand (divided by their count); without ``normalize_variance`` only the mean goes.
    eps stands outside the root. Up to four axes in, always four out: Caffe fills up with axes of one.
    """

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.axes = (1, 2, 3) if self.p.flag("across_channels") else (2, 3)
        self.divides = self.p.flag("normalize_variance")
        self.eps = self.p.number("eps")

    def shapes(self, bottoms: Shapes) -> Result:
        self.count(bottoms)
        x = bottoms[0]
        if len(x) > 4:
            raise self.p.fail("takes at most four axes", got=x)
        return (x + (1,) * (4 - len(x)),), ()

    def run(self, x: Tensor) -> Tensor:
        from ssdconv.ssd_ref.layers import plus

        image = x.reshape(*x.shape, *(1,) * (4 - x.dim()))
        centred = image - image.mean(self.axes, keepdim=True)
        if not self.divides:
            return centred
        return centred / plus(centred.square().mean(self.axes, keepdim=True).sqrt(), self.eps)


@operation(
    "LRN",
    message=ParamMessage(
        "lrn_param",
        118,
        "local_size:u32=1 alpha:f=2 beta:f=3 norm_region:NormRegion=4 k:f=5 engine:Engine=6",
        {"local_size": 5, "alpha": 1.0, "beta": 0.75, "k": 1.0, "norm_region": "ACROSS_CHANNELS"},
    ),
)
class LRN(Operation):
    """Local response normalisation, ``x * (k + alpha / n * sum(x^2))^-beta``.

    ACROSS_CHANNELS sums over ``local_size`` neighbouring channels, as Caffe does: each channel's sum is the one before with one
    square added and one taken away, which rounds more than a sum of its own would. WITHIN_CHANNEL averages over a square of
    ``local_size`` pixels (padding counted) and uses 1 for k.
    """

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        p = self.p
        self.size = p.integer("local_size", low=1)
        self.alpha, self.beta, self.k = p.number("alpha"), p.number("beta"), p.number("k")
        self.across = p.choice("norm_region", None, ("ACROSS_CHANNELS", "WITHIN_CHANNEL")) == "ACROSS_CHANNELS"
        if self.size % 2 == 0:
            raise p.fail("local_size must be odd", got=self.size)

    def shapes(self, bottoms: Shapes) -> Result:
        self.image(bottoms)
        return bottoms, ()

    def run(self, x: Tensor) -> Tensor:
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


@operation("BatchNormalization", family="keras")
class BatchNormalization(Operation):
    """``(x - mean) / sqrt(variance + epsilon) * gamma + beta`` per channel, on the stored statistics.

    With ``fix_gamma`` (MXNet) gamma counts as 1, whatever is stored. ``running_mean`` and ``running_var`` are buffers: training leaves them alone.
    """

    statistics = ("running_mean", "running_var")

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.eps = self.p.number("epsilon", 1e-3)

    @classmethod
    def learned(cls, spec: LayerSpec) -> tuple[str, ...]:
        flags = (("weight", "scale"), ("bias", "center"))
        return (*(name for name, flag in flags if spec.params.get(flag, True)), *cls.statistics)

    def initial(self, name: str, shape: Shape) -> Tensor:
        return torch.zeros(shape) if name in ("bias", "running_mean") else torch.ones(shape)

    def run(
        self,
        x: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        gamma = None if self.p.flag("fix_gamma", False) else weight
        return F.batch_norm(x, running_mean, running_var, gamma, bias, False, 0.0, self.eps)


@operation("L2Normalization", family="keras")
class L2Normalization(Operation):
    """``x / sqrt(max(sum(x^2), 1e-12)) * weight`` over channels: ssd_keras' layer, made of ``K.l2_normalize``."""

    @classmethod
    def learned(cls, spec: LayerSpec) -> tuple[str, ...]:
        return ("weight",)

    def initial(self, name: str, shape: Shape) -> Tensor:
        return torch.full(shape, 20.0)

    def run(self, x: Tensor, weight: Tensor) -> Tensor:
        square = x.square().sum(1, keepdim=True)
        return x * torch.rsqrt(square.clamp(min=self.p.number("epsilon", 1e-12))) * weight[:, None, None]


@operation("PerChannel", family="keras")
class PerChannel(Operation):
    """``(x - mean) / std`` with numbers per channel: pixels that are prepared inside the network."""

    def run(self, x: Tensor) -> Tensor:
        for name, apply in (("mean", torch.sub), ("std", torch.div)):
            if values := self.p.numbers(name):
                x = apply(x, x.new_tensor(values).reshape(1, -1, 1, 1))
        return x


@operation("UnitNorm", family="mxnet")
class UnitNorm(Operation):
    """``x / sqrt(sum(x^2) + eps)`` over ``axes``: MXNet's L2Normalization (src/operator/l2_normalization-inl.h)."""

    def run(self, x: Tensor) -> Tensor:
        return x / (x.square().sum(self.p.integers("axes"), keepdim=True) + self.p.number("eps", 1e-10)).sqrt()
