"""OpenCV's own run of a Caffe network (cv2.dnn), in a process of its own: the oracle that is always at hand for Caffe files.

Layer fusion and Winograd convolution are switched off, backend OpenCV on the CPU, so that every layer's output exists and
is plain float32 arithmetic. OpenCV reads the file's weights itself, and the net in its own words (``opencv_text``). Where it
cannot run a layer, or is known to depart from Caffe there, the layer is left out: it gets the reference's values in its
place, so that all layers behind it are still compared, and is itself a gap, with the reason. A crash of OpenCV ends the
worker only; the layer in which it happened is found by running shorter and shorter beginnings of the net.

OpenCV 5 dropped the Caffe importer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ssdconv.converters.caffe.net import CaffeNet
from ssdconv.converters.caffe.prototxt import prototxt_text
from ssdconv.converters.tensors import Array
from ssdconv.errors import MissingError
from ssdconv.parity.layers.results import Gap, GapCode
from ssdconv.parity.oracles.base import Availability, Lend, OracleRun, Outputs, detection_rows, require
from ssdconv.parity.oracles.opencv_text import OpenCVNet, departs, named, opencv_net
from ssdconv.parity.oracles.session import CrashedError, Reply, Session
from ssdconv.ssd_ref.evidence import Link

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
            layer.name: _gap(layer.name, layer.type, "oracle departs", why)
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
            self._gaps[layer.name] = _gap(layer.name, layer.type, code, f"{self.name} cannot run it: {why}")

    def _written(self, pixels: Array, lent: Mapping[str, Mapping[int, Array]], count: int) -> OpenCVNet:
        """The net's first ``count`` layers without those that are gaps."""
        beginning = replace(self.net, layers=self._layers[:count])
        return opencv_net(beginning, pixels.shape, {name: lent.get(name) for name in self._gaps})

    def _ask(self, net: OpenCVNet, pixels: Array) -> tuple[Reply | None, str, GapCode]:
        if self._session is None:
            self._session = Session(self.name, Path(sys.executable), "opencv_worker")
        model = self.caffemodel
        if isinstance(model, bytes):
            model = self._session.folder / "weights.caffemodel"
            model.write_bytes(bytes(self.caffemodel))
        known = {layer.name for layer in self._layers if layer.type != "Silence"}
        layers = [layer for layer in net.net.layers if layer.name in known]  # the others are helpers
        request = {
            "prototxt": prototxt_text(net.net).decode(),
            "caffemodel": str(Path(model).resolve()),
            "layers": [layer.name for layer in layers],
            "several": [layer.name for layer in layers if len(layer.tops) > 1],
        }
        data = next(iter(self.net.inputs))
        try:
            reply = self._session.ask(request, {data: pixels, **net.inputs})
        except CrashedError as error:
            return None, error.what, "oracle crashed"
        failed = reply.data.get("failed")
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

    def _read(self, net: OpenCVNet, reply: Reply, images: int) -> OracleRun:
        arrays: dict[str, Array | Callable[[], Array]] = {}
        detections = None
        for layer in self._layers:
            first = f"{layer.name}:0"
            if first not in reply.arrays:
                continue
            if layer.type == "DetectionOutput":
                detections = detection_rows(reply.arrays[first](), images)
            elif len(layer.tops) == 1:
                arrays[layer.name] = reply.arrays[first]
            else:
                arrays |= {f"{layer.name}:{i}": reply.arrays[f"{layer.name}:{i}"] for i in range(len(layer.tops))}
        kinds = {layer.name: layer.type for layer in self._layers}
        gaps = dict(self._gaps)
        for name, behind in net.behind.items():
            gaps[name] = _gap(name, kinds[name], gaps[behind].code, f"hangs on {behind}: {gaps[behind].reason}")
        return OracleRun(Outputs(arrays), detections, kinds, tuple(gaps.values()))


def _gap(name: str, kind: str, code: GapCode, reason: str) -> Gap:
    links: dict[str, Link] = {"PriorBox": "priors", "DetectionOutput": "detection rule"}
    part = "detections" if kind == "DetectionOutput" else name
    return Gap(part, links.get(kind, "architecture"), code, reason)
