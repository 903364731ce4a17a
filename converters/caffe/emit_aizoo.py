"""The face-mask detector (``ssd_ref.networks.aizoo``) in Caffe's terms: its own deploy net, which ends before the boxes.

Its priors are not what PriorBox makes, and Caffe has no layer for its detection rule, so the published net has neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ssdconv.converters.caffe.emit import INPUT, Emitted
from ssdconv.converters.caffe.net import CaffeLayer
from ssdconv.errors import MappingError
from ssdconv.ssd_ref.backbones.plain import PoolSpec, aizoo_units
from ssdconv.ssd_ref.config import ConvSpec, SSDConfig


def layers(config: SSDConfig) -> Iterator[Emitted]:
    """The deploy net's layers, under the published names.

    Raises:
        MappingError: batch normalisation is not merged: the published Caffe net has none.
    """
    assert config.staged is not None
    before = config.staged.heads.before
    if config.staged.backbone.options or before is None:
        raise MappingError("the Caffe form of this network has batch normalisation merged", where=config.name)
    top, channels = INPUT, 3
    sources = []
    for unit in aizoo_units():
        if isinstance(unit, PoolSpec):
            params = {"pool": "MAX", "kernel_size": unit.kernel, "stride": unit.stride}
            layer = CaffeLayer(unit.name, "Pooling", (top,), (unit.name,), {"pooling_param": params})
            yield Emitted(layer, f"backbone.{unit.name}")
            top = unit.name
        elif isinstance(unit, ConvSpec):
            yield from _conv(unit.name, top, channels, unit, f"backbone.{unit.name}")
            top, channels = unit.name, unit.out_channels
            if unit.name in config.staged.backbone.taps:
                sources.append((top, channels))
    for short, word, values in (("cls", "conf", config.num_classes), ("loc", "loc", 4)):
        for index, (source, width) in enumerate(sources):
            name, module = f"{short}_{index}_conv", f"heads.{word}.{index}"
            yield from _conv(f"{short}_{index}_insert_conv2d", source, width, before, module)
            anchors = len(config.priors[index].cells)
            last = ConvSpec("predictor", anchors * values, 3, padding=1, activation="none")
            yield from _conv(name, f"{short}_{index}_insert_conv2d", before.out_channels, last, module, "predictor")
            yield _plain(f"{name}_permute", "Permute", name, permute_param={"order": [0, 2, 3, 1]})
            shape = {"shape": {"dim": [0, -1, values]}}
            yield _plain(f"{short}_{index}_reshape", "Reshape", f"{name}_permute", reshape_param=shape)
            if short == "cls":
                yield _plain(f"cls_{index}_activation", "Sigmoid", f"cls_{index}_reshape")
    for short, end in (("loc", "reshape"), ("cls", "activation")):
        bottoms = tuple(f"{short}_{index}_{end}" for index in range(len(sources)))
        top = f"{short}_branch_concat"
        yield Emitted(CaffeLayer(top, "Concat", bottoms, (top,), {"concat_param": {"axis": 1}}))


def _plain(name: str, kind: str, bottom: str, **params: Any) -> Emitted:
    return Emitted(CaffeLayer(name, kind, (bottom,), (name,), params))


def _conv(name: str, bottom: str, channels: int, spec: ConvSpec, module: str, child: str = "conv") -> Iterator[Emitted]:
    params: dict[str, Any] = {"num_output": spec.out_channels, "kernel_size": [spec.kernel]}
    if spec.padding:
        params["pad"] = [spec.padding]
    shapes: tuple[tuple[int, ...], ...] = (
        (spec.out_channels, channels, spec.kernel, spec.kernel),
        (spec.out_channels,),
    )
    layer = CaffeLayer(name, "Convolution", (bottom,), (name,), {"convolution_param": params}, shapes)
    yield Emitted(layer, f"{module}.{child}", (f"{module}.{child}.weight", f"{module}.{child}.bias"), shapes)
    if spec.activation == "relu":
        yield Emitted(CaffeLayer(f"{name}_activation", "ReLU", (name,), (name,)), f"{module}.act")
