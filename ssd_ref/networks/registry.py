"""Every named network of every source, by name. Imports no torch."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module

from ssdconv.errors import UsageError
from ssdconv.ssd_ref.config import SSDConfig

SOURCES = ("caffe", "gluon", "keras", "chainer", "tensorflow", "pytorch")
"""Sources in the order that an unqualified network name is looked up."""

Builder = Callable[[str, int | None], SSDConfig]


@dataclass(frozen=True)
class NetworkInfo:
    """A row of ``ssdconv networks``."""

    source: str
    name: str
    height: int
    width: int
    num_classes: int
    priors: int
    backbone: str

    def to_json(self) -> dict[str, object]:
        """The row as JSON-ready data."""
        return asdict(self)


@cache
def builders(source: str) -> Mapping[str, Builder]:
    """Network name -> builder for one source; empty where a source has no named networks."""
    if source not in SOURCES:
        raise UsageError(f"no source {source!r}", expected=f"one of {', '.join(SOURCES)}")
    try:
        module = import_module(f"ssdconv.ssd_ref.networks.{source}")
    except ModuleNotFoundError as error:
        if error.name != f"ssdconv.ssd_ref.networks.{source}":
            raise
        return {}
    table: Mapping[str, Builder] = module.NETWORKS
    return table


def network(name: str, source: str | None = None, num_classes: int | None = None) -> SSDConfig:
    """The config of a named network.

    Args:
        name: such as ``ssd300_voc``; ``chainer/ssd300_voc`` names the source too.
        source: look only there.
        num_classes: conf channels per prior (with background) of a fine-tuned network; None for the published count.

    Raises:
        UsageError: no such network; the message names the nearest one.
    """
    if "/" in name:
        source, name = name.split("/", 1)
    for candidate in (source,) if source else SOURCES:
        table = builders(candidate)
        if name in table:
            return table[name](name, num_classes)
    known = [n for s in ((source,) if source else SOURCES) for n in builders(s)]
    close = difflib.get_close_matches(name, known, 1)
    raise UsageError(
        f"no network {name!r}" + (f" of source {source!r}" if source else ""),
        hint=f"did you mean {close[0]!r}?" if close else "`ssdconv networks` lists them",
    )


def networks(source: str | None = None) -> list[NetworkInfo]:
    """One row per named network, of all sources or of one."""
    rows = []
    for candidate in (source,) if source else SOURCES:
        for name, build in builders(candidate).items():
            config = build(name, None)
            backbone = config.layers.kind
            height, width = config.pixels.size
            rows.append(NetworkInfo(candidate, name, height, width, config.num_classes, config.num_priors, backbone))
    return rows
