"""Edits of a staged network's layers, shared by hypotheses about layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from ssdconv.parity.diagnose.net import Net
from ssdconv.ssd_ref.config import ConvSpec, LayerSpec, NormSpec, SSDConfig, Staged

Change = Callable[[Net], Net]


def options(**values: Any) -> Change:
    """Set keyword arguments of the backbone."""
    return lambda net: net.with_staged(
        lambda s: replace(s, backbone=replace(s.backbone, options={**s.backbone.options, **values}))
    )


def option(net: Net, name: str, default: Any) -> Any:
    """A keyword argument of the backbone."""
    return net.config.staged.backbone.options.get(name, default) if net.config.staged else default


def extras(change: Callable[[ConvSpec], ConvSpec]) -> Change:
    """Change every extra layer."""

    def on(staged: Staged) -> Staged:
        stages = tuple(tuple(change(spec) for spec in stage) for stage in staged.extras.stages)
        return replace(staged, extras=replace(staged.extras, stages=stages))

    return lambda net: net.with_staged(on)


def specs(config: SSDConfig | None) -> Iterator[ConvSpec]:
    """All extra layers."""
    for stage in config.staged.extras.stages if config is not None and config.staged else ():
        yield from stage


def norms(net: Net) -> dict[str, NormSpec]:
    """Batch normalisations by the part of the network that shares one spec: "the backbone", "the extra layers", "the heads"."""
    staged = net.config.staged
    if staged is None:
        return {}
    found: dict[str, NormSpec] = {}
    kind, given = staged.backbone.kind, staged.backbone.options
    if kind in ("resnet", "keras_resnet50"):
        found["the backbone"] = NormSpec(given.get("eps", 1e-5 if kind == "resnet" else 1e-3))
    elif given.get("norm") is not None:
        norm = given["norm"]
        found["the backbone"] = norm if isinstance(norm, NormSpec) else msgspec.convert(norm, NormSpec)
    for spec in specs(net.config):
        if spec.norm is not None:
            found.setdefault("the extra layers", spec.norm)
    if staged.heads.depthwise is not None:
        found["the heads"] = staged.heads.depthwise
    return found


def set_norms(part: str, fields: Mapping[str, Any]) -> Change:
    """Change the batch normalisations of a part (see ``norms``), or of "every part"."""

    def on_extras(spec: ConvSpec) -> ConvSpec:
        return spec if spec.norm is None else replace(spec, norm=replace(spec.norm, **fields))

    def change(net: Net) -> Net:
        held = norms(net)
        wanted = held if part == "every part" else {part: held[part]}
        if "the backbone" in wanted and net.config.staged is not None:
            if "norm" in net.config.staged.backbone.options:
                net = options(norm=msgspec.to_builtins(replace(wanted["the backbone"], **fields)))(net)
            elif "eps" in fields:
                net = options(eps=fields["eps"])(net)
        if "the extra layers" in wanted:
            net = extras(on_extras)(net)
        if "the heads" in wanted:
            depthwise = replace(wanted["the heads"], **fields)
            net = net.with_staged(lambda s: replace(s, heads=replace(s.heads, depthwise=depthwise)))
        return net

    return change


def graph_layers(net: Net, kinds: tuple[str, ...]) -> list[LayerSpec]:
    """Layers of these Caffe types in a layer graph."""
    return [la for la in net.config.graph.layers if la.type in kinds] if net.config.graph is not None else []


def set_graph(kinds: tuple[str, ...], only: str | None, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Change:
    """Change the parameters of a graph's layers of these types, or of the one called ``only``."""

    def apply(net: Net) -> Net:
        graph = net.config.graph
        if graph is None:
            return net
        layers = tuple(
            replace(la, params=change(dict(la.params))) if la.type in kinds and only in (None, la.name) else la
            for la in graph.layers
        )
        return replace(net, config=replace(net.config, graph=replace(graph, layers=layers)))

    return apply
