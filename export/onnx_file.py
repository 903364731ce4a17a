"""A network as an ``.onnx`` file that describes itself.

The model's metadata holds, as text: ``ssdconv`` (JSON with version, config and provenance, as in a checkpoint), ``pixels`` and
``classes`` (JSON: how an image becomes the input, names of the labels), ``detect`` (JSON: the rule of the source), ``outputs`` (what
the outputs are, in words) and ``differences`` (JSON: where the rule in the file is not the source's; see ``onnx_detect``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ssdconv.errors import MissingError, UsageError
from ssdconv.export.onnx_detect import add_detections, differences
from ssdconv.export.onnx_heads import DEFAULT_OPSET, heads_model
from ssdconv.ssd_ref.files import atomic_path

if TYPE_CHECKING:
    from ssdconv.ssd_ref.model import SSD

HEADS = (
    "loc: (batch, priors, 4) float32, box regressions against the priors; conf: (batch, priors, classes) float32, "
    "class outputs before the activation"
)
DETECTIONS = (
    "detections: (M, 7) float32, rows of image index, label, score, xmin, ymin, xmax, ymax; images one after the other, "
    "best score first; boxes as fractions of the image's width and height; label is an index into classes"
)


def onnx_model(
    model: SSD,
    *,
    nms: bool = False,
    opset: int = DEFAULT_OPSET,
    batch: int | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Any:
    """A network as ``onnx.ModelProto``, checked by ONNX' own checker.

    Args:
        model: on the CPU, in eval mode, float32.
        nms: decode boxes and apply the network's detection rule inside the model.
        opset, batch: see ``heads_model``.
        provenance: of the checkpoint; travels in the metadata.

    Raises:
        MissingError: a package is missing, or ``nms`` of a network whose priors are unknown.
        UsageError, FormatError: see ``heads_model``.
    """
    config = model.config
    if nms and not config.priors:
        raise MissingError(
            "the file that this network came from does not tell its priors, so boxes cannot be decoded",
            where=config.name,
            hint="leave --with-nms away, or convert with --network NAME of a network that knows them",
        )
    proto = heads_model(model, opset=opset, batch=batch)
    if nms:
        add_detections(proto.graph, config)
    described: dict[str, Any] = {
        "ssdconv": {"version": 1, "config": json.loads(config.to_json()), "provenance": dict(provenance or {})},
        "pixels": msgspec.to_builtins(config.pixels),
        "classes": list(config.class_names),
        "detect": msgspec.to_builtins(config.detect),
        "differences": list(differences(config)) if nms else [],
    }
    for key, value in described.items():
        proto.metadata_props.add(key=key, value=json.dumps(value))
    proto.metadata_props.add(key="outputs", value=DETECTIONS if nms else HEADS)
    proto.producer_name, proto.graph.name = "ssdconv", config.name
    import onnx

    onnx.checker.check_model(proto, full_check=True)
    return proto


def checked_path(path: str | Path) -> Path:
    """The file to write.

    Raises:
        UsageError: another suffix.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise UsageError("an ONNX model ends in .onnx", where=str(path))
    return path


def write_onnx(proto: Any, path: str | Path) -> Path:
    """Write a model atomically.

    Raises:
        UsageError: see ``checked_path``.
        OutputError: the file cannot be written; an older one stays.
    """
    path = checked_path(path)
    with atomic_path(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
    return path
