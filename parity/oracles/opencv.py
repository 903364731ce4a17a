"""OpenCV's own run of a Caffe network (cv2.dnn), in a process of its own: the oracle that is always at hand for Caffe files.

Layer fusion and Winograd convolution are switched off, backend OpenCV on the CPU, so that every layer's output exists and is plain float32 arithmetic.
OpenCV reads the file's weights itself. Where it cannot run a layer, or is known to depart from Caffe there (``departs``), the layer is left out: it gets
the reference's values in its place, so that all layers behind it are still compared, and is itself a gap, with the reason. A crash of OpenCV ends
the worker only; the layer in which it happened is found by running shorter and shorter beginnings of the net. OpenCV 5 dropped the Caffe importer.

The net is told to OpenCV in words that it understands: it asks for settings that Caffe has defaults for, reads some of them otherwise, and knows some
layers under another name. What is written here means the same to Caffe (docs/caffe.md lists each with the size of the difference):

* every value has a name of its own, so no layer works in place; layers of the training phase are left out;
* PriorBox: four variances, whole sizes as Caffe cuts them, ``step`` as step_h and step_w, an image size of its own as an input
  of that size; DetectionOutput: all defaults, ``keep_top_k: -1`` as the number of all boxes, ``variance_encoded_in_target``
  with priors alone;
* Bias as OpenCV's ``Shift``, Tile as Concat, LRN's k and Log's base, scale and shift as Power layers around them, Permute
  with all axes, axes counted from the front;
* the tops of a layer that is left out become inputs where their values are lent, else what hangs on them is left out too.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ssdconv.converters.caffe.net import CaffeLayer, CaffeNet, Shape
from ssdconv.converters.caffe.prototxt import prototxt_text
from ssdconv.converters.tensors import Array
from ssdconv.errors import MissingError, SsdconvError
from ssdconv.parity.layers.results import Gap, GapCode
from ssdconv.parity.oracles.base import Availability, Lend, OracleRun, Outputs, detection_rows, require
from ssdconv.parity.oracles.worker import Answer, OracleError, Session
from ssdconv.ssd_ref.evidence import Link

MOST_BOXES = 1 << 17
"""Room for the boxes of a DetectionOutput that keeps all, where their number is unknown."""


@dataclass
class OpenCVNet:
    """A net for OpenCV.

    Attributes:
        net: what OpenCV reads; layers have the names of the original, and helpers a name with ``@``.
        inputs: what it is fed with besides the pixels, by input name.
        behind: layers that were left out because they hang on one that was left out, with its name.
    """

    net: CaffeNet
    inputs: dict[str, Array]
    behind: dict[str, str] = field(default_factory=dict)


def named(net: CaffeNet) -> tuple[CaffeLayer, ...]:
    """The layers of the test phase, later ones of a repeated name numbered as the converter does (``relu#2``)."""
    kept = [layer for layer in net.layers if layer.phase != "TRAIN" and layer.type != "Input"]
    seen: Counter[str] = Counter()
    taken = {layer.name for layer in kept}
    result = []
    for layer in kept:
        seen[layer.name] += 1
        name, number = layer.name, max(seen[layer.name], 2)
        if seen[layer.name] > 1 or not name:
            while (name := f"{layer.name or layer.type}#{number}") in taken:
                number += 1
            taken.add(name)
        result.append(replace(layer, name=name))
    return tuple(result)


def departs(layer: CaffeLayer) -> str:
    """Why OpenCV's outcome of this layer is not Caffe's, as measured; "" where it is."""
    given = {k: v for part in layer.params.values() if isinstance(part, Mapping) for k, v in part.items()}
    if layer.type == "DetectionOutput":
        if given.get("code_type") == "CORNER_SIZE":
            return "OpenCV does not know the box code CORNER_SIZE"
        if given.get("nms_param", {}).get("eta", 1.0) < 1:
            return "OpenCV keeps the NMS threshold where Caffe lowers it (eta below 1)"
    if layer.type == "Normalize" and given.get("across_spatial", True) and not given.get("channel_shared", True):
        return "OpenCV cannot normalise across space with a scale per channel"
    if layer.type == "Bias" and given.get("axis", 1) != 1 and given.get("num_axes", 1) != 0:
        return "OpenCV adds a Bias along the channels only"
    if layer.type == "InnerProduct" and given.get("transpose"):
        return "OpenCV takes the weights of an InnerProduct as they are not transposed"
    if layer.type == "MVN" and given.get("normalize_variance", True) and given.get("eps", 1e-9) > 1e-9:
        return "OpenCV adds MVN's eps to the variance, Caffe to the deviation"
    whole = given.get("axis", 0) == 0 and given.get("num_axes", -1) == -1
    if layer.type == "Reshape" and whole and len(given.get("shape", {}).get("dim", ())) == 1:
        return "OpenCV has no blobs of one axis"
    if layer.type in ("Reduction", "ArgMax", "Threshold"):
        return f"OpenCV has no layer {layer.type}"
    return ""


def opencv_net(net: CaffeNet, pixels: Shape, left_out: Mapping[str, Mapping[int, Array] | None]) -> OpenCVNet:
    """The net for OpenCV.

    Args:
        net: as Caffe reads it.
        pixels: shape of the input.
        left_out: layers to leave out, with the values of their tops, or None where nobody has them.
    """
    return _Writer(net, pixels, left_out).write()


class _Writer:
    def __init__(self, net: CaffeNet, pixels: Shape, left_out: Mapping[str, Mapping[int, Array] | None]) -> None:
        self.original, self.left_out = net, left_out
        data = next(iter(net.inputs))
        self.current: dict[str, str] = {data: data}
        self.shapes: dict[str, Shape] = {data: pixels}
        self.used = {data}
        self.lost: dict[str, str] = {}  # blob -> the left-out layer that it hangs on
        self.layers: list[CaffeLayer] = []
        self.found = OpenCVNet(net, {})
        self.ranks, self.boxes = _sizes(net, data, pixels)

    def write(self) -> OpenCVNet:
        for layer in named(self.original):
            values = self.left_out.get(layer.name, {})
            lost = next((self.lost[b] for b in layer.bottoms if b in self.lost), None)
            if layer.name in self.left_out and values is not None:
                for i, top in enumerate(layer.tops):
                    self.current[top] = self.feed(f"{layer.name}:{i}", values[i])
                    self.lost.pop(top, None)
            elif layer.name in self.left_out or lost is not None:
                self.lost.update(dict.fromkeys(layer.tops, lost or layer.name))
                if layer.name not in self.left_out:
                    self.found.behind[layer.name] = lost or ""
            else:
                self.add(layer)
                for top in layer.tops:
                    self.lost.pop(top, None)
        self.found.net = CaffeNet(self.original.name, self.shapes, tuple(self.layers))
        return self.found

    def fresh(self, name: str) -> str:
        made, number = name, 1
        while made in self.used:
            made, number = f"{name}@{number}", number + 1
        self.used.add(made)
        return made

    def feed(self, name: str, value: Array) -> str:
        made = self.fresh(name)
        self.found.inputs[made], self.shapes[made] = value, tuple(value.shape)
        return made

    def add(self, layer: CaffeLayer) -> None:
        bottoms = tuple(self.current.get(b, b) for b in layer.bottoms)
        # OpenCV calls a Convolution by its top, and asks for layers by name: the one top has the layer's name.
        names = layer.tops if len(layer.tops) > 1 else (layer.name,)
        tops = tuple(self.fresh(name) for name in names[: len(layer.tops)])
        layer = replace(layer, bottoms=bottoms, shared=())
        rewrite = _REWRITTEN.get(layer.type)
        self.layers += rewrite(self, replace(layer, tops=tops)) if rewrite else [replace(layer, tops=tops)]
        self.current.update(zip(layer.tops, tops, strict=True))

    def rank(self, layer: CaffeLayer) -> int:
        """How many axes the layer's bottom has."""
        return self.ranks.get(layer.name, 4)

    def chain(self, layer: CaffeLayer, *steps: tuple[str, dict[str, Any]]) -> list[CaffeLayer]:
        """Layers one behind the other that do the work of one without weights; the last has its name."""
        made, bottoms = [], layer.bottoms
        for kind, params in steps[:-1]:
            top = self.fresh(f"{layer.name}@{kind}")
            made.append(CaffeLayer(top, kind, bottoms, (top,), params))
            bottoms = (top,)
        return [*made, CaffeLayer(layer.name, steps[-1][0], bottoms, layer.tops, steps[-1][1])]


def _sizes(net: CaffeNet, data: str, pixels: Shape) -> tuple[dict[str, int], int]:
    """Axes of each layer's first bottom, and how many boxes DetectionOutput chooses from; as far as they can be told."""
    from ssdconv.converters.caffe.net import spec_of
    from ssdconv.ssd_ref.graph.operation import infer

    blobs: dict[str, Shape] = {**net.inputs, data: pixels}
    ranks: dict[str, int] = {}
    boxes = MOST_BOXES
    for layer in named(net):
        if layer.bottoms and layer.bottoms[0] in blobs:
            ranks[layer.name] = len(blobs[layer.bottoms[0]])
        if layer.type == "DetectionOutput" and layer.bottoms and layer.bottoms[0] in blobs:
            classes = layer.params.get("detection_output_param", {}).get("num_classes", 1)
            boxes = max(1, math.prod(blobs[layer.bottoms[0]][1:]) // 4 * classes)
        with suppress(SsdconvError):
            blobs |= infer([spec_of(layer)], {b: blobs[b] for b in layer.bottoms if b in blobs}).blobs
    return ranks, boxes


def _with(layer: CaffeLayer, key: str, given: dict[str, Any], **fields: Any) -> CaffeLayer:
    return replace(layer, params={**layer.params, key: given}, **fields)


def _prior_box(writer: _Writer, layer: CaffeLayer) -> list[CaffeLayer]:
    given: dict[str, Any] = {"flip": True, "clip": False, "offset": 0.5, **layer.params.get("prior_box_param", {})}
    size = given.pop("img_size", 0)
    height, width = given.pop("img_h", size), given.pop("img_w", size)
    bottoms = layer.bottoms
    if height and width:
        bottoms = (bottoms[0], writer.feed(f"{layer.name}:image", np.zeros((1, 1, height, width), np.float32)))
    smallest, largest = ([float(int(s)) for s in given.get(key, ())] for key in ("min_size", "max_size"))
    given["min_size"] = smallest  # OpenCV asks for a larger max_size even where the cut ones are equal
    given["max_size"] = [b if b > a else _above(a) for a, b in zip(smallest, largest, strict=False)]
    variance = given.get("variance") or [0.1]
    given["variance"] = variance * 4 if len(variance) == 1 else variance
    step = given.pop("step", 0)
    return [
        _with(layer, "prior_box_param", given | ({"step_h": step, "step_w": step} if step else {}), bottoms=bottoms)
    ]


def _above(value: float) -> float:
    return float(np.nextafter(np.float32(value), np.float32(np.inf)))


def _detection_output(writer: _Writer, layer: CaffeLayer) -> list[CaffeLayer]:
    given: dict[str, Any] = {"share_location": True, "background_label_id": 0, "code_type": "CORNER", "keep_top_k": -1}
    given["confidence_threshold"] = -float(np.finfo(np.float32).max)
    given |= layer.params.get("detection_output_param", {})
    given.pop("save_output_param", None)
    given["nms_param"] = {"nms_threshold": 0.3, "eta": 1.0} | dict(given.get("nms_param", {}))
    if given["keep_top_k"] < 0:
        given["keep_top_k"] = writer.boxes
    if not given.get("variance_encoded_in_target"):
        return [_with(layer, "detection_output_param", given)]
    boxes, rest = writer.fresh(f"{layer.name}@boxes"), writer.fresh(f"{layer.name}@rest")
    cut = {"slice_param": {"axis": 1, "slice_point": [1]}}
    slices = CaffeLayer(writer.fresh(f"{layer.name}@cut"), "Slice", layer.bottoms[2:3], (boxes, rest), cut)
    return [slices, _with(layer, "detection_output_param", given, bottoms=(*layer.bottoms[:2], boxes))]


def _bias(writer: _Writer, layer: CaffeLayer) -> list[CaffeLayer]:
    given = {"axis": 1, "num_axes": 1} | dict(layer.params.get("bias_param", {}))
    return [_with(layer, "bias_param", given, type="Shift")]


def _from_front(key: str) -> Callable[[_Writer, CaffeLayer], list[CaffeLayer]]:
    def rewrite(writer: _Writer, layer: CaffeLayer) -> list[CaffeLayer]:
        given = dict(layer.params.get(key, {}))
        if given.get("axis", 0) < 0:
            given["axis"] += writer.rank(layer)
        return [_with(layer, key, given)]

    return rewrite


def _permute(writer: _Writer, layer: CaffeLayer) -> list[CaffeLayer]:
    order = list(layer.params.get("permute_param", {}).get("order", ()))
    order += [axis for axis in range(writer.rank(layer)) if axis not in order]
    return [_with(layer, "permute_param", {"order": order})]


def _lrn(writer: _Writer, layer: CaffeLayer) -> list[CaffeLayer]:
    """x (k + a s)^-b = k^-b x (1 + a/k s)^-b; within a channel Caffe takes k as 1."""
    given = {
        "alpha": 1.0,
        "beta": 0.75,
        **layer.params.get("lrn_param", {}),
    }  # OpenCV's alpha is 1e-4 where none is given
    k = given.pop("k", 1.0)
    if k == 1.0 or given.get("norm_region") == "WITHIN_CHANNEL":
        return [_with(layer, "lrn_param", given)]
    power = {"scale": k ** -given["beta"]}
    given["alpha"] /= k
    return writer.chain(layer, ("LRN", {"lrn_param": given}), ("Power", {"power_param": power}))


def _log(writer: _Writer, layer: CaffeLayer) -> list[CaffeLayer]:
    given = layer.params.get("log_param", {})
    inside = {"scale": given.get("scale", 1.0), "shift": given.get("shift", 0.0)}
    base = given.get("base", -1.0)
    outside = {"scale": 1.0 if base <= 0 else 1.0 / math.log(base)}
    return writer.chain(layer, ("Power", {"power_param": inside}), ("Log", {}), ("Power", {"power_param": outside}))


def _pooling(writer: _Writer, layer: CaffeLayer) -> list[CaffeLayer]:
    return [_with(layer, "pooling_param", {"pool": "MAX", **layer.params.get("pooling_param", {})})]


def _tile(writer: _Writer, layer: CaffeLayer) -> list[CaffeLayer]:
    given = layer.params.get("tile_param", {})
    axis = given.get("axis", 1)
    axis += writer.rank(layer) if axis < 0 else 0
    bottoms = layer.bottoms * given.get("tiles", 1)
    return [replace(layer, type="Concat", bottoms=bottoms, params={"concat_param": {"axis": axis}})]


_REWRITTEN: dict[str, Callable[[_Writer, CaffeLayer], list[CaffeLayer]]] = {
    "Bias": _bias,
    "DetectionOutput": _detection_output,
    "LRN": _lrn,
    "Log": _log,
    "Permute": _permute,
    "Pooling": _pooling,
    "PriorBox": _prior_box,
    "Scale": _from_front("scale_param"),
    "Tile": _tile,
}


MOST_CULPRITS = 12
"""Layers that may turn out not to run before OpenCV is given up."""


class OpenCVOracle:
    """A Caffe network in OpenCV.

    Args:
        net: deploy network.
        caffemodel: weights, as a file or as bytes.
    """

    def __init__(self, net: CaffeNet, caffemodel: Path | bytes) -> None:
        self.net = net
        self.caffemodel = caffemodel
        self._layers = named(net)
        self._gaps = {
            layer.name: gap_at(layer.name, layer.type, "oracle departs", why)
            for layer in self._layers
            if (why := departs(layer))
        }
        self._session: Session | None = None

    @property
    def name(self) -> str:
        return f"OpenCV {self.available().version}".strip()

    def available(self) -> Availability:
        try:
            import cv2
        except ImportError as error:
            return Availability(False, str(error), "python -m pip install 'opencv-python-headless<5'")
        if not hasattr(cv2.dnn, "readNetFromCaffe"):
            step = "python -m pip install 'opencv-python-headless<5'"
            return Availability(False, "this OpenCV has no Caffe importer", step, cv2.__version__)
        return Availability(True, version=cv2.__version__)

    def run(self, pixels: Array) -> OracleRun:
        """Run the network and read every layer; what hangs on a layer that OpenCV cannot run is a gap too.

        Raises:
            MissingError: no OpenCV, or it can run nothing of this network.
        """
        return self.run_with(pixels, lambda names: {})

    def run_with(self, pixels: Array, lend: Lend) -> OracleRun:
        """``run``, with the reference's values in the place of layers that OpenCV cannot run."""
        require(self)
        pixels = np.ascontiguousarray(pixels, dtype=np.float32)
        lent: dict[str, Mapping[int, Array]] = {}
        while True:
            lent |= lend([name for name, gap in self._gaps.items() if name not in lent and gap.part != "detections"])
            net = self._written(pixels, lent, len(self._layers))
            reply, why, code = self._ask(net, pixels)
            if reply is not None:
                return self._read(net, reply, len(pixels))
            number = self._culprit(pixels, lent)
            if number is None or len(self._gaps) >= MOST_CULPRITS:
                raise MissingError(
                    f"oracle {self.name} not run: {why}",
                    hint="`ssdconv oracle install caffe` builds the original Caffe, which runs what OpenCV cannot",
                )
            layer = self._layers[number]
            _, why, code = self._ask(self._written(pixels, lent, number + 1), pixels)
            self._gaps[layer.name] = gap_at(layer.name, layer.type, code, f"{self.name} cannot run it: {why}")

    def _written(self, pixels: Array, lent: Mapping[str, Mapping[int, Array]], count: int) -> OpenCVNet:
        """The net's first ``count`` layers without those that are gaps."""
        beginning = replace(self.net, layers=self._layers[:count])
        return opencv_net(beginning, pixels.shape, {name: lent.get(name) for name in self._gaps})

    def _ask(self, net: OpenCVNet, pixels: Array) -> tuple[Answer | None, str, GapCode]:
        if self._session is None:
            self._session = Session(self.name, Path(sys.executable), "opencv_worker")
        model = self.caffemodel
        if isinstance(model, bytes):
            model = self._session.folder / "weights.caffemodel"
            model.write_bytes(bytes(self.caffemodel))
        known = {layer.name for layer in self._layers if layer.type != "Silence"}
        layers = [layer for layer in net.net.layers if layer.name in known]  # the others are helpers
        job = {
            "do": "layers",
            "prototxt": prototxt_text(net.net).decode(),
            "caffemodel": str(Path(model).resolve()),
            "layers": [layer.name for layer in layers],
            "several": [layer.name for layer in layers if len(layer.tops) > 1],
        }
        data = next(iter(self.net.inputs))
        try:
            fed = {data: pixels, **net.inputs}
            reply = self._session.ask([job], {f"0/{name}": array for name, array in fed.items()})
        except OracleError as error:
            return None, error.what, "oracle crashed"
        failed = reply.jobs[0].get("failed")
        return (None, str(failed), "oracle cannot") if failed else (reply, "", "oracle cannot")

    def _culprit(self, pixels: Array, lent: Mapping[str, Mapping[int, Array]]) -> int | None:
        """Number of the layer that OpenCV does not get past; None where already the first one fails it, or none does."""
        good, bad = 0, len(self._layers)
        if self._ask(self._written(pixels, lent, 1), pixels)[0] is None:
            return None if self._layers[0].name in self._gaps else 0
        while bad - good > 1:
            middle = (good + bad) // 2
            if self._ask(self._written(pixels, lent, middle), pixels)[0] is None:
                bad = middle
            else:
                good = middle
        return None if self._layers[bad - 1].name in self._gaps else bad - 1

    def _read(self, net: OpenCVNet, reply: Answer, images: int) -> OracleRun:
        computed = reply.arrays.under("0/").later()
        arrays: dict[str, Array | Callable[[], Array]] = {}
        detections = None
        for layer in self._layers:
            first = f"{layer.name}:0"
            if first not in computed:
                continue
            if layer.type == "DetectionOutput":
                detections = detection_rows(reply.arrays[f"0/{first}"], images)
            elif len(layer.tops) == 1:
                arrays[layer.name] = computed[first]
            else:
                arrays |= {(top := f"{layer.name}:{i}"): computed[top] for i in range(len(layer.tops))}
        kinds = {layer.name: layer.type for layer in self._layers}
        gaps = dict(self._gaps)
        for name, behind in net.behind.items():
            gaps[name] = gap_at(name, kinds[name], gaps[behind].code, f"hangs on {behind}: {gaps[behind].reason}")
        return OracleRun(Outputs(arrays), detections, kinds, tuple(gaps.values()))


def gap_at(name: str, kind: str, code: GapCode, reason: str) -> Gap:
    links: dict[str, Link] = {"PriorBox": "priors", "DetectionOutput": "detection rule"}
    part = "detections" if kind == "DetectionOutput" else name
    return Gap(part, links.get(kind, "architecture"), code, reason)
