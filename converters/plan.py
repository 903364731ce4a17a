"""What a source has to say for a conversion: which network a file holds and how its tensors map to the reference's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ssdconv.converters.mapping import TensorMapping
from ssdconv.converters.tensors import Array, TensorTable
from ssdconv.ssd_ref.config import SSDConfig


@dataclass(frozen=True)
class Request:
    """The user's wishes for one conversion.

    Attributes:
        network: name of the network that the file holds; None to recognise it.
        num_classes: conf channels per prior, where the file cannot tell.
        prototxt: Caffe deploy or train definition; wins over the layer list inside the weight file.
        channel_order: "RGB" or "BGR", where the file cannot tell.
        options: further wishes of a single source, by name.
    """

    network: str | None = None
    num_classes: int | None = None
    prototxt: Path | None = None
    channel_order: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """The network that a file holds and the way of each tensor.

    Attributes:
        config: the network.
        mapping: source tensor to reference tensor, a bijection.
        warnings: what the user should know (defaults that the file did not tell, unused layers).
        probes: (name in the source, path of the reference module) of every value that parity can compare.
    """

    config: SSDConfig
    mapping: TensorMapping
    warnings: tuple[str, ...] = ()
    probes: tuple[tuple[str, str], ...] = ()


class SourceModule(Protocol):
    """What ``converters/<source>/source.py`` provides."""

    def read(self, path: Path) -> TensorTable:
        """Open a weight file of this source."""

    def plan(self, table: TensorTable, request: Request) -> Plan:
        """Recognise the network in ``table`` and map its tensors."""

    def write(self, config: SSDConfig, tensors: Mapping[str, Array], dst: Path, request: Request) -> list[Path]:
        """Write reference tensors as a weight file of this source; returns the files written."""
