"""GluonCV as a source: reader, mapping and writer under the names that the registry expects."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from ssdconv.converters import aizoo
from ssdconv.converters.gluon.mapping import anchor_names, anchors, in_dialect, mapping, parts_of, rows_of, table_of
from ssdconv.converters.gluon.params import read_params, write_params
from ssdconv.converters.gluon.recognise import (
    class_count,
    nearest,
    recognise,
    reference,
    reference_shapes,
    stored_geometry,
)
from ssdconv.converters.gluon.symbol import Symbol, beside, beside_name, parse_symbol, read_symbol
from ssdconv.converters.gluon.whole import PIXELS, plan_of
from ssdconv.converters.plan import Plan, Request
from ssdconv.converters.tensors import Array, TensorMapping, TensorTable
from ssdconv.errors import MappingError, UsageError
from ssdconv.ssd_ref.config import Graph, SSDConfig
from ssdconv.ssd_ref.evidence import Claim
from ssdconv.ssd_ref.files import atomic_path
from ssdconv.ssd_ref.gate import reader
from ssdconv.ssd_ref.networks.aizoo import NAME as AIZOO
from ssdconv.ssd_ref.networks.registry import network


@reader
def read(path: Path) -> TensorTable:
    """Open a .params file; no MXNet needed. See ``reader.read_params``."""
    return read_params(path)


def plan(table: TensorTable, request: Request) -> Plan:
    """Recognise the network, or take the one asked for, and map its tensors.

    Raises:
        MappingError: no network fits, or not the one asked for; then the message says which fits best.
    """
    if aizoo.holds(table, "gluon") and request.network in (None, AIZOO):
        return aizoo.plan(table, "gluon", request)
    stored = request.options.get("symbol") or beside(table.path)
    if stored is None and request.settings.get("layers") == "symbol":
        raise UsageError("there is no symbol beside the file", where=str(table.path), hint="name it: --symbol FILE")
    if request.network and (request.options.get("symbol") or request.settings.get("layers") == "symbol"):
        raise UsageError("a network's name and a symbol cannot both say what the layers are", got=request.network)
    layers = _layers_from(request) if stored is not None and request.network is None else ""
    if stored is not None and layers == "symbol":
        return _plan_by(stored, table, request)
    warnings: tuple[str, ...] = ()
    if request.network:
        config = network(request.network, "gluon", request.num_classes)
        if not request.num_classes:
            config = network(request.network, "gluon", class_count(table, config))
    else:
        try:
            config, warnings = recognise(table, request.num_classes)
        except MappingError:
            if stored is None or layers:
                raise
            return _plan_by(stored, table, request)
    config, claims = stored_geometry(table, config, request.settings)
    if stored is not None:
        text = f"GluonCV's {config.name}, known by names and shapes; the symbol beside the file is not read"
        claims = (
            *claims,
            Claim("architecture", "rebuilt", text, "layers", "table", ("symbol",), "layers by the file's own graph"),
        )
    odd = {str(t.dtype) for t in table.values() if t.dtype != "float32"}
    if odd:
        claims = (
            *claims,
            Claim("tensors", "stated", f"tensors of {', '.join(sorted(odd))}, kept as they are; computed in float32"),
        )
    return Plan(config, _checked(table, config), warnings, probes(config), claims)


def _layers_from(request: Request) -> str:
    """Where the user wants the layers of a file with a symbol from: "symbol", "table", or "" for the symbol where no named network fits."""
    chosen = request.settings.get("layers", "symbol" if request.options.get("symbol") else "")
    if chosen not in ("", "symbol", "table"):
        raise UsageError(f"--set layers={chosen}", expected="symbol or table")
    return chosen


def _plan_by(stored: Symbol | Path | str, table: TensorTable, request: Request) -> Plan:
    symbol = stored if isinstance(stored, Symbol) else read_symbol(Path(stored))
    return plan_of(symbol, table, request.settings)


def plan_for(table: TensorTable, config: SSDConfig) -> Plan:
    """The plan of a file for a given config of GluonCV's, its tensors checked.

    Raises:
        MappingError: the file does not fit the config.
    """
    if isinstance(config.layers, Graph):
        if config.layers.origin is None:
            raise MappingError("the checkpoint does not hold the symbol that it was converted by", where=config.name)
        pixels = next((name for name, entry in PIXELS.items() if entry.mean == config.pixels.mean), "gluoncv")
        size = f"{config.pixels.size[1]}x{config.pixels.size[0]}"
        settings = {"input.size": size, "pixels": pixels}
        return plan_of(parse_symbol(config.layers.origin.text, "the checkpoint's symbol"), table, settings)
    if config.name == AIZOO:
        return aizoo.plan(table, "gluon", Request())
    return Plan(config, _checked(table, config), (), probes(config))


def _checked(table: TensorTable, config: SSDConfig) -> TensorMapping:
    shapes = reference_shapes(config)
    try:
        pairs = mapping(config, table, shapes)
        pairs.check(table, shapes, where=str(table.path))
    except MappingError as error:
        best = nearest(table)
        if best.name == config.name or best.found <= best.wanted // 2:
            raise
        hint = f"the file fits network {best} best" + (f"; {error.hint}" if error.hint else "")
        raise MappingError(error.what, where=error.where, expected=error.expected, got=error.got, hint=hint) from None
    return pairs


def probes(config: SSDConfig) -> tuple[tuple[str, str], ...]:
    """(node of MXNet's graph, reference module) of every layer, then of heads and class scores."""
    _, modules = reference(config.to_json())
    found = [(f"ssd0_{p.node}", p.module) for p in parts_of(config) if p.node and (p.needs or p.module) in modules]
    return (*found, ("ssd0_concat1", "@loc"), ("ssd0_concat0", "@conf"), ("ssd0_softmax0", "@scores"))


def write(config: SSDConfig, tensors: Mapping[str, Array], dst: Path, request: Request) -> list[Path]:
    """Write ``dst`` (.params) with the network's anchors; ``request.options["dialect"]`` chooses the names.

    Dialects are ``structural`` (what ``net.load_parameters`` reads; the default), ``legacy`` and ``export``.

    Raises:
        MappingError: the network is not GluonCV's.
        UsageError: another suffix or an unknown dialect.
    """
    if dst.suffix != ".params":
        raise UsageError("an MXNet weight file ends in .params", where=str(dst))
    dialect = request.options.get("dialect", "structural")
    if dialect not in ("structural", "legacy", "export"):
        raise UsageError(f"no dialect {dialect!r}", expected="structural, legacy or export")
    if isinstance(config.layers, Graph):
        return _write_again(config, tensors, dst, request)
    if config.name == AIZOO:
        if dialect != "structural":
            raise UsageError(f"this network's code loads structural names only, not {dialect} ones", where=config.name)
        write_params(dst, ((e.source, tensors[e.target]) for e in aizoo.entries(config, "gluon")))
        return [dst]
    rows = [row for row in rows_of(config) if row.target in tensors]

    def produce() -> Iterator[tuple[str, Array]]:
        for row in rows:
            array = tensors[row.target]
            array = array.reshape(1, -1, 1, 1) if ".l2norm." in row.target else array
            yield in_dialect(row.name, dialect, "ssd0_"), array
        kept = next(iter(tensors.values())).dtype
        for name, array in zip(anchor_names(config), anchors(config), strict=True):
            yield in_dialect(name, dialect, "ssd0_"), array.astype(kept)

    write_params(dst, produce())
    return [dst]


def _write_again(config: SSDConfig, tensors: Mapping[str, Array], dst: Path, request: Request) -> list[Path]:
    """The file of a network that was converted by its symbol, and the symbol beside it as it was.

    Raises:
        MappingError: the network comes from another source, or its file held more than its network's tensors.
    """
    origin = config.layers.origin if isinstance(config.layers, Graph) else None
    if origin is None or config.source != "gluon" or "anchors" not in origin.facts:
        raise MappingError(
            "this network cannot be written as MXNet's files", where=config.name,
            expected="a network converted from .params by its symbol, all of whose other tensors are regular anchors",
        )  # fmt: skip
    tables = json.loads(origin.facts["anchors"])

    def produce() -> Iterator[tuple[str, Array]]:
        kept = next(iter(tensors.values())).dtype
        at = {place: (name, *shape) for name, (place, *shape) in tables.items()}
        weights = iter(origin.stored.items())
        for place in range(len(origin.stored) + len(at)):
            if place in at:
                name, index, rows, columns = at[place]
                yield name, table_of(config.priors[index], rows, columns).astype(kept)
            else:
                target, name = next(weights)
                yield name, tensors[target].reshape(request.stored.get(name, tensors[target].shape))

    write_params(dst, produce())
    symbol = beside_name(dst)
    with atomic_path(symbol) as temporary:
        temporary.write_text(origin.text, encoding="utf-8", newline="")
    return [dst, symbol]
