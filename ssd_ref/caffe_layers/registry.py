"""Caffe layer type -> torch module."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from ssdconv.errors import FormatError
from ssdconv.ssd_ref.caffe_layers.names import blob_names
from ssdconv.ssd_ref.caffe_layers.params import Params
from ssdconv.ssd_ref.config import LayerSpec


class CaffeLayer(nn.Module):
    """Base of all layers: reads its spec, writes nothing in place.

    ``forward`` takes the bottoms' values and returns one tensor, or a tuple for several tops. All work in float32 and
    float64, on any device and memory format, for any batch size.
    """

    statistics: tuple[str, ...] = ()
    """Blobs that are not trained; they become buffers."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.p = Params(spec.params, f"layer {spec.name!r} ({spec.type})")
        self.bottoms, self.tops = len(spec.bottoms), len(spec.tops)
        names = blob_names(spec)
        if len(names) != len(spec.blobs):
            raise self.p.fail("the layer has another number of learned tensors", expected=names, got=spec.blobs)
        for name, shape in zip(names, spec.blobs, strict=True):
            value = self.initial(name, tuple(shape))
            if name in self.statistics:
                self.register_buffer(name, value)
            else:
                self.register_parameter(name, nn.Parameter(value))

    def initial(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Value of a learned tensor before weights are loaded: biases 0, kernels uniform with variance 2 / fan-in."""
        if name == "bias":
            return torch.zeros(shape)
        fan_in = 1
        for side in shape[1:]:
            fan_in *= side
        bound = (6.0 / max(fan_in, 1)) ** 0.5
        return torch.empty(shape).uniform_(-bound, bound)


Layer = TypeVar("Layer", bound=type[CaffeLayer])
LAYERS: dict[str, type[CaffeLayer]] = {}


def layer(*types: str) -> Callable[[Layer], Layer]:
    """Class decorator: the module that runs layers of these Caffe types.

    Raises:
        ValueError: a type has a module already.
    """

    def register(cls: Layer) -> Layer:
        for name in types:
            if name in LAYERS:
                raise ValueError(f"layer type {name} is registered twice: {LAYERS[name].__name__}, {cls.__name__}")
            LAYERS[name] = cls
        return cls

    return register


def build(spec: LayerSpec) -> CaffeLayer:
    """The torch module of one layer, with its learned tensors in the shapes that ``spec.blobs`` tells.

    Raises:
        FormatError: unknown type, or parameters out of range.
    """
    from ssdconv.ssd_ref.caffe_layers import all_layers  # noqa: F401

    if spec.type not in LAYERS:
        near = difflib.get_close_matches(spec.type, LAYERS, 3, 0.5)
        raise FormatError(
            f"layer type {spec.type!r} is not supported",
            where=f"layer {spec.name!r}",
            hint=f"nearest supported: {', '.join(near)}" if near else f"supported: {', '.join(sorted(LAYERS))}",
        )
    return LAYERS[spec.type](spec)
