"""A network as an ``.onnx`` file that describes itself; from pixels to raw heads by torch's own exporter.

Inputs and outputs as ``model.SSD`` has them: ``pixels`` (N, channels, H, W) -> ``loc`` (N, P, 4), or (N, P, C * 4) where classes do not
share their boxes, and ``conf`` (N, P, C), all float32. Initializers carry the checkpoint's tensor names where the exporter keeps
the tensors as they are.

The model's metadata holds, as text: ``ssdconv`` (JSON with version, config and provenance, as in a checkpoint), ``pixels`` and
``classes`` (JSON: how an image becomes the input, names of the labels), ``detect`` (JSON: the rule of the source), ``outputs`` (what
the outputs are, in words) and ``differences`` (JSON: where the rule in the file is not the source's; see ``onnx_detect``).
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from torch import Tensor, nn

from ssdconv.errors import FormatError, MissingError, UsageError
from ssdconv.export.onnx_detect import add_detections, differences
from ssdconv.ssd_ref.config import Graph
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


LOWEST_OPSET, DEFAULT_OPSET, HIGHEST_OPSET = 18, 18, 23
"""Operator sets that torch's exporter writes without converting; every one is run by the tests."""


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


def need_onnx() -> None:
    """Refuse early where the packages that write ONNX are not installed.

    Raises:
        MissingError: ``onnx`` or ``onnxscript`` is missing.
    """
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise MissingError(
            f"writing ONNX needs the Python package{'s' if len(missing) > 1 else ''} {' and '.join(missing)}",
            hint="python -m pip install 'ssdconv[onnx]'",
        )


def heads_model(model: SSD, *, opset: int = DEFAULT_OPSET, batch: int | None = None) -> Any:
    """Export ``model`` in float32; its weights are not changed.

    Args:
        model: on the CPU, in eval mode.
        opset: version of ONNX' operator set.
        batch: images per run; None leaves it open, as the dimension ``batch``.

    Returns:
        ``onnx.ModelProto`` with input ``pixels`` and outputs ``loc`` and ``conf``.

    Raises:
        MissingError: a package is missing.
        UsageError: an operator set that is not written here, or a batch below 1.
        FormatError: torch cannot express the network.
    """
    need_onnx()
    if not LOWEST_OPSET <= opset <= HIGHEST_OPSET:
        raise UsageError(
            "this version of ONNX' operator set is not written",
            expected=f"{LOWEST_OPSET} to {HIGHEST_OPSET}",
            got=opset,
        )
    if batch is not None and batch < 1:
        raise UsageError("a batch has at least one image", got=batch)
    height, width = model.config.pixels.size
    # A batch of two where it stays open: torch takes a 1 for a constant.
    pixels = torch.zeros(batch or 2, model.config.pixels.channels, height, width)
    shapes = None if batch else ({0: torch.export.Dim("batch")},)
    try:
        with _quiet(), torch.no_grad():
            program: Any = torch.onnx.export(
                _Heads(model).eval(),
                (pixels,),
                dynamo=True,
                input_names=["pixels"],
                output_names=["loc", "conf"],
                dynamic_shapes=shapes,
                opset_version=opset,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise FormatError(
            f"torch cannot express this network in ONNX: {_cause(error)}",
            where=model.config.name,
            hint=f"this is torch {torch.__version__}; another version may",
        ) from error
    proto = program.model_proto
    _name_as_in_checkpoint(proto.graph, "network.", "layers." if isinstance(model.config.layers, Graph) else "")
    return proto


class _Heads(nn.Module):
    """The part of a network that computes loc and conf."""

    def __init__(self, model: SSD) -> None:
        super().__init__()
        self.network = model.layers if isinstance(model.config.layers, Graph) else model

    def forward(self, pixels: Tensor) -> Any:
        return self.network(pixels)


def _cause(error: BaseException) -> str:
    """The innermost message, first line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _name_as_in_checkpoint(graph: Any, prefix: str, wanted: str) -> None:
    """Initializers ``network.x`` as ``x`` or ``layers.x``: the names of the checkpoint."""
    names = {i.name: wanted + i.name.removeprefix(prefix) for i in graph.initializer if i.name.startswith(prefix)}
    for initializer in graph.initializer:
        initializer.name = names.get(initializer.name, initializer.name)
    for value in graph.value_info:
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's talk about packages that are not needed here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
