"""Does an exported ONNX model compute what the reference computes? ONNX Runtime runs it, the rounding floor judges.

The same pixels go through the model in ONNX Runtime and through the reference in float32 and float64. ``loc`` and ``conf`` are
judged as the probes of any oracle are (``parity.layers.tolerance``); the rows of a model with its detection rule inside are compared as
sets with the reference's (``parity.layers.detections``). A model with the rule inside shows its heads only to the check: they are
made outputs of a copy in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ssdconv.errors import FormatError, MissingError
from ssdconv.parity.layers.activations import Probe, compare, derived
from ssdconv.parity.layers.detections import Rows, compare_detections
from ssdconv.parity.layers.inputs import make_inputs
from ssdconv.parity.layers.results import InputResult, ProbeResult, detection_counts, worst_of
from ssdconv.parity.layers.tolerance import Array
from ssdconv.parity.oracles.base import Outputs
from ssdconv.ssd_ref.model import SSD

PROBES = (Probe("loc", "@loc"), Probe("conf", "@conf"))


@dataclass(frozen=True)
class OnnxReport:
    """The verdict on an exported model.

    Attributes:
        runtime: name and version of what ran the model.
        inputs: both heads of every input and, where the model holds its detection rule, the detections.
        notes: about the inputs.
    """

    runtime: str
    inputs: tuple[InputResult, ...]
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.inputs) and all(self.inputs)

    @property
    def worst(self) -> ProbeResult:
        """The probe nearest to its limit, or furthest above it."""
        worst = worst_of(p for i in self.inputs for p in i.probes)
        assert worst is not None  # both heads of every input are compared
        return worst

    def counts(self) -> dict[str, int]:
        """Detections over all inputs: the runtime's, the reference's, pairs, and one-sided ones, explained or not."""
        counts = detection_counts(self.inputs)
        return {"runtime": counts.pop("oracle"), **counts}

    @property
    def reason(self) -> str:
        """Why it failed; "" where it passed."""
        for result in self.inputs:
            for probe in result.probes:
                if not probe:
                    return f"{result.name}: {probe.source}: {probe.reason}"
            if result.detections is not None and not result.detections:
                odd = next((b for b in result.detections.one_sided if not b.explained), None)
                return f"{result.name}: detections: {result.detections.problem or (odd.reason if odd else '')}"
        return "" if self else "nothing was compared"

    def to_json(self) -> dict[str, Any]:
        """JSON-ready figures."""
        worst = self.worst
        return {
            "passed": bool(self),
            "runtime": self.runtime,
            "inputs": [i.name for i in self.inputs],
            "worst": {
                "output": worst.source,
                "ratio": worst.ratio,
                "rms_ratio": worst.rms_ratio,
                "needed": worst.needed,
            },
            "detections": self.counts() if any(i.detections is not None for i in self.inputs) else None,
            "reason": self.reason,
            "notes": list(self.notes),
        }


def runtime_missing() -> str:
    """Why no check can run; "" where one can."""
    return "" if find_spec("onnxruntime") else "onnxruntime is not installed (python -m pip install onnxruntime)"


def check_onnx(proto: Any, model: SSD, images: Sequence[Path] = (), seed: int = 0) -> OnnxReport:
    """Run an exported model beside the network that it was exported from.

    Args:
        proto: ``onnx.ModelProto`` of ``ssd_ref.export``, with heads or with detections as outputs.
        model: the network, float32, on the CPU.
        images: photos to compare on besides noise; none for a generated picture.
        seed: of noise and picture.

    Raises:
        MissingError: ONNX Runtime is not installed.
        FormatError: it refuses the model.
    """
    if reason := runtime_missing():
        raise MissingError(f"the ONNX model was not checked: {reason}")
    import onnxruntime

    session = _session(proto)
    batch = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
    ruled = any(output.name == "detections" for output in proto.graph.output)
    inputs, notes = make_inputs(model.config.pixels, images, seed)
    results = []
    for one in inputs:
        try:
            values = session.run(None, {"pixels": np.repeat(one.pixels, batch, 0)})
        except Exception as error:  # the runtime's errors have no common base
            raise FormatError(f"ONNX Runtime cannot run the model: {str(error).splitlines()[0]}") from error
        named = dict(zip((o.name for o in session.get_outputs()), values, strict=True))
        outputs = Outputs({name: named[name][:1] for name in ("loc", "conf")})
        probes, *heads = compare(outputs, model, one.pixels, PROBES, derive=partial(derived, model.config))
        rows = (_rows(named["detections"]),) if ruled else None
        results.append(InputResult(one.name, probes, compare_detections(model.config, rows, *heads)))
    return OnnxReport(f"onnxruntime {onnxruntime.__version__}", tuple(results), notes)


def _rows(table: Array) -> Rows:
    """The first image's rows of ``detections``."""
    table = table[table[:, 0] == 0]
    return Rows(table[:, 1].astype(np.int64), table[:, 2], table[:, 3:])


def _session(proto: Any) -> Any:
    """ONNX Runtime on the CPU with a copy of the model that shows its heads."""
    import onnxruntime
    from onnx import ModelProto, TensorProto, helper

    copy = ModelProto()
    copy.CopyFrom(proto)
    shown = {output.name for output in copy.graph.output}
    for name in ("loc", "conf"):
        if name not in shown:
            copy.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors have no common base
        raise FormatError(f"ONNX Runtime refuses the model: {str(error).splitlines()[0]}") from error
