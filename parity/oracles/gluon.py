"""GluonCV on MXNet as the oracle of .params files, in an interpreter of its own (``workers/gluon_worker.py``).

It is given the source file itself, never the converted checkpoint, and the file's own symbol where there is one, else the network's name in GluonCV's
model zoo. A symbol (``NAME-symbol.json``) has layers, anchors and boxes as the file says; ``net.export`` and Module checkpoints write one beside
``NAME-0000.params``. Counters of blocks and the network's prefix differ from file to file, so a node is known by its name without them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ssdconv.converters.convert import Opened
from ssdconv.converters.gluon.mapping import bare, network_prefix, without_counters
from ssdconv.converters.tensors import TensorTable
from ssdconv.errors import FormatError, MissingError, UsageError
from ssdconv.parity.layers.detections import Rows
from ssdconv.parity.layers.results import Gap
from ssdconv.parity.oracles import aizoo
from ssdconv.parity.oracles.base import RUN, Column, OracleRun, Outputs, Prepared, plan_probes, runs
from ssdconv.parity.oracles.worker import Arrays, OracleWorker, Worker
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.evidence import Link
from ssdconv.ssd_ref.gate import read_input, reader
from ssdconv.ssd_ref.networks.aizoo import NAME as AIZOO

WORKER = Worker("gluon", "gluon_worker", "MXNet 1.9.1, GluonCV 0.10.5.post0", "1.9.1")
MXNET = replace(WORKER, title="MXNet 1.9.1")
INPUT = "data"
_EPOCH = re.compile(r"-\d{4}$")
OURS = "ssd0_"


@dataclass(frozen=True)
class Symbol:
    """What is read of a symbol before MXNet runs it.

    Attributes:
        path: the file.
        data: its only input that the .params file does not hold.
        nodes: operators by name as the first network of a process has it (``ssd0_…``).
        ends: the symbol ends in ids, scores and boxes.
    """

    path: Path
    data: str
    nodes: dict[str, str]
    ends: bool

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


def beside(params: Path) -> Path | None:
    """``NAME-symbol.json`` beside ``NAME-0000.params``, where there is one."""
    path = params.with_name(_EPOCH.sub("", params.stem) + "-symbol.json")
    return path if _EPOCH.search(params.stem) and path.is_file() else None


@reader
def read_symbol(path: Path, table: TensorTable) -> Symbol:
    """A symbol that belongs to a file.

    Raises:
        FormatError: not a symbol of MXNet.
        MissingError: a symbol of something else than these tensors.
    """
    where = str(path)
    try:
        held = json.loads(read_input(path, "document", "symbol of MXNet"))
        nodes = [(str(n["op"]), str(n["name"])) for n in held["nodes"]]
        heads = [nodes[int(head[0])][0] for head in held["heads"]]
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
        raise FormatError(
            "not a symbol of MXNet", where=where, expected="JSON with nodes and heads, as `net.export` writes it"
        ) from error
    inputs = [name for op, name in nodes if op == "null"]
    tensors = {bare(name) for name in table}
    free = [name for name in inputs if name not in tensors]
    if len(free) != 1:
        raise MissingError(
            "oracle MXNet not run: the symbol is not of this file's network",
            where=where,
            expected="one input, and every other one among the file's tensors",
            got=f"{len(free)} that it does not hold: {', '.join(free[:3])}",
        )
    prefix = network_prefix(inputs)
    named = {OURS + plain(name, prefix): name for op, name in nodes if op != "null"}
    return Symbol(path, free[0], named, heads == ["slice_axis"] * 3)


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
    symbol: Symbol | None = None
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
        scale = np.array([width, height, width, height], np.float32)
        rows = []
        for ids, scores, boxes in zip(found["ids"][..., 0], found["scores"][..., 0], found["bboxes"], strict=True):
            kept = ids >= 0
            rows.append(Rows(ids[kept].astype(np.int64) + 1, scores[kept], boxes[kept] / scale))
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
        pixels = runs("original code", "GluonCV's own SSDDefaultValTransform", "pixels")
        stored = symbol or beside(opened.table.path)
        graph = None if stored is None else read_symbol(stored, opened.table)
        alone: tuple[Link, ...] = ()
        if graph is None:
            evidence = runs("original code", f"GluonCV's own network {config.name} of its model zoo")
        else:
            alone = RUN if graph.ends else ("architecture",)
            evidence = runs("source framework", f"MXNet, given the file's own symbol {graph.path.name}", *alone)
        runner = GluonOracle(opened.table.path, config, nodes, graph)
        transform = partial(WORKER.prepared, {"do": "preprocess", "size": config.pixels.size[0]})
        return Prepared(runner, probes, INPUT, evidence + pixels, transform, alone)

    def adopt(self, opened: Opened, config: SSDConfig) -> Opened:
        from ssdconv.converters.gluon.source import plan_for

        return replace(opened, plan=plan_for(opened.table, config))

    def why_not(self, kind: str) -> str:
        return "moves or regroups values that are compared elsewhere"


COLUMN = GluonColumn()
