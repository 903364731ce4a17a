"""Where Caffe's layers and the reference's modules compute the same value."""

from __future__ import annotations

from ssdconv.converters.caffe.emit import emit
from ssdconv.ssd_ref.caffe_layers.names import module_name
from ssdconv.ssd_ref.config import SSDConfig

Probe = tuple[str, str]
"""(Caffe layer name, path of the reference module)."""


def probe_map(config: SSDConfig) -> tuple[Probe, ...]:
    """Every learned, activation, pooling and normalisation layer of the network with its reference module."""
    if config.graph:
        return tuple((layer.name, f"graph.{module_name(layer.name)}") for layer in config.graph.layers)
    return tuple((e.layer.name, e.module) for e in emit(config) if e.module)
