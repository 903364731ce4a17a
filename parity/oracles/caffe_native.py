"""The original Caffe (SSD branch), built by ``ssdconv oracle install caffe``: the referee of Caffe networks.

Reads prototxt and .caffemodel itself and shows every layer's outputs as they are before later layers work in place. It ends its
process where it refuses a network; that process is not ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ssdconv.converters.tensors import Array
from ssdconv.errors import MissingError
from ssdconv.parity.oracles.base import Availability, OracleRun, Outputs, detection_rows, require
from ssdconv.parity.oracles.environments import environment, state
from ssdconv.parity.oracles.native_build import LIBRARY
from ssdconv.parity.oracles.session import CrashedError, Session

ENVIRONMENT = "caffe"
TITLE = "Caffe 1.0.0-rc3, SSD branch (brocolli-caffe 9.0.2)"


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
        return TITLE

    def available(self) -> Availability:
        found = state(ENVIRONMENT)
        return Availability(found.installed, found.reason, found.next_step, "1.0.0-rc3" if found.installed else "")

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
        home = environment(ENVIRONMENT)
        if self._session is None:
            self._session = Session("Caffe", home.python, "caffe_worker")
        prototxt = self.prototxt
        if isinstance(prototxt, bytes):
            prototxt = self._session.folder / "net.prototxt"
            prototxt.write_bytes(bytes(self.prototxt))
        request = {
            "library": str(home.folder / LIBRARY),
            "prototxt": str(Path(prototxt).resolve()),
            "caffemodel": str(self.caffemodel.resolve()),
            "input": self.input,
        }
        try:
            reply = self._session.ask(request, {"pixels": np.ascontiguousarray(pixels, np.float32)})
        except CrashedError as error:
            raise MissingError(
                f"oracle {self.name} not run: {error.what}",
                where=str(self.prototxt) if isinstance(self.prototxt, Path) else None,
                got=error.got,
                hint="`--oracle opencv` compares with OpenCV instead",
            ) from None
        arrays: dict[str, Array | Callable[[], Array]] = {}
        kinds: dict[str, str] = {}
        detections = None
        seen: Counter[str] = Counter()
        for number, (given, kind, tops) in enumerate(reply.data["layers"]):
            if kind in ("Split", "Input") and f"{number}:0" not in reply.arrays:
                continue
            seen[given] += 1
            name = given if seen[given] == 1 and given else f"{given or kind}#{max(seen[given], 2)}"
            kinds[name] = kind
            outputs = [reply.arrays[key] for i in range(tops) if (key := f"{number}:{i}") in reply.arrays]
            if kind == "DetectionOutput" and outputs:
                detections = detection_rows(outputs[0](), len(pixels))
            elif tops == 1 and outputs:
                arrays[name] = outputs[0]
            else:
                arrays |= {f"{name}:{i}": output for i, output in enumerate(outputs)}
        return OracleRun(Outputs(arrays), detections, kinds)
