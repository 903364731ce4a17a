"""What a source has to say for a conversion: which network a file holds and how its tensors map to the reference's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ssdconv.converters.mapping import TensorMapping
from ssdconv.converters.spec import Spec
from ssdconv.converters.tensors import Array, TensorTable
from ssdconv.errors import UsageError
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.evidence import Claim


@dataclass(frozen=True)
class Request:
    """The user's wishes for one conversion.

    Attributes:
        network: name of the network that the file holds; None to recognise it.
        num_classes: conf channels per prior, where the file cannot tell.
        prototxt: Caffe deploy or train definition; wins over the layer list inside the weight file.
        channel_order: "RGB" or "BGR", where the file cannot tell.
        options: further wishes of a single source, by name.
        settings: what the file does not say and the user does, by key (``--set heads.padding=valid``). A source takes the
            keys that it knows; ``Plan.check_settings`` refuses the others.
        classes: names of the object classes, with or without the background; empty where the user gives none.
        stored: for the way back: shapes in which the source file kept tensors (``Plan.stored``).
        spec: what the user states about the network; a source itself needs its input size only, ``specified`` does the rest.
    """

    network: str | None = None
    num_classes: int | None = None
    prototxt: Path | None = None
    channel_order: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    stored: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    spec: Spec | None = None


@dataclass(frozen=True)
class Plan:
    """The network that a file holds and the way of each tensor.

    Attributes:
        config: the network.
        mapping: source tensor to reference tensor, a bijection.
        warnings: what the user should know (defaults that the file did not tell, unused layers).
        probes: (name in the source, path of the reference module) of every value that parity can compare.
        evidence: who says what about the network; settings that may be given are the claims' keys.
        stored: shapes in which the file keeps source tensors where these are not the network's, for the way back.
    """

    config: SSDConfig
    mapping: TensorMapping
    warnings: tuple[str, ...] = ()
    probes: tuple[tuple[str, str], ...] = ()
    evidence: tuple[Claim, ...] = ()
    stored: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def check_settings(self, settings: Mapping[str, str]) -> None:
        """Refuse settings that no claim of this network knows.

        Raises:
            UsageError: names the key and those that could be meant.
        """
        keys = sorted({claim.key for claim in self.evidence if claim.key})
        for key in settings:
            if key not in keys:
                raise UsageError(
                    f"--set {key}: this network has no such setting",
                    expected=f"one of {', '.join(keys)}" if keys else "none: the file says everything",
                )


class SourceModule(Protocol):
    """What ``converters/<source>/source.py`` provides."""

    def read(self, path: Path) -> TensorTable:
        """Open a weight file of this source."""

    def plan(self, table: TensorTable, request: Request) -> Plan:
        """Recognise the network in ``table`` and map its tensors."""

    def write(self, config: SSDConfig, tensors: Mapping[str, Array], dst: Path, request: Request) -> list[Path]:
        """Write reference tensors as a weight file of this source; returns the files written."""
