"""Which named network a Caffe layer graph is: same computation, whatever the blobs and parameter-free layers are called."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache

from ssdconv.converters.caffe.emit import deploy_net
from ssdconv.converters.caffe.graph import graph_config
from ssdconv.ssd_ref.classes import names_for
from ssdconv.ssd_ref.config import Graph, Pixels, PriorMap, SSDConfig
from ssdconv.ssd_ref.networks.caffe import NETWORKS

IDENTITY = frozenset({"Dropout", "Split"})
"""Layer types that pass their input through at test time."""


def signature(graph: Graph) -> str:
    """A hash that is equal for graphs that compute the same from equally named learned layers."""
    blobs = {graph.input: "input"}
    for layer in graph.layers:
        inputs = [blobs[b] for b in layer.bottoms]
        for index, top in enumerate(layer.tops):
            if layer.type in IDENTITY:
                blobs[top] = inputs[0]
                continue
            name = layer.name if layer.blobs else ""
            text = json.dumps([layer.type, name, index, dict(layer.params), inputs], sort_keys=True, default=list)
            blobs[top] = hashlib.sha256(text.encode()).hexdigest()
    return blobs[graph.loc] + blobs[graph.conf]


@cache
def _signature_of(name: str, num_classes: int) -> str:
    config = graph_config(deploy_net(NETWORKS[name](name, num_classes)), name=name)
    assert config.graph is not None
    return signature(config.graph)


def named_networks(config: SSDConfig) -> Iterable[SSDConfig]:
    """Named networks (in this class count) with the same layers as a graph config."""
    assert config.graph is not None
    mine = signature(config.graph)
    for name, build in NETWORKS.items():
        if _signature_of(name, config.num_classes) == mine:
            yield build(name, config.num_classes)


def as_named(config: SSDConfig) -> SSDConfig | None:
    """The staged form of a graph config, or None when its layers are of no named network.

    Priors and detection rule stay the file's; its name is the named network's whose priors it has, else "<family>_custom".
    """
    candidates = list(named_networks(config)) if config.pixels.channels == 3 else []
    if not candidates:
        return None
    same_priors = [c for c in candidates if same_boxes(c.priors, config.priors)]
    best = (same_priors or candidates)[0]
    if not config.priors:  # then the net ends before its boxes, and told no more of the rule than the activation
        return best if best.detect.activation == config.detect.activation else replace(best, detect=config.detect)
    return replace(
        best,
        name=best.name if same_priors else f"{best.name.replace('_voc', '').replace('_coco', '')}_custom",
        priors=best.priors if same_priors else config.priors,
        detect=config.detect,
        pixels=best.pixels if tells_nothing(config.pixels) else config.pixels,
        class_names=config.class_names or names_for(config.num_classes),
    )


def same_boxes(mine: Sequence[PriorMap], theirs: Sequence[PriorMap]) -> bool:
    """Whether two prior tables are equal up to the rounding of their float32 parameters."""
    if len(mine) != len(theirs):
        return False
    for a, b in zip(mine, theirs, strict=True):
        if (a.grid, a.clip, a.image, len(a.cells)) != (b.grid, b.clip, b.image, len(b.cells)):
            return False
        numbers = [(*m.step, *m.offsets, *m.variances, *(side for cell in m.cells for side in cell)) for m in (a, b)]
        if any(not math.isclose(x, y, rel_tol=1e-6) for x, y in zip(*numbers, strict=True)):
            return False
    return True


def tells_nothing(pixels: Pixels) -> bool:
    """Whether a net definition left mean and scale unsaid."""
    return pixels == Pixels(pixels.size, "GRAY" if pixels.channels == 1 else "BGR")
