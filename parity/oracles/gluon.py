"""GluonCV on MXNet as the oracle of .params files, in an interpreter of its own (``environments``, ``workers/gluon_worker.py``).

It is given the source file itself, never the converted checkpoint, and the file's own symbol where there is one (``gluon_symbol``), else the
network's name in GluonCV's model zoo.

A stored symbol of MXNet (``NAME-symbol.json``) as the oracle of its .params file: layers, anchors and boxes as the file says.

``net.export`` and Module checkpoints write one beside ``NAME-0000.params``. Counters of blocks and the network's prefix differ from file to
file; a node is known by its name without them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ssdconv.converters.convert import Opened
from ssdconv.converters.gluon.mapping import bare, network_prefix, without_counters
from ssdconv.converters.tensors import Array, TensorTable
from ssdconv.errors import FormatError, MissingError, UsageError
from ssdconv.parity.layers.detections import Rows
from ssdconv.parity.layers.inputs import Image
from ssdconv.parity.layers.results import Gap
from ssdconv.parity.oracles import aizoo
from ssdconv.parity.oracles.base import (
    RUN,
    Availability,
    OracleRun,
    Outputs,
    Prepared,
    Worker,
    always_tells,
    check_choice,
    layers_under,
    plan_probes,
    runs,
)
from ssdconv.parity.oracles.process import Answer
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.evidence import Link
from ssdconv.ssd_ref.networks.aizoo import NAME as AIZOO

_EPOCH = re.compile(r"-\d{4}$")
OURS = "ssd0_"
MAX_BYTES = 1 << 28


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


def read_symbol(path: Path, table: TensorTable) -> Symbol:
    """A symbol that belongs to a file.

    Raises:
        FormatError: not a symbol of MXNet.
        MissingError: a symbol of something else than these tensors.
    """
    where = str(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FormatError("too large for a symbol", where=where, expected=f"<= {MAX_BYTES:,} bytes")
        held = json.loads(path.read_bytes())
        nodes = [(str(n["op"]), str(n["name"])) for n in held["nodes"]]
        heads = [nodes[int(head[0])][0] for head in held["heads"]]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
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


ORACLES = ("mxnet",)
WORKER = Worker("gluon", "gluon_worker", "MXNet 1.9.1, GluonCV 0.10.5.post0", "1.9.1")
MXNET = Worker("gluon", "gluon_worker", "MXNet 1.9.1", "1.9.1")
ask_jobs = WORKER.ask
tells_pixels = always_tells
INPUT = "data"


class GluonOracle:
    """A GluonCV network with the weights of a .params file.

    Args:
        params: the file, in any dialect.
        config: the network; its name is GluonCV's.
        nodes: nodes of MXNet's graph to read; None for all.
        symbol: the file's own graph, which is run instead of the model zoo's.
        timeout: seconds for one run.
    """

    def __init__(
        self,
        params: Path,
        config: SSDConfig,
        *,
        nodes: Sequence[str] | None = None,
        symbol: Symbol | None = None,
        timeout: float = 600.0,
    ) -> None:
        self.params = Path(params)
        self.config = config
        self.nodes = nodes
        self.symbol = symbol
        self.timeout = timeout

    @property
    def name(self) -> str:
        return WORKER.title

    def available(self) -> Availability:
        return WORKER.available()

    def run(self, pixels: Array) -> OracleRun:
        """Run the network and read the wanted nodes of its graph.

        Raises:
            MissingError: MXNet is not installed, or failed.
        """
        answer = WORKER.activations(self.job(), pixels, timeout=self.timeout)
        run = oracle_run(answer, 0, self.config)
        return run if self.symbol is None else replace(run, gaps=self._gaps(self.symbol))

    def _gaps(self, symbol: Symbol) -> tuple[Gap, ...]:
        absent = [name for name in self.nodes or () if name not in symbol.nodes]
        gaps = [Gap(n, "architecture", "oracle cannot", "the file's symbol has no node of that name") for n in absent]
        if not symbol.ends:
            why = "the file's symbol does not end in ids, scores and boxes"
            gaps.append(Gap("detections", "detection rule", "oracle cannot", why))
        return tuple(gaps)

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


def class_names(config: SSDConfig) -> list[str] | None:
    """Object class names to build GluonCV's network with; None where its own count is right."""
    standard = 81 if config.name.endswith("coco") else 21
    return None if config.num_classes == standard else [f"class{i}" for i in range(1, config.num_classes)]


def oracle_run(answer: Answer, index: int, config: SSDConfig) -> OracleRun:
    """The activations and detections of one job."""
    nodes = layers_under(answer, f"{index}/nodes/")
    found = detection_rows(answer, index, config) if f"{index}/detections/ids" in answer.arrays else None
    return OracleRun(Outputs(nodes), found)


def detection_rows(answer: Answer, index: int, config: SSDConfig) -> tuple[Rows, ...]:
    """Final detections per image: labels with background 0, boxes as fractions of the input."""
    ids, scores, boxes = (answer.arrays[f"{index}/detections/{key}"] for key in ("ids", "scores", "bboxes"))
    height, width = config.pixels.size
    scale = np.array([width, height, width, height], np.float32)
    rows = []
    for one_ids, one_scores, one_boxes in zip(ids[..., 0], scores[..., 0], boxes, strict=True):
        kept = one_ids >= 0
        rows.append(Rows(one_ids[kept].astype(np.int64) + 1, one_scores[kept], one_boxes[kept] / scale))
    return tuple(rows)


def prepare(
    opened: Opened, prototxt: Path | None = None, oracle: str = "mxnet", *, symbol: Path | None = None
) -> Prepared:
    """Set up MXNet for an opened .params file.

    Args:
        symbol: the file's own graph; None for the one beside the file, else GluonCV's network.

    Raises:
        UsageError: no such oracle for GluonCV networks, or a symbol for the face-mask detector, whose layers have no stored one.
        FormatError, MissingError: not a symbol, or not this file's.
    """
    check_choice(oracle, ORACLES, "GluonCV")
    if opened.plan.config.name == AIZOO:
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
        evidence = runs("original code", f"GluonCV's own network {opened.plan.config.name} of its model zoo")
    else:
        alone = RUN if graph.ends else ("architecture",)
        evidence = runs("source framework", f"MXNet, given the file's own symbol {graph.path.name}", *alone)
    runner = GluonOracle(opened.table.path, opened.plan.config, nodes=nodes, symbol=graph)
    return Prepared(runner, probes, INPUT, evidence + pixels, partial(prepared_pixels, opened.plan.config), alone)


def prepared_pixels(config: SSDConfig, images: Sequence[Image]) -> list[Array]:
    """Images as GluonCV's validation prepares them."""
    return WORKER.prepared({"do": "preprocess", "size": config.pixels.size[0]}, images)


def adopt(opened: Opened, config: SSDConfig) -> Opened:
    """The same source file with tensors and probes paired to a checkpoint's config instead of the one recognised.

    Raises:
        MappingError: the checkpoint's network does not have the file's tensors.
    """
    from ssdconv.converters.gluon.source import plan_for

    return replace(opened, plan=plan_for(opened.table, config))


def why_not(kind: str) -> str:
    """Why a node of MXNet's graph has no probe."""
    return "moves or regroups values that are compared elsewhere"
