"""The part of a Caffe net that runs at test time, and what feeds it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from ssdconv.converters.caffe.net import CaffeLayer, CaffeNet, Shape
from ssdconv.converters.caffe.specs import spec_of
from ssdconv.converters.caffe.wiring import Wiring, without_splits
from ssdconv.errors import FormatError
from ssdconv.ssd_ref.caffe_layers.names import blob_names
from ssdconv.ssd_ref.config import LayerSpec

DATA_TYPES = frozenset(
    {"AnnotatedData", "Data", "DummyData", "HDF5Data", "ImageData", "Input", "MemoryData", "Python", "VideoData"}
    | {"WindowData"}
)
"""Layers without bottoms that bring images (and labels)."""


@dataclass(frozen=True)
class Selected:
    """A net reduced to its test phase.

    Attributes:
        wiring: its layers without data layers and without Caffe's own Splits.
        data: its data layers, those of the test phase first.
        inputs: input blobs with shapes where the net tells them, () where not.
        warnings: what was changed on the way.
    """

    wiring: Wiring
    data: tuple[CaffeLayer, ...]
    inputs: dict[str, Shape]
    warnings: tuple[str, ...]


def select(net: CaffeNet) -> Selected:
    """Reduce a deploy, train or test net to what runs at test time.

    MultiBoxLoss stays whatever its phase: it tells which blobs are loc, conf and priors.

    Raises:
        FormatError: two learned layers share a name.
    """
    data = tuple(layer for layer in net.layers if layer.type in DATA_TYPES and not layer.bottoms)
    kept = [
        layer for layer in net.layers if layer not in data and (layer.phase != "TRAIN" or layer.type == "MultiBoxLoss")
    ]
    warnings: list[str] = []
    specs = _unique([spec_of(layer) for layer in kept], warnings)
    if any(spec.type == "MultiBoxLoss" for spec in specs):
        specs = [_stored_statistics(spec, warnings) for spec in specs]
    inputs = dict(net.inputs)
    for layer in data:
        for top in layer.tops[:1]:
            inputs.setdefault(top, ())
    ordered = tuple(sorted(data, key=lambda layer: layer.phase == "TRAIN"))
    return Selected(Wiring(without_splits(specs)), ordered, inputs, tuple(warnings))


def _unique(specs: list[LayerSpec], warnings: list[str]) -> list[LayerSpec]:
    """Layers without learned values may repeat a name (Caffe allows it): later ones get a number."""
    seen: Counter[str] = Counter()
    taken = {spec.name for spec in specs}
    result = []
    for spec in specs:
        seen[spec.name] += 1
        if seen[spec.name] > 1 or not spec.name:
            if blob_names(spec):
                raise FormatError(
                    "two learned layers share a name, or have none", where=f"layer {spec.name!r} ({spec.type})"
                )
            stem, number = spec.name or spec.type, max(seen[spec.name], 2)
            while f"{stem}#{number}" in taken:
                number += 1
            warnings.append(f"a second layer named {spec.name!r} is called {stem}#{number}")
            taken.add(f"{stem}#{number}")
            spec = replace(spec, name=f"{stem}#{number}")
        result.append(spec)
    return result


def _stored_statistics(spec: LayerSpec, warnings: list[str]) -> LayerSpec:
    """A train net may ask for batch statistics; the trained net is run with the stored ones."""
    if spec.type != "BatchNorm" or spec.params.get("use_global_stats", True):
        return spec
    note = "this train net normalises by batch statistics; the stored ones are used, as in a deploy net"
    if note not in warnings:
        warnings.append(note)
    return replace(spec, params={k: v for k, v in spec.params.items() if k != "use_global_stats"})
