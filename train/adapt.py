"""A network for other classes: the same layers, with class outputs as many as a data set has. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ssdconv.errors import UsageError
from ssdconv.ssd_ref.caffe_layers.names import CONVOLUTIONS, module_name
from ssdconv.ssd_ref.classes import BACKGROUND
from ssdconv.ssd_ref.config import DetectRule, Graph, LayerSpec, SSDConfig

_PASSING = ("Permute", "Flatten", "Concat", "Reshape", "Dropout", "Split")


def check_trainable(config: SSDConfig) -> None:
    """Raise where the loss of SSD does not fit a network.

    Raises:
        UsageError: scores that are no softmax over background and classes, boxes per class, another box code, no priors.
    """
    rule = config.detect
    wanted = replace(rule, activation="softmax", background=0, share_location=True, code="center_size")
    wanted = replace(wanted, variance_encoded=False)
    if rule != wanted:
        names = [n for n in DetectRule.__dataclass_fields__ if getattr(rule, n) != getattr(wanted, n)]
        raise UsageError(
            "this network cannot be trained with the loss of SSD",
            where=config.name,
            expected=", ".join(f"{n} {getattr(wanted, n)!r}" for n in names),
            got=", ".join(f"{n} {getattr(rule, n)!r}" for n in names),
        )
    if not config.priors:
        raise UsageError("the network's priors are unknown, so nothing can be matched", where=config.name)


def with_classes(config: SSDConfig, classes: Sequence[str]) -> tuple[SSDConfig, tuple[str, ...]]:
    """The network for ``classes`` (without background), and whose tensors have to start anew.

    Returns:
        The config, and prefixes of the names of the class outputs' tensors; none where the network has these very classes,
        in whatever order.

    Raises:
        UsageError: no class, a class twice, or class outputs that cannot be found in a layer graph.
    """
    if not classes or len(set(classes)) < len(classes):
        raise UsageError("a network needs classes, each of its own name", got=", ".join(classes) or "none")
    if config.class_names and set(config.class_names[1:]) == set(classes):
        return config, ()
    count, names = len(classes) + 1, (BACKGROUND, *classes)
    if config.staged is not None:
        return replace(config, num_classes=count, class_names=names), ("heads.conf.",)
    graph = config.graph
    if graph is None or graph.loc_classes != 1:
        raise UsageError("a network with boxes of their own per class cannot change its classes", where=config.name)
    outputs = _class_outputs(graph, config.name)
    layers = tuple(_changed(s, s.name in outputs, config.num_classes, count) for s in graph.layers)
    tail = tuple(_changed(s, False, config.num_classes, count) for s in graph.tail)
    changed = replace(
        config, num_classes=count, class_names=names, graph=replace(graph, layers=layers, tail=tail, origin=None)
    )
    return changed, tuple(f"graph.{module_name(name)}." for name in sorted(outputs))


def _class_outputs(graph: Graph, where: str) -> set[str]:
    """Names of the convolutions whose outputs are ``graph.conf``."""
    found: set[str] = set()
    todo = [(graph.conf, len(graph.layers))]
    while todo:
        blob, before = todo.pop()
        place = next((i for i in range(before - 1, -1, -1) if blob in graph.layers[i].tops), None)
        spec = None if place is None else graph.layers[place]
        if spec is not None and place is not None and spec.type in _PASSING:
            todo += [(bottom, place) for bottom in spec.bottoms]
        elif spec is not None and spec.type in (*CONVOLUTIONS, "Conv2D", "InnerProduct") and not any(spec.shared):
            found.add(spec.name)
        else:
            raise UsageError(
                "the class outputs of this layer graph cannot be changed",
                where=f"{where}, blob {blob!r}",
                expected="convolutions behind reshaping layers",
                got="the input" if spec is None else f"a {spec.type} layer",
            )
    return found


def _changed(spec: LayerSpec, output: bool, before: int, after: int) -> LayerSpec:
    params: dict[str, Any] = dict(spec.params)
    if output:
        word = "filters" if spec.type == "Conv2D" else "num_output"
        params[word] = params[word] // before * after
        blobs = tuple((params[word], *shape[1:]) for shape in spec.blobs)
        return replace(spec, params=params, blobs=blobs)
    if spec.type == "Reshape" and "shape" in params:
        shape = dict(params["shape"])
        shape["dim"] = [after if d == before else d for d in shape.get("dim", ())]
        params["shape"] = shape
    elif params.get("num_classes") == before:
        params["num_classes"] = after
    return replace(spec, params=params)
