"""The source file beside a converted network: opened as that network, by the column of its source."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from ssdconv.converters.convert import Opened, open_source, request_of
from ssdconv.converters.plan import Request
from ssdconv.converters.registry import SOURCES
from ssdconv.errors import FormatError, MissingError, SsdconvError, UsageError
from ssdconv.parity.oracles.base import Column
from ssdconv.ssd_ref.checkpoint import Checkpoint
from ssdconv.ssd_ref.config import Graph, SSDConfig
from ssdconv.ssd_ref.evidence import PIXELS_ASSUMED, code_of

PIXELS_UNTOLD = "the source does not tell how it prepares pixels: the checkpoint's way is used on both sides"


def column_of(source: str) -> Column:
    """What sets up a source's oracles.

    Raises:
        MissingError: there is none for this source.
    """
    name = f"ssdconv.parity.oracles.{source}"
    if source not in SOURCES or find_spec(name) is None:
        raise MissingError(f"no oracle for {source} networks", expected=f"one of {', '.join(SOURCES)}")
    column: Column = import_module(name).COLUMN
    return column


def told_warnings(opened: Opened) -> tuple[str, ...]:
    """What the plan warns of; where the source tells no pixels, the mean that it assumed is nobody's."""
    told = column_of(opened.source.name).tells_pixels(opened)
    return tuple(w for w in opened.plan.warnings if told or code_of(w) != PIXELS_ASSUMED)


def open_as(source: Path, prototxt: Path | None, checkpoint: Checkpoint) -> Opened:
    """The source file as the network that it tells itself, with what the user told when it was converted.

    For a checkpoint of a version that did not keep that: as the checkpoint's named network, where the file tells none.
    """
    config = checkpoint.config
    asked = request_of(checkpoint.provenance, prototxt, config)
    try:
        opened = open_source(source, config.source, asked or Request(prototxt=prototxt))
    except (FormatError, UsageError) as error:
        if isinstance(error, UsageError) and asked is not None and asked.network is not None:
            # The user named a network for weights alone, and this file describes its own.
            return adopted(
                open_source(source, config.source, Request(prototxt=prototxt)), config, checkpoint.state_dict
            )
        if isinstance(config.layers, Graph) or asked is not None:
            raise
        told = Request(config.name, config.num_classes, prototxt, config.pixels.order)
        with suppress(SsdconvError):
            return open_source(source, config.source, told)
        raise
    return adopted(opened, config, checkpoint.state_dict)


def adopted(opened: Opened, config: SSDConfig, names: Collection[str]) -> Opened:
    """The opened file under another network's names of tensors; closed where the two are different networks.

    Args:
        opened: the file.
        config: the network that it shall be.
        names: of that network's tensors.

    Raises:
        MappingError: the file is not of that network.
    """
    if {e.target for e in opened.plan.mapping} == set(names):
        return opened
    try:
        found = column_of(opened.source.name).adopt(opened, config)
    except BaseException:
        opened.table.close()
        raise
    return found
