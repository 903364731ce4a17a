"""Checkpoint in, source file out: the exact inverse of ``convert``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ssdconv.converters.plan import Request
from ssdconv.converters.registry import source as source_named
from ssdconv.errors import FormatError
from ssdconv.ssd_ref.config import SSDConfig


@dataclass(frozen=True)
class ReverseReport:
    """What was written back."""

    config: SSDConfig
    source: str
    outputs: tuple[Path, ...]
    tensors: int

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        return {
            "network": self.config.name,
            "source": self.source,
            "outputs": [str(p) for p in self.outputs],
            "tensors": self.tensors,
        }


def reverse(src: str | Path, dst: str | Path, source: str, request: Request | None = None) -> ReverseReport:
    """Write a checkpoint's tensors as a weight file of ``source``.

    Args:
        src: checkpoint written by ssdconv.
        dst: file to write.
        source: "caffe", ….
        request: further wishes of the source.

    Raises:
        MappingError: that source cannot express the network.
        OutputError: the file could not be written; an older file there is untouched.
    """
    from ssdconv.ssd_ref.checkpoint import build, read

    checkpoint = read(src)
    build(checkpoint, where=str(src))
    tensors = {name: tensor.numpy() for name, tensor in checkpoint.state_dict.items()}
    stored = {} if source != checkpoint.config.source else _stored(checkpoint.provenance, str(src))
    wish = replace(request or Request(), stored=stored)
    outputs = source_named(source).module.write(checkpoint.config, tensors, Path(dst), wish)
    return ReverseReport(checkpoint.config, source, tuple(outputs), len(tensors))


def _stored(provenance: Mapping[str, Any], where: str) -> dict[str, tuple[int, ...]]:
    """The shapes in which the source file kept tensors."""
    held = provenance.get("stored_shapes", {})
    try:
        return {str(name): tuple(int(side) for side in shape) for name, shape in held.items()}
    except (AttributeError, TypeError, ValueError):
        raise FormatError("the shapes that the checkpoint remembers of its source are damaged", where=where) from None
