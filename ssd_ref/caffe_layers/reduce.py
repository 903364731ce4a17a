"""Reduction and ArgMax: many values of a blob to one, or to the places of the largest.

Sources: reduction_layer.cpp and argmax_layer.cpp of BVLC Caffe.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssdconv.ssd_ref.caffe_layers.registry import CaffeLayer, layer
from ssdconv.ssd_ref.caffe_layers.views import argmax_to
from ssdconv.ssd_ref.config import LayerSpec

REDUCTIONS = ("SUM", "ASUM", "SUMSQ", "MEAN")


@layer("Reduction")
class Reduction(CaffeLayer):
    """All axes from ``axis`` (0) on become one number: sum, sum of magnitudes or squares, or mean, times ``coeff``."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.operation = self.p.choice("operation", "SUM", REDUCTIONS)
        self.factor = self.p.number("coeff", 1.0)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(self.p.axis("axis", 0, x.dim()))
        if self.operation == "ASUM":
            flat = flat.abs()
        elif self.operation == "SUMSQ":
            flat = flat.square()
        total = flat.mean(-1) if self.operation == "MEAN" else flat.sum(-1)
        return total if self.factor == 1.0 else total * self.factor


@layer("ArgMax")
class ArgMax(CaffeLayer):
    """Places, as numbers, of the ``top_k`` largest values, largest first; of equal values the later one comes first.

    Along ``axis`` where one is given (``out_max_val`` gives the values instead), else within each image: (N, 1, k), or with
    ``out_max_val`` (N, 2, k) of places and values; axes of one follow up to the rank of the bottom.
    """

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.count = self.p.integer("top_k", 1, low=1)
        self.values = self.p.flag("out_max_val", False)

    def forward(self, x: Tensor) -> Tensor:
        shape = argmax_to(self.p, tuple(x.shape))
        axis = self.p.axis("axis", 1, x.dim()) if "axis" in self.p else 1
        rows = x if "axis" in self.p else x.flatten(1)
        # Turned round, so that the first of equal values is the later one; the sort keeps their order.
        values, places = rows.flip(axis).sort(stable=True, dim=axis, descending=True)
        places = (rows.shape[axis] - 1 - places.narrow(axis, 0, self.count)).to(x.dtype)
        values = values.narrow(axis, 0, self.count)
        if "axis" in self.p:
            return values if self.values else places
        found = torch.stack([places, values], 1) if self.values else places[:, None]
        return found.reshape(shape)
