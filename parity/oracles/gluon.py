"""GluonCV on MXNet as the oracle of .params files, in an interpreter of its own (``workers/gluon_worker.py``).

It is given the source file itself, never the converted checkpoint, and the file's own symbol where there is one, else the network's name in GluonCV's
model zoo. A symbol (``NAME-symbol.json``) has layers, anchors and boxes as the file says; ``net.export`` and Module checkpoints write one beside
``NAME-0000.params``. Counters of blocks and the network's prefix differ from file to file, so a node is known by its name without them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ssdconv.converters.convert import Opened
from ssdconv.converters.gluon.mapping import bare, network_prefix, without_counters
from ssdconv.converters.gluon.symbol import beside, read_symbol
from ssdconv.converters.gluon.whole import MULTIBOX
from ssdconv.converters.tensors import TensorTable
from ssdconv.errors import MissingError, UsageError
from ssdconv.parity.layers.detections import Rows
from ssdconv.parity.layers.results import Gap
from ssdconv.parity.oracles import aizoo
from ssdconv.parity.oracles.base import RUN, Column, OracleRun, Outputs, Prepared, plan_probes, runs
from ssdconv.parity.oracles.worker import Arrays, OracleWorker, Worker
from ssdconv.ssd_ref.config import Graph, SSDConfig
from ssdconv.ssd_ref.evidence import Link
from ssdconv.ssd_ref.networks.aizoo import NAME as AIZOO

WORKER = Worker("gluon", "gluon_worker", "MXNet 1.9.1, GluonCV 0.10.5.post0", "1.9.1")
MXNET = replace(WORKER, title="MXNet 1.9.1")
INPUT = "data"
OURS = "ssd0_"


@dataclass(frozen=True)
class StoredSymbol:
    """What is read of a symbol before MXNet runs it.

    Attributes:
        path: the file.
        data: its only input that the .params file does not hold.
        nodes: operators by the names that probes have: their own, or as the first network of a process has them (``ssd0_…``).
        ends: how it gives boxes: "three" values (ids, scores, boxes in pixels), the name of its MultiBoxDetection (rows with boxes as
            fractions), or "".
    """

    path: Path
    data: str
    nodes: dict[str, str]
    ends: str

    def job(self, params: Path, wanted: Iterable[str]) -> dict[str, Any]:
        """The worker's job that runs it."""
        return {
            "do": "symbol",
            "symbol": str(self.path.resolve()),
            "params": str(params.resolve()),
            "data": self.data,
            "nodes": {name: self.nodes[name] for name in wanted if name in self.nodes},
            "ends": self.ends,
        }


def stored_symbol(path: Path, table: TensorTable, config: SSDConfig) -> StoredSymbol:
    """A symbol that belongs to a file.

    Raises:
        FormatError: not a symbol of MXNet.
        MissingError: a symbol of something else than these tensors.
    """
    graph = read_symbol(path)
    inputs = [node.name for node in graph.nodes if node.op == "null"]
    tensors = {bare(name) for name in table}
    free = [name for name in inputs if name not in tensors]
    own = isinstance(config.layers, Graph)
    data = config.layers.input if isinstance(config.layers, Graph) else free[0] if len(free) == 1 else ""
    if data not in free:
        raise MissingError(
            "oracle MXNet not run: the symbol is not of this file's network",
            where=str(path),
            expected="one input, and every other one among the file's tensors",
            got=f"{len(free)} that it does not hold: {', '.join(free[:3])}",
        )
    prefix = network_prefix(inputs)
    operators = [node for node in graph.nodes if node.op != "null"]
    named = {node.name if own else OURS + plain(node.name, prefix): node.name for node in operators}
    chooser = [node.name for node in operators if node.op in MULTIBOX]
    three = [graph.nodes[place].op for place, _ in graph.heads] == ["slice_axis"] * 3
    return StoredSymbol(path, data, named, "three" if three else chooser[0] if len(chooser) == 1 else "")


def plain(name: str, prefix: str) -> str:
    """A node's name without counters and prefix; ``reset_class`` doubles the prefix before the class predictors."""
    return without_counters(name.removeprefix(prefix) if name.startswith(prefix * 2) else name, prefix)


@dataclass(frozen=True)
class GluonOracle(OracleWorker):
    """A GluonCV network with the weights of a .params file.

    Attributes:
        params: the file, in any dialect.
        config: the network; its name is GluonCV's.
        nodes: nodes of MXNet's graph to read; None for all.
        symbol: the file's own graph, which is run instead of the model zoo's.
    """

    params: Path
    config: SSDConfig
    nodes: Sequence[str] | None = None
    symbol: StoredSymbol | None = None
    worker = WORKER

    def job(self) -> dict[str, Any]:
        """The worker's job that computes this network's activations."""
        if self.symbol is not None:
            return self.symbol.job(self.params, self.nodes or self.symbol.nodes)
        return {
            "do": "activations",
            "network": self.config.name,
            "classes": class_names(self.config),
            "params": str(self.params.resolve()),
            **({} if self.nodes is None else {"nodes": list(self.nodes)}),
        }

    def read(self, arrays: Arrays, images: int) -> OracleRun:
        found = self._detections(arrays.under("detections/")) if "detections/ids" in arrays else None
        return OracleRun(Outputs(arrays.under("nodes/").later()), found, gaps=tuple(self._gaps()))

    def _detections(self, found: Arrays) -> tuple[Rows, ...]:
        """Final detections per image: labels with background 0, boxes as fractions of the input."""
        height, width = self.config.pixels.size
        pixels = self.symbol is None or self.symbol.ends == "three"
        scale = np.array([width, height, width, height] if pixels else [1.0] * 4, np.float32)
        first = 0 if self.config.detect.background is None else 1
        rows = []
        for ids, scores, boxes in zip(found["ids"][..., 0], found["scores"][..., 0], found["bboxes"], strict=True):
            kept = ids >= 0
            rows.append(Rows(ids[kept].astype(np.int64) + first, scores[kept], boxes[kept] / scale))
        return tuple(rows)

    def _gaps(self) -> Iterator[Gap]:
        if self.symbol is None:
            return
        for name in self.nodes or ():
            if name not in self.symbol.nodes:
                why = "the file's symbol has no node of that name"
                yield Gap(name, "architecture", "oracle cannot", why)
        if not self.symbol.ends:
            why = "the file's symbol does not end in ids, scores and boxes"
            yield Gap("detections", "detection rule", "oracle cannot", why)


def class_names(config: SSDConfig) -> list[str] | None:
    """Object class names to build GluonCV's network with; None where its own count is right."""
    standard = 81 if config.name.endswith("coco") else 21
    return None if config.num_classes == standard else [f"class{i}" for i in range(1, config.num_classes)]


class GluonColumn(Column):
    """GluonCV's."""

    title = "GluonCV"
    oracles = ("mxnet",)

    def made(self, opened: Opened, prototxt: Path | None, oracle: str, symbol: Path | None) -> Prepared:
        config = opened.plan.config
        if config.name == AIZOO:
            if symbol is not None:
                raise UsageError("this network's file is verified without a symbol", where=str(symbol))
            return aizoo.prepare(opened, MXNET)
        probes = plan_probes(opened.plan.probes, INPUT)
        nodes = [probe.source for probe in probes if probe.source != INPUT]
        stored = symbol or beside(opened.table.path)
        if stored is None and isinstance(config.layers, Graph):
            raise MissingError(
                "oracle MXNet not run: the network was converted by its symbol, which is not beside the file",
                where=str(opened.table.path), hint="name it: --symbol FILE",
            )  # fmt: skip
        graph = None if stored is None else stored_symbol(stored, opened.table, config)
        alone: tuple[Link, ...] = ()
        if graph is None:
            evidence = runs("original code", f"GluonCV's own network {config.name} of its model zoo")
        else:
            alone = RUN if graph.ends else ("architecture",)
            evidence = runs("source framework", f"MXNet, given the file's own symbol {graph.path.name}", *alone)
        runner = GluonOracle(opened.table.path, config, nodes, graph)
        if config.pixels.resize != "mxnet_9":  # another project's pixels: its code is not here
            return Prepared(runner, probes, INPUT, evidence, None, alone)
        pixels = runs("original code", "GluonCV's own SSDDefaultValTransform", "pixels")
        transform = partial(WORKER.prepared, {"do": "preprocess", "size": config.pixels.size[0]})
        return Prepared(runner, probes, INPUT, evidence + pixels, transform, alone)

    def adopt(self, opened: Opened, config: SSDConfig) -> Opened:
        from ssdconv.converters.gluon.source import plan_for

        return replace(opened, plan=plan_for(opened.table, config))

    def why_not(self, kind: str) -> str:
        return "moves or regroups values that are compared elsewhere"


COLUMN = GluonColumn()
