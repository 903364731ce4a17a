"""OpenCV's own run of a Caffe network (cv2.dnn), in this process: the oracle that is always at hand for Caffe files.

Layer fusion and Winograd convolution are switched off, backend OpenCV on the CPU, so that every layer's output exists and
is plain float32 arithmetic. How OpenCV's layers relate to the file's:

* every layer keeps its name, in-place layers included (``conv1_1`` and ``relu1_1`` give separate outputs); Input layers are
  not layers of OpenCV's;
* a name that occurs twice gets ``_1``, ``_2``, … appended;
* a layer with several tops (Slice, Split) gives several outputs: ``name:0``, ``name:1``, …; the first is also ``name``;
* layers of the training phase are kept, and fail: a deploy network is needed;
* ``DetectionOutput`` has room for keep_top_k rows per image and leaves the rest zero.

OpenCV 5 dropped the Caffe importer.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssdconv.errors import MissingError
from ssdconv.parity.oracles.base import Availability, OracleRun, Outputs, detection_rows, require

Array = npt.NDArray[Any]


class OpenCVOracle:
    """A Caffe network in OpenCV.

    Args:
        prototxt: deploy network, as a file or as text in bytes.
        caffemodel: weights, as a file or as bytes.
    """

    def __init__(self, prototxt: Path | bytes, caffemodel: Path | bytes) -> None:
        self.prototxt = prototxt
        self.caffemodel = caffemodel

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
        """Run the network and read every layer.

        Raises:
            MissingError: no OpenCV, or it cannot read or run this network.
        """
        require(self)
        try:
            return self._forward(pixels)
        finally:
            _trim()

    def _forward(self, pixels: Array) -> OracleRun:
        import cv2

        with _quiet(cv2):
            net = self._load(cv2)
            net.setInput(np.ascontiguousarray(pixels, dtype=np.float32))
            names = list(net.getLayerNames())
            try:
                kinds = {n: str(net.getLayer(n).type) for n in names}
            except cv2.error as error:
                raise self._cannot("it does not know a layer", error) from None
            shown = [n for n in names if kinds[n] != "Silence"]
            try:
                values = [tuple(tops) for tops in net.forwardAndRetrieve(shown)]
                # Only a layer's first output is safe from later in-place layers: run up to the layer for the others.
                for i, name in enumerate(shown):
                    if len(values[i]) > 1:
                        values[i] = tuple(top.copy() for top in net.forwardAndRetrieve([name])[0])
            except cv2.error as error:
                raise self._cannot(f"layer {self._culprit(cv2, net, shown)} fails", error) from None
        arrays: dict[str, Array] = {}
        detections = None
        for name, tops in zip(shown, values, strict=True):
            if kinds[name] == "DetectionOutput":
                detections = detection_rows(tops[0], len(pixels))
                continue
            arrays[name] = tops[0]
            if len(tops) > 1:
                arrays |= {f"{name}:{i}": top for i, top in enumerate(tops)}
        return OracleRun(Outputs(arrays), detections, kinds)

    def _load(self, cv2: Any) -> Any:
        # Read anew for every run: a Net keeps all its layers' outputs, besides the copies that it hands out.
        try:
            net = cv2.dnn.readNetFromCaffe(_buffer(self.prototxt), _buffer(self.caffemodel))
        except cv2.error as error:
            raise self._cannot("it cannot read the network", error) from None
        net.enableFusion(False)
        net.enableWinograd(False)
        net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
        net.setPreferableTarget(cv2.dnn.DNN_TARGET_CPU)
        return net

    def _culprit(self, cv2: Any, net: Any, names: list[str]) -> str:
        for name in names:
            try:
                net.forwardAndRetrieve([name])
            except cv2.error:
                return repr(name)
        return "?"

    def _cannot(self, what: str, error: Exception) -> MissingError:
        where = self.prototxt if isinstance(self.prototxt, Path) else None
        text = str(error).strip().split("error: ", 1)[-1].splitlines()[0]
        return MissingError(
            f"oracle {self.name} not run: {what}: {text}",
            where=str(where) if where else None,
            hint="a deploy.prototxt without training layers helps; without an oracle nothing is proved",
        )


def _buffer(data: Path | bytes) -> npt.NDArray[np.uint8]:
    return np.fromfile(data, np.uint8) if isinstance(data, Path) else np.frombuffer(data, np.uint8)


def _trim() -> None:
    """Give freed memory back to the system: glibc keeps some 400 MB of an SSD512's layers otherwise."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def _quiet(cv2: Any) -> Iterator[None]:
    """OpenCV prints its errors besides raising them; ours tell them once."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)
