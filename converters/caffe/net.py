"""A Caffe network definition as plain data, from a .prototxt or from the layer list inside a .caffemodel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Shape = tuple[int, ...]
MAX_DIMS = 32  # Caffe's kMaxBlobAxes
MAX_SIDE = 2**31 - 1


@dataclass(frozen=True)
class CaffeLayer:
    """One layer; V1 ``layers`` are upgraded to V2 terms.

    Attributes:
        name, type: as in the file; V1 enum types become V2 names ("CONVOLUTION" -> "Convolution").
        bottoms, tops: blob names.
        params: every set ``*_param`` message (and ``transform_param``) as plain JSON data with the schema's field names,
            repeated fields as lists, enums as their names: ``{"convolution_param": {"num_output": 64, "pad": [1]}}``.
        blobs: shapes of the blobs stored for the layer, in order (empty for a prototxt).
        shared: per learned blob the name in ``param { name: … }``, "" where unnamed.
        phase: "TRAIN" or "TEST" where include/exclude rules restrict the layer to one, else "". The layer's own ``phase``
            field is no such rule: training snapshots carry ``phase: TRAIN`` in every layer.
    """

    name: str
    type: str
    bottoms: tuple[str, ...] = ()
    tops: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    blobs: tuple[Shape, ...] = ()
    shared: tuple[str, ...] = ()
    phase: str = ""


@dataclass(frozen=True)
class CaffeNet:
    """A network definition.

    Attributes:
        name: the net's own name.
        inputs: input blob -> shape, from ``input``/``input_dim``/``input_shape`` and Input layers; empty for train nets.
        layers: in file order, all phases.
        unknown: fields that the schema does not know, as "layer conv1: field 'foo'" – tolerated and listed.
    """

    name: str
    inputs: Mapping[str, Shape]
    layers: tuple[CaffeLayer, ...]
    unknown: tuple[str, ...] = ()
