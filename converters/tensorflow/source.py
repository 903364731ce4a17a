"""TensorFlow as a source: reader, mapping and writer under the names that the registry expects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ssdconv.converters import aizoo
from ssdconv.converters.assumed import Project, settle
from ssdconv.converters.plan import Plan, Request
from ssdconv.converters.tensorflow.names import FIRST, entries, outside, probes, scope_of
from ssdconv.converters.tensorflow.reader import read_checkpoint
from ssdconv.converters.tensorflow.writer import write_bundle
from ssdconv.converters.tensors import Array, Drop, TensorMapping, TensorTable, apply_all, inverse
from ssdconv.errors import MappingError, UsageError
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.networks.aizoo import NAME as AIZOO
from ssdconv.ssd_ref.networks.tensorflow import EXTRA_SCALES, NETWORKS, SCALES, hikapok, ratios

PROJECT = Project(
    "SSD.TensorFlow's code since 2018-08-11 (2d8b0cb)",
    scales={"": SCALES},
    ratios=ratios(),
    extra=EXTRA_SCALES,
    notes={"priors.scales": f"second squares {', '.join(map(str, EXTRA_SCALES))}; the branch AbsoluteCoord has others"},
)
"""Before 2018-08-11 a cell had no square of the map's own scale; its heads' shapes tell, and such a file is refused."""


def read(path: Path) -> TensorTable:
    """Open a checkpoint or frozen graph; no TensorFlow needed. See ``reader.read_checkpoint``."""
    return read_checkpoint(path)


def plan(table: TensorTable, request: Request) -> Plan:
    """Recognise SSD.TensorFlow's SSD300 and map its variables.

    Raises:
        MappingError: the file holds another network, or two copies of it.
        UsageError: unknown network.
    """
    if aizoo.holds(table, "tensorflow") and request.network in (None, AIZOO):
        return aizoo.plan(table, "tensorflow", request)
    prefix = scope_of(list(table))
    if prefix is None:
        copies = [name.removesuffix(FIRST) for name in table if name.endswith(FIRST)]
        raise MappingError(
            "the file holds no SSD of SSD.TensorFlow" if not copies else "the file holds several networks",
            where=str(table.path),
            expected=f"one tensor whose name ends in {FIRST!r}",
            got=f"scopes {copies[:3]}" if copies else f"{len(table)} tensors, first {next(iter(table), None)!r}",
        )
    config, claims = settle(config_of(table, prefix, request), request.settings, PROJECT)
    pairs = tuple(entries(config, prefix))
    known = {entry.source for entry in pairs}
    graph = table.meta["flavour"] == "graph"
    reasons = {name: outside(name, prefix, graph=graph) for name in table if name not in known}
    drops = tuple(Drop(name, reason) for name, reason in reasons.items() if reason)
    return Plan(config, TensorMapping(pairs, drops), (), tuple(probes(config)), claims)


def config_of(table: TensorTable, prefix: str, request: Request) -> SSDConfig:
    """The network in the class count and width of the file."""
    name = request.network or next(iter(NETWORKS))
    if name not in NETWORKS:
        raise UsageError(f"TensorFlow has no network {name!r}", expected=f"one of {', '.join(NETWORKS)}")
    channels = _side(table, f"{prefix}multibox_head/cls_0/bias")
    width = _side(table, f"{prefix}conv1/conv1_1/bias") or 64
    classes = request.num_classes or (channels // 4 or None)
    if width > 64 or (classes or 0) > 2_000:
        raise MappingError(
            "no SSD has such layers", where=str(table.path), got=f"{width} channels in conv1_1, {classes} classes"
        )
    return hikapok(name, classes, width=width)


def _side(table: TensorTable, name: str) -> int:
    shape = table[name].shape if name in table else ()
    return shape[0] if len(shape) == 1 else 0


def write(config: SSDConfig, tensors: Mapping[str, Array], dst: Path, request: Request) -> list[Path]:
    """Write a V2 checkpoint with ``global_step``; ``dst`` is its prefix, or its ``.index`` file.

    Raises:
        MappingError: the network is not SSD.TensorFlow's: its code fixes padding, priors, pixels and rule.
        UsageError: another suffix.
        OutputError: a file could not be written.
    """
    prefix = dst.with_name(dst.name.removesuffix(".index"))
    if prefix.suffix != ".ckpt" and not prefix.name.rpartition("-")[2].isdigit():
        raise UsageError("a checkpoint's name ends in .ckpt or -STEP", where=str(dst))
    if config.name == AIZOO and config.source == "tensorflow":
        pairs = list(aizoo.entries(config, "tensorflow"))
        return write_bundle(
            prefix, {e.source: apply_all(inverse(e.ops, e.source_shape), tensors[e.target]) for e in pairs}
        )
    theirs = hikapok(next(iter(NETWORKS)), config.num_classes)
    if config.priors != theirs.priors or config.pixels != theirs.pixels:
        raise MappingError(
            "SSD.TensorFlow's code has other prior sizes or pixels than this network; its boxes would be wrong there",
            where=config.name,
            expected=f"a network converted with tf2pt ({theirs.name})",
        )
    made = {e.source: apply_all(inverse(e.ops, e.source_shape), tensors[e.target]) for e in entries(config)}
    return write_bundle(prefix, {**made, "global_step": np.array(step_of(prefix), np.int64)})


def step_of(prefix: Path) -> int:
    """The step that a checkpoint's name tells (``model.ckpt-120000``), else 0. Estimators restore ``global_step`` with the network."""
    number = prefix.name.rpartition("-")[2]
    return int(number) if number.isdigit() and len(number) < 19 else 0
