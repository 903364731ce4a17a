"""TensorFlow 2.15, running TensorFlow 1 operations, as the oracle of checkpoints and frozen graphs, in an interpreter of its own.

It restores the source file itself, by TensorFlow's own reader, never the converted checkpoint. A frozen graph is run as it is. To the
variables of a checkpoint the network is built in ``workers/tf_worker.py`` from what is known of HiKapok/SSD.TensorFlow, so there this
oracle proves reading, layers and arithmetic, not that the description of the original is complete. Boxes are decoded by that description
for both. The original code on TensorFlow 1.6 is an oracle of its own, where a checkout was added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ssdconv.converters.convert import Opened
from ssdconv.converters.tensorflow.reader import CheckpointFile
from ssdconv.converters.tensorflow.source import FIRST, SCALE, SCOPE, YX_TO_XY, scope_of, variable
from ssdconv.converters.tensorflow.source import layers as layers_of
from ssdconv.converters.tensors import Array
from ssdconv.errors import UsageError
from ssdconv.parity.layers.detections import Rows
from ssdconv.parity.layers.inputs import Image
from ssdconv.parity.oracles import aizoo, originals
from ssdconv.parity.oracles.base import (
    RUN,
    Column,
    OracleRun,
    Outputs,
    Prepared,
    in_reference_order,
    plan_probes,
    refuse_settings,
    runs,
)
from ssdconv.parity.oracles.worker import Arrays, OracleWorker, Worker, detections_in
from ssdconv.ssd_ref.config import Graph, SSDConfig
from ssdconv.ssd_ref.evidence import Link
from ssdconv.ssd_ref.networks.aizoo import NAME as AIZOO

WORKER = Worker("tensorflow", "tf_worker", "TensorFlow 2.15.1 (TensorFlow 1 operations)", "2.15.1")
INPUT = "input"

GRAPH_RESIZES = ("tf1_bilinear", "torch_bilinear")
"""Rules that a graph's own ResizeBilinear stands for."""
ANCHORS = {4: (1, 0, 2, 3), 6: (1, 0, 2, 4, 3, 5)}
"""Place in SSD.TensorFlow's cell of each of the reference's anchors."""


@dataclass(frozen=True)
class TensorFlowOracle(OracleWorker):
    """SSD.TensorFlow's network: with the variables of a checkpoint, or a frozen graph as it is.

    Attributes:
        path: a checkpoint's prefix or index, or a V1 checkpoint; a frozen graph with ``weights``.
        config: the network: its class count and width.
        scope: the network's variable scope in the file.
        weights: of a frozen graph, the nodes of its layers' weights: see ``frozen_weights``.
    """

    path: Path
    config: SSDConfig
    scope: str = SCOPE
    weights: Mapping[str, Any] | None = None
    worker = WORKER

    def job(self) -> dict[str, Any]:
        path = str(self.path.resolve())
        if self.weights is not None:
            return {"do": "frozen", "path": path, "classes": self.config.num_classes, **self.weights}
        return {
            "do": "activations",
            "path": path.removesuffix(".index"),
            "width": self.config.layers.options.get("width", 64),
            "classes": self.config.num_classes,
            "scope": self.scope.rstrip("/"),
        }

    def read(self, arrays: Arrays, images: int) -> OracleRun:
        heads = _in_order(arrays["probes/@loc"], arrays["probes/@conf"], self.config)
        outputs = arrays.under("probes/").later() | {f"@{name}": array for name, array in heads.items()}
        return OracleRun(Outputs(outputs), detections_in(arrays, images))


@dataclass(frozen=True)
class GraphOracle(OracleWorker):
    """A frozen detection graph, run by TensorFlow as it is.

    Attributes:
        opened: the graph; only names of nodes are taken from its plan, and which of its classes is the background.
    """

    opened: Opened
    worker = WORKER

    def job(self) -> dict[str, Any]:
        ends = self.opened.table.found(CheckpointFile).ends
        return {
            "do": "detector",
            "path": str(Path(self.opened.table.path).resolve()),
            "probes": [name for name, _ in self.opened.plan.probes],
            "entry": ends["input"],
            **{kind: ends[kind] for kind in ("image", "loc", "conf", "scores", "anchors")},
        }

    def read(self, arrays: Arrays, images: int) -> OracleRun:
        config = self.opened.plan.config
        outputs = arrays.under("layers/").later()
        outputs |= {f"@{kind}": arrays[kind] for kind in ("conf", "scores") if kind in arrays}
        outputs["@loc"] = np.ascontiguousarray(arrays["loc"][..., self._order()])
        if "anchors" in arrays:
            corners = arrays["anchors"][:, YX_TO_XY]
            variances = np.broadcast_to(np.array(config.priors[0].variances, np.float32), corners.shape)
            outputs["@priors"] = np.stack([corners.ravel(), variances.ravel()])[None]
        if "0/detections" not in arrays:
            return OracleRun(Outputs(outputs))
        first = 0 if config.detect.background == 0 else 1  # the graph counts its classes from 1
        found = detections_in(arrays, images)
        return OracleRun(Outputs(outputs), tuple(Rows(r.labels - first, r.scores, r.boxes) for r in found))

    def _order(self) -> list[int]:
        """Place in the graph's loc of dx, dy, dw, dh."""
        graph = self.opened.plan.config.layers
        assert isinstance(graph, Graph)
        last = next(layer for layer in graph.layers if graph.loc in layer.tops)
        return list(last.params["indices"]) if last.type == "Gather" else [0, 1, 2, 3]

    def pixels(self, images: Sequence[Image]) -> list[Array]:
        """Images as the graph itself hands them to its network."""
        job = {**self.job(), "do": "detector_pixels", "order": self.opened.plan.config.pixels.order}
        return WORKER.prepared(job, images)


def _in_order(loc: Array, conf: Array, config: SSDConfig) -> dict[str, Array]:
    """Heads in the reference's order of anchors and coordinates."""
    loc = np.ascontiguousarray(in_reference_order(loc, config, ANCHORS)[..., YX_TO_XY])
    return {"loc": loc, "conf": in_reference_order(conf, config, ANCHORS)}


class TensorFlowColumn(Column):
    """TensorFlow's."""

    title = "TensorFlow"
    oracles = ("tensorflow", "original")

    def made(self, opened: Opened, prototxt: Path | None, oracle: str, symbol: Path | None) -> Prepared:
        if oracle == "original":
            return _original(opened)
        config, path = opened.plan.config, opened.table.path
        graph = opened.table.found(CheckpointFile).flavour == "graph"
        if isinstance(opened.plan.config.layers, Graph):
            return _whole(opened)
        if config.name == AIZOO and graph:
            return aizoo.prepare(opened, WORKER)
        if config.name == AIZOO:
            raise UsageError(
                "this network is verified with its frozen graph (.pb), which holds its layers", where=str(path)
            )
        refuse_settings(opened, WORKER.title)
        scope = scope_of(list(opened.table)) or SCOPE
        rebuilt = "built again in TensorFlow 2.15 from what is known of SSD.TensorFlow"
        evidence = runs("rebuilt", rebuilt)
        alone: tuple[Link, ...] = ("architecture",) if graph else ()
        if graph:
            layers = runs("source framework", "TensorFlow, given the frozen graph as it is", "architecture")
            evidence = (*layers, *runs("rebuilt", f"boxes of the graph's heads: {rebuilt}", "priors", "detection rule"))
        runner = TensorFlowOracle(path, config, scope, frozen_weights(config, scope) if graph else None)
        probes = plan_probes(opened.plan.probes, INPUT, loc="@loc", conf="@conf")
        return Prepared(runner, probes, INPUT, evidence, alone=alone)


COLUMN = TensorFlowColumn()


def _whole(opened: Opened) -> Prepared:
    """A detection graph from its own nodes; where it resizes its images itself, its pixels too."""
    runner = GraphOracle(opened)
    ends = opened.table.found(CheckpointFile).ends
    heads = {"loc": "@loc", "conf": "@conf"}
    heads |= {"scores": "@scores"} if ends["scores"] else {}
    heads |= {"priors": "@priors"} if ends["anchors"] else {}
    probes = plan_probes(opened.plan.probes, ends["input"], **heads)
    said = "TensorFlow, given the graph of the file as it is"
    resizes = opened.plan.config.pixels.resize in GRAPH_RESIZES and ends["input"] != ends["image"]
    links: tuple[Link, ...] = (*RUN, *(("pixels",) if resizes else ()))
    evidence = runs("source framework", said, *links)
    return Prepared(runner, probes, ends["input"], evidence, pixels=runner.pixels if resizes else None)


def frozen_weights(config: SSDConfig, scope: str) -> dict[str, Any]:
    """Names of nodes in a frozen graph: of each probed layer's weight, of the heads' weights in order, and of the first one."""
    layers: dict[str, str] = {}
    heads: dict[str, list[str]] = {"loc": [], "conf": []}
    for layer in layers_of(config):
        name = variable(layer)
        if layer.role in heads:
            heads[layer.role].append(f"{scope}{name}/kernel")
        else:
            layers[name] = f"{scope}{SCALE}" if layer.role == "l2norm" else f"{scope}{name}/kernel"
    return {"layers": layers, **heads, "first": scope + FIRST}


FLAGS = {
    "detect.score_threshold": ("select_threshold", float),
    "detect.nms_threshold": ("nms_threshold", float),
    "detect.top_k": ("keep_topk", int),
    "detect.max_per_class": ("nms_topk", int),
}
"""Settings of the user that are flags of the project's ``eval_ssd.py``."""


def _original(opened: Opened) -> Prepared:
    """SSD.TensorFlow's own code with its flags' defaults; its priors, pixels and paddings stand in that code and are not told.

    Raises:
        UsageError: a frozen graph, or another network.
    """
    config = opened.plan.config
    if config.name == AIZOO or opened.table.found(CheckpointFile).flavour == "graph":
        raise UsageError(
            "the original code runs checkpoints of SSD.TensorFlow only",
            where=str(opened.table.path),
            got=f"{config.name}, a {opened.table.found(CheckpointFile).flavour}",
            hint="leave out `--oracle original`",
        )
    told = tuple(c for c in opened.plan.evidence if c.basis == "user" and c.key in FLAGS and c.value != "all")
    job = {
        "do": "activations",
        "checkpoint": str(opened.table.path.resolve()).removesuffix(".index"),
        "scope": (scope_of(list(opened.table)) or SCOPE).rstrip("/"),
        "classes": config.num_classes,
        "flags": {FLAGS[c.key][0]: FLAGS[c.key][1](c.value) for c in told},
        "layers": [layer for layer, _ in opened.plan.probes],
    }
    made = originals.prepared("hikapok", opened, job, _original_run)
    said = made.evidence[0].text
    return replace(
        made,
        evidence=(*made.evidence, *runs("original code", said, "pixels"), *told),
        pixels=partial(originals.prepared_pixels, "hikapok", {**job, "do": "prepare", "layers": []}),
    )


def _original_run(arrays: Arrays, config: SSDConfig, images: int) -> OracleRun:
    """Heads and priors in the reference's order of anchors and coordinates."""
    priors = in_reference_order(arrays["priors"][0].reshape(2, -1, 4), config, ANCHORS).reshape(1, 2, -1)
    outputs = arrays.under("modules/").later() | _in_order(arrays["loc"], arrays["conf"], config)
    return OracleRun(Outputs(outputs | {"priors": priors}), detections_in(arrays, images))
