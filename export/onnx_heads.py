"""The network from pixels to raw heads as an ONNX model, by torch's own exporter (``torch.onnx.export(dynamo=True)``).

Inputs and outputs as ``model.SSD`` has them: ``pixels`` (N, channels, H, W) -> ``loc`` (N, P, 4), or (N, P, C * 4) where classes do not
share their boxes, and ``conf`` (N, P, C), all float32. Initializers carry the checkpoint's tensor names where the exporter keeps
the tensors as they are.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ssdconv.errors import FormatError, MissingError, UsageError

if TYPE_CHECKING:
    from ssdconv.ssd_ref.model import SSD

LOWEST_OPSET, DEFAULT_OPSET, HIGHEST_OPSET = 18, 18, 23
"""Operator sets that torch's exporter writes without converting; every one is run by the tests."""


class _Heads(nn.Module):
    """The part of a network that computes loc and conf, under a name that torch's exporter can hold: it refuses ``graph``."""

    def __init__(self, model: SSD) -> None:
        super().__init__()
        self.network = model.graph if model.config.graph is not None else model

    def forward(self, pixels: Tensor) -> Any:
        return self.network(pixels)


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
    _name_as_in_checkpoint(proto.graph, "network.", "graph." if model.config.graph is not None else "")
    return proto


def _cause(error: BaseException) -> str:
    """The innermost message, first line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _name_as_in_checkpoint(graph: Any, prefix: str, wanted: str) -> None:
    """Initializers ``network.x`` as ``x`` or ``graph.x``: the names of the checkpoint."""
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
