"""Building blocks of a staged SSD: convolution units, normalisations in their sources' variants, extra stages, loc and conf heads.

All tensors are NCHW. Every step that a source framework can show is a module of its own, so that a forward hook reads it:
``<unit>.conv``, ``<unit>.norm``, ``<unit>.act``. Nothing works in place. Stages and heads are those of arXiv:1512.02325, figure 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssdconv.errors import FormatError
from ssdconv.ssd_ref.config import ConvSpec, Extras, Heads, L2NormSpec, NormSpec

_SCALE = 2.0**40
_TINY = 1e-6


def plus(x: Tensor, eps: float) -> Tensor:
    """``x + eps``, bit for bit, for magnitudes up to 1e26.

    The optimizer of torch's ONNX exporter takes what is within 1e-8 of zero for zero and leaves the addition out; a normalisation
    of a pixel whose channels are all zero then divides zero by zero. So tiny numbers are added 2**40 times as large, which
    changes no digit.
    """
    if abs(eps) >= _TINY:
        return x + eps
    return (x * _SCALE + eps * _SCALE) * (1 / _SCALE)


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation with a learned or fixed gamma and without torch's step counter.

    With ``fix_gamma`` the stored gamma (``weight``) is kept as it came but counts as 1 (MXNet ``BatchNorm(fix_gamma=True)``).
    With ``biased`` training averages the batch's variance as it is (MXNet) instead of times n / (n - 1) (torch, Caffe).
    """

    def __init__(self, channels: int, eps: float = 1e-5, fix_gamma: bool = False) -> None:
        super().__init__(channels, eps=eps)
        self.fix_gamma = fix_gamma
        self.biased = False
        self.register_buffer("num_batches_tracked", None)
        if fix_gamma:
            self.weight.requires_grad_(False)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        # torch adds a step counter to dicts that do not say "version 2", and would then miss a place for it.
        super()._load_from_state_dict(state_dict, prefix, {**local_metadata, "version": 2}, *rest)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        if not (self.training and self.biased) or self.running_var is None:
            return self._normalize(input)
        held = self.running_var
        self.running_var = written = held.clone()  # backward keeps the tensor that forward wrote to, so that one stays
        output = self._normalize(input)
        with torch.no_grad():
            held.copy_(written - (written - held * (1.0 - self._share)) * (input.shape[1] / input.numel()))
        self.running_var = held
        return output

    @property
    def _share(self) -> float:
        """Share of the batch in the running statistics."""
        return 0.1 if self.momentum is None else self.momentum

    def _normalize(self, input: Tensor) -> Tensor:
        if not self.fix_gamma:
            return super().forward(input)
        return F.batch_norm(
            input, self.running_mean, self.running_var, None, self.bias, self.training, self._share, self.eps
        )


class Standardize(nn.Module):
    """Caffe's BatchNorm layer: statistics stored as sums with their weight in a third blob, no affine part.

    ``y = (x - mean/factor) / sqrt(variance/factor + eps)``; factor 0 means "no statistics": both count as 0
    (caffe/src/caffe/layers/batch_norm_layer.cpp). The blobs are kept as stored, so that they can be written back.
    """

    mean: Tensor
    variance: Tensor
    factor: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.register_buffer("factor", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        inverse = torch.where(self.factor == 0, self.factor, 1.0 / self.factor)
        mean, variance = self.mean * inverse, self.variance * inverse
        if self.training:
            with torch.no_grad():
                self.mean.copy_(mean)
                self.variance.copy_(variance)
                self.factor.fill_(1.0)
            return F.batch_norm(x, self.mean, self.variance, training=True, momentum=self.momentum, eps=self.eps)
        return F.batch_norm(x, mean, variance, training=False, eps=self.eps)


class ChannelAffine(nn.Module):
    """``y = x * weight + bias`` per channel (Caffe's Scale layer behind BatchNorm)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        return x * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


def batch_norm(channels: int, spec: NormSpec) -> nn.Module:
    """The batch normalisation that ``spec`` describes."""
    if spec.accumulated:
        return nn.Sequential(*[Standardize(channels, spec.eps), ChannelAffine(channels)])
    return BatchNorm(channels, spec.eps, spec.fix_gamma)


class L2Norm(nn.Module):
    """Normalise each position's channel vector to unit length, then scale each channel (ParseNet, arXiv:1506.04579).

    The place of eps differs between sources; see ``L2NormSpec``. The scale starts at 20 and is learned. ``outside`` trains with
    Caffe's gradient; see ``scaled_outside``.
    """

    outside = False

    def __init__(self, channels: int, spec: L2NormSpec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), 20.0))
        self.eps = spec.eps
        self.form = spec.form

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        scale = self.weight.view(1, -1, 1, 1)
        if self.outside and self.training:
            return scaled_outside(self._unit, x, scale)
        return self._unit(x) * scale

    def _unit(self, x: Tensor) -> Tensor:
        squares = (x * x).sum(dim=1, keepdim=True)
        if self.form == "inside":
            return x / plus(squares, self.eps).sqrt()
        if self.form == "outside":
            return x / plus(_root(squares), self.eps)
        if self.form == "max_inside":
            return x * squares.clamp_min(self.eps).rsqrt()
        return x / _root(squares).clamp_min(self.eps)


def scaled_outside(unit: Callable[[Tensor], Tensor], x: Tensor, scale: Tensor) -> Tensor:
    """``unit(x) * scale`` with the gradient that Caffe's Normalize layer hands down: ``scale * J(g)``, where J is the derivative of
    ``unit`` and g the gradient of the output. The true one is ``J(scale * g)``; both are equal where all channels' scales are.
    """
    held = x.detach()
    found = unit(held + scale.detach().to(x.dtype) * (x - held))
    return found.detach() * scale + (found - found.detach())


def _root(squares: Tensor) -> Tensor:
    """Square root whose gradient is 0 at 0, where sqrt's is infinite and would make 0 · inf = NaN of an all-zero column."""
    return squares.clamp_min(1e-36).sqrt()


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """TensorFlow's SAME padding of one axis as (before, after); the odd pixel goes after.

    On even sizes with stride 2 this is (0, 1), not (1, 1): see tensorflow.org "Neural network: convolution".
    """
    span = (kernel - 1) * dilation + 1
    total = max((-(-size // stride) - 1) * stride + span - size, 0)
    return total // 2, total - total // 2


class SamePad(nn.Module):
    """Zero (or ``value``) padding by TensorFlow's SAME rule for the layer that follows."""

    def __init__(self, kernel: int, stride: int, dilation: int = 1, value: float = 0.0) -> None:
        super().__init__()
        self.kernel, self.stride, self.dilation, self.value = kernel, stride, dilation, value

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H + pads, W + pads)."""
        top, bottom = same_padding(x.shape[-2], self.kernel, self.stride, self.dilation)
        left, right = same_padding(x.shape[-1], self.kernel, self.stride, self.dilation)
        return F.pad(x, (left, right, top, bottom), value=self.value)


_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6, "elu": nn.ELU}


class ConvUnit(nn.Sequential):
    """Convolution, then batch normalisation and activation where the spec has them (children conv, norm, act)."""

    def __init__(self, in_channels: int, spec: ConvSpec) -> None:
        super().__init__()
        padding = spec.padding
        if padding == "same":
            self.add_module("pad", SamePad(spec.kernel, spec.stride, spec.dilation))
            padding = 0
        self.add_module(
            "conv",
            nn.Conv2d(
                in_channels,
                spec.out_channels,
                spec.kernel,
                spec.stride,
                padding,
                spec.dilation,
                spec.groups,
                bias=spec.bias,
            ),
        )
        if spec.norm is not None:
            self.add_module("norm", batch_norm(spec.out_channels, spec.norm))
        if spec.activation != "none":
            self.add_module("act", _ACTIVATIONS[spec.activation]())


class Tapped(nn.Module):
    """Named modules run one after the other; the outputs of the units in ``out_indices`` are returned.

    Args:
        units: (name, module) in order of execution.
        out_indices: names of the units whose outputs are wanted, in order; nothing behind the last one may be left over.
        channels: output channels of each tap.
    """

    def __init__(
        self, units: Iterable[tuple[str, nn.Module]], out_indices: Sequence[str], channels: Sequence[int]
    ) -> None:
        super().__init__()
        for name, unit in units:
            self.add_module(name, unit)
        unknown = [tap for tap in out_indices if tap not in self._modules]
        if unknown:
            raise FormatError(f"no layer {unknown[0]!r} to tap", expected=f"one of {', '.join(self._modules)}")
        self.out_indices = tuple(out_indices)
        self.channels = tuple(channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> one (N, channels[i], h_i, w_i) per tap."""
        outputs: dict[str, Tensor] = {}
        for name, unit in self.named_children():
            x = unit(x)
            if name in self.out_indices:
                outputs[name] = x
        return [outputs[tap] for tap in self.out_indices]


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
