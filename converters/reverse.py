"""Checkpoint in, source file out: the exact inverse of ``convert``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssdconv.converters.plan import Request
from ssdconv.converters.registry import source as source_named
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
    outputs = source_named(source).module.write(checkpoint.config, tensors, Path(dst), request or Request())
    return ReverseReport(checkpoint.config, source, tuple(outputs), len(tensors))
