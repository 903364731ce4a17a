"""Oracles of Caffe networks: which deploy net they are given, and which of its outputs are the heads, scores and priors.

The referee is the original Caffe (SSD branch), built by ``ssdconv oracle install caffe``. It reads prototxt and .caffemodel itself and shows every
layer's outputs as they are before later layers work in place. It ends its process where it refuses a network; that process is not ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ssdconv.converters.caffe.graph import tells_nothing
from ssdconv.converters.caffe.net import CaffeLayer, CaffeNet
from ssdconv.converters.convert import Opened
from ssdconv.converters.tensors import Array
from ssdconv.errors import MissingError
from ssdconv.parity.layers.activations import Probe
from ssdconv.parity.oracles.base import (
    Availability,
    Column,
    OracleRun,
    Outputs,
    Prepared,
    detection_rows,
    require,
    runs,
)
from ssdconv.parity.oracles.environments import LIBRARY, environment
from ssdconv.parity.oracles.opencv import OpenCVOracle
from ssdconv.parity.oracles.worker import OracleError, Session, Worker
from ssdconv.ssd_ref.config import Graph, SSDConfig
from ssdconv.ssd_ref.evidence import Basis

WORKER = Worker("caffe", "caffe_worker", "Caffe 1.0.0-rc3, SSD branch (brocolli-caffe 9.0.2)", "1.0.0-rc3")


class CaffeOracle:
    """A Caffe network in Caffe.

    Args:
        prototxt: deploy network, as a file or as text in bytes.
        caffemodel: weights.
        input: name of the input blob.
    """

    def __init__(self, prototxt: Path | bytes, caffemodel: Path, input: str) -> None:
        self.prototxt = prototxt
        self.caffemodel = caffemodel
        self.input = input
        self._session: Session | None = None

    @property
    def name(self) -> str:
        return WORKER.title

    def available(self) -> Availability:
        return WORKER.available()

    def refuses(self, shape: tuple[int, ...]) -> str:
        """Why Caffe does not take this network, in its own last words; "" where it does."""
        try:
            self.run(np.zeros(shape, np.float32))
        except MissingError as error:
            said = [
                line for line in str(error.got or error.what).splitlines() if "Check failed" in line or "Error" in line
            ]
            return (said[0] if said else error.what).strip()
        return ""

    def run(self, pixels: Array) -> OracleRun:
        """Run the network and read every layer.

        Raises:
            MissingError: Caffe is not installed, or refuses the network.
        """
        require(self)
        if self._session is None:
            self._session = WORKER.session("Caffe")
        prototxt = self.prototxt
        if isinstance(prototxt, bytes):
            prototxt = self._session.folder / "net.prototxt"
            prototxt.write_bytes(bytes(self.prototxt))
        job = {
            "do": "layers",
            "library": library(),
            "prototxt": str(Path(prototxt).resolve()),
            "caffemodel": str(self.caffemodel.resolve()),
            "blob": self.input,
        }
        try:
            reply = self._session.ask([job], {"0/input": np.ascontiguousarray(pixels, np.float32)})
        except OracleError as error:
            raise MissingError(
                f"oracle {self.name} not run: {error.what}",
                where=str(self.prototxt) if isinstance(self.prototxt, Path) else None,
                got=error.got,
                hint="`--oracle opencv` compares with OpenCV instead",
            ) from None
        computed = reply.arrays.under("0/").later()
        arrays: dict[str, Array | Callable[[], Array]] = {}
        kinds: dict[str, str] = {}
        detections = None
        seen: Counter[str] = Counter()
        for number, (given, kind, tops) in enumerate(reply.jobs[0]["layers"]):
            if kind in ("Split", "Input") and f"{number}:0" not in computed:
                continue
            seen[given] += 1
            name = given if seen[given] == 1 and given else f"{given or kind}#{max(seen[given], 2)}"
            kinds[name] = kind
            outputs = [computed[key] for i in range(tops) if (key := f"{number}:{i}") in computed]
            if kind == "DetectionOutput" and outputs:
                detections = detection_rows(reply.arrays[f"0/{number}:0"], len(pixels))
            elif tops == 1 and outputs:
                arrays[name] = outputs[0]
            else:
                arrays |= {f"{name}:{i}": output for i, output in enumerate(outputs)}
        return OracleRun(Outputs(arrays), detections, kinds)


WRITTEN_HERE = "given a deploy net that was written here from what the file tells"
MOVES = frozenset({"Permute", "Flatten", "Reshape", "Concat", "Split", "Slice", "Dropout", "PriorBox", "Silence"})
ACTIVATIONS = frozenset({"Softmax", "Sigmoid"})


def library() -> str:
    """Path of the built C interface."""
    return str(environment(WORKER.environment).folder / LIBRARY)


def layer_probes(opened: Opened) -> Iterable[Probe]:
    """One probe per layer that both sides have; one per output for layers with several."""
    graph = opened.plan.config.layers
    added = set(graph.added) if isinstance(graph, Graph) else set()
    tops = {layer.name: len(layer.tops) for layer in graph.layers} if isinstance(graph, Graph) else {}
    for source, module in opened.plan.probes:
        if source in added:
            continue
        if tops.get(source, 1) == 1:
            yield Probe(source, module)
        else:
            yield from (Probe(f"{source}:{i}", f"{module}:{i}") for i in range(tops[source]))


def head_probes(net: CaffeNet, config: SSDConfig) -> Iterable[Probe]:
    """Probes of raw loc and conf, scores and priors, found from the bottoms of DetectionOutput, or from the graph."""
    layers = [layer for layer in net.layers if layer.phase != "TRAIN"]
    writers = {top: layer for layer in layers for top in layer.tops}
    last = next((i for i, layer in enumerate(layers) if layer.type == "DetectionOutput"), None)
    found: list[Probe] = []
    if last is not None and len(layers[last].bottoms) >= 3:
        loc, scores, priors = (_writer(layers, last, blob) for blob in layers[last].bottoms[:3])
        if loc is not None:
            found.append(Probe(layers[loc].name, "@loc"))
        activation = _activation(layers, scores)
        if activation is not None:
            raw = _writer(layers, activation, layers[activation].bottoms[0])
            found += [Probe(layers[raw].name, "@conf")] if raw is not None else []
            found.append(Probe(layers[activation].name, "@scores"))
        if scores is not None:
            found.append(Probe(layers[scores].name, "@scores"))
        if priors is not None:
            found.append(Probe(layers[priors].name, "@priors"))
    elif isinstance(config.layers, Graph):
        heads = ((config.layers.loc, "@loc"), (config.layers.conf, "@conf"))
        found = [Probe(writers[blob].name, at) for blob, at in heads if blob in writers]
        read = {blob for layer in layers for blob in layer.bottoms}
        known = {layer.name for layer in config.layers.layers}
        ends = [layer for layer in layers if layer.name not in known and read.isdisjoint(layer.tops)]
        found += [Probe(layer.name, "@scores") for layer in ends if len(ends) == 1]
    else:  # a net that ends before its boxes: loc and class scores are what nobody reads
        read = {blob for layer in layers for blob in layer.bottoms}
        ends = [layer for layer in layers if read.isdisjoint(layer.tops)]
        found = [Probe(layer.name, "@loc" if "loc" in layer.name else "@scores") for layer in ends]
    return dict.fromkeys(found)


def _writer(layers: Sequence[CaffeLayer], before: int, blob: str) -> int | None:
    """Index of the last layer before ``before`` that writes a blob: layers that work in place write it again."""
    return next((i for i in range(before - 1, -1, -1) if blob in layers[i].tops), None)


def _activation(layers: Sequence[CaffeLayer], at: int | None) -> int | None:
    """The softmax or sigmoid layer of all scores, behind which only the shape changes up to layer ``at``; none of one map's."""
    while at is not None:
        layer = layers[at]
        if layer.type in ACTIVATIONS:
            return at
        if layer.type not in MOVES or len(layer.bottoms) != 1:
            return None
        at = _writer(layers, at, layer.bottoms[0])
    return None


class CaffeColumn(Column):
    """Caffe's.

    A deploy prototxt of the user's is handed to Caffe as it is, and to OpenCV with Caffe's defaults written out. Without one (or with a training one),
    the deploy net is written from what the .caffemodel itself tells; the converted checkpoint has no say in it. The best oracle is the original
    Caffe where it is installed and takes the network, else OpenCV.
    """

    title = "Caffe"
    oracles = ("caffe", "opencv")

    def made(self, opened: Opened, prototxt: Path | None, oracle: str, symbol: Path | None) -> Prepared:
        from ssdconv.converters.caffe.prototxt import prototxt_text, read_prototxt
        from ssdconv.converters.caffe.source import net_of

        given = read_prototxt(prototxt) if prototxt else None
        net = given if given is not None and given.inputs else net_of(opened.plan.config)
        name = next(iter(net.inputs))
        layers = tuple(layer_probes(opened))
        taken = {p.source for p in layers}
        heads = (p for p in head_probes(net, opened.plan.config) if p.source not in taken)
        every = (Probe(name, "@input"), *layers, *heads)
        basis: Basis = "source framework" if net is given else "rebuilt"
        text = prototxt if prototxt is not None and net is given else prototxt_text(net)
        referee = CaffeOracle(text, opened.table.path, name)
        refused = ""
        if oracle == "caffe" or (not oracle and referee.available().ok):
            pixels = opened.plan.config.pixels
            refused = "" if oracle else referee.refuses((1, pixels.channels, *pixels.size))
            if not refused:
                how = "given the prototxt as it is" if net is given else WRITTEN_HERE
                return Prepared(referee, every, name, runs(basis, f"the original Caffe, {how}"))
        how = "given the prototxt's net with Caffe's defaults written out" if net is given else WRITTEN_HERE
        how += f"; the original Caffe does not take it ({refused})" if refused else ""
        evidence = runs(basis, f"OpenCV's own importer of Caffe nets, {how}")
        return Prepared(OpenCVOracle(net, opened.table.path), every, name, evidence)

    def adopt(self, opened: Opened, config: SSDConfig) -> Opened:
        """For a checkpoint with other tensor names (staged, where the file tells a layer graph). The oracle still runs what the file tells."""
        from ssdconv.converters.caffe.source import mapping
        from ssdconv.converters.caffe.writer import probe_map
        from ssdconv.ssd_ref.model import reference_shapes

        names = _for_names(config, opened.plan.config)
        plan = replace(opened.plan, mapping=mapping(names, opened.table), probes=probe_map(names))
        plan.mapping.check(opened.table, reference_shapes(config), where=str(opened.table.path))
        return replace(opened, plan=plan)

    def tells_pixels(self, opened: Opened) -> bool:
        """Whether the file or prototxt tells mean and scale; most deploy nets do not."""
        return not tells_nothing(opened.plan.config.pixels)

    def why_not(self, kind: str) -> str:
        if kind == "PriorBox":
            return "PriorBox: its boxes are compared behind it, all maps together"
        if kind in MOVES:
            return f"{kind} moves values only; they are compared before it and in the heads"
        if kind in ACTIVATIONS:
            return f"{kind}: its values are compared behind it, as scores"
        return f"{kind} feeds neither boxes nor scores"


def _for_names(config: SSDConfig, source: SSDConfig) -> SSDConfig:
    """``config`` with what tensor names do not depend on, but Caffe's form does, from the source: verify judges it later."""
    if isinstance(config.layers, Graph):
        return config
    backbone = config.layers.backbone
    options = {key: value for key, value in backbone.options.items() if key != "rounding"}
    staged = replace(config.layers, backbone=replace(backbone, options=options))
    priors = source.priors if len(source.priors) == len(config.priors) else config.priors
    return replace(config, layers=staged, priors=priors, detect=source.detect)


COLUMN = CaffeColumn()
