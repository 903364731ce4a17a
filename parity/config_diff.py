"""Two configs, field by field: what one network does otherwise than another, beyond its tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ssdconv.ssd_ref.config import Graph, SSDConfig, Staged
from ssdconv.ssd_ref.evidence import LINKS, Link

CLOSE = 1e-6
"""Relative difference up to which two numbers are one: Caffe's fields are float32."""
LONGEST = 120


@dataclass(frozen=True)
class FieldDifference:
    """One field of two configs.

    Attributes:
        link: which link it belongs to.
        field: its place ("pixels.mean", "priors[0].box_sizes", "detect.nms_threshold", "extras conv7_2.padding").
        mine, theirs: the values, as short texts; "nothing" where a side has no such field.
    """

    link: Link
    field: str
    mine: str
    theirs: str

    def __str__(self) -> str:
        return f"{self.field}: {self.mine} instead of {self.theirs}"


def config_differences(mine: SSDConfig, theirs: SSDConfig, *, layers: bool = True) -> tuple[FieldDifference, ...]:
    """Every field in which ``mine`` would compute something else than ``theirs``, in the order of the links.

    What a network is called and where it comes from is not compared, nor what a graph says for readers. Class names are compared where both
    have some. A layer graph and a staged network are not compared layer by layer: their probes are.

    Args:
        mine, theirs: the configs.
        layers: compare the layers too.
    """
    a, b = asdict(mine), asdict(theirs)  # not msgspec, which leaves out fields that an older JSON did not have
    found: list[FieldDifference] = []

    def add(link: Link, left: Any, right: Any) -> None:
        found.extend(FieldDifference(link, field, _short(x), _short(y)) for field, x, y in _walk("", left, right))

    if layers and isinstance(mine.layers, Staged) and isinstance(theirs.layers, Staged):
        add("architecture", _staged(a["layers"]), _staged(b["layers"]))
    elif layers and isinstance(mine.layers, Graph) and isinstance(theirs.layers, Graph):
        add("architecture", _graph(a["layers"]), _graph(b["layers"]))
    add("pixels", {"pixels": a["pixels"]}, {"pixels": b["pixels"]})
    add("priors", _priors(a), _priors(b))
    add("detection rule", {"detect": a["detect"]}, {"detect": b["detect"]})
    add("classes", {"num_classes": mine.num_classes}, {"num_classes": theirs.num_classes})
    if mine.class_names and theirs.class_names:
        add("classes", {"class_names": a["class_names"]}, {"class_names": b["class_names"]})
    return tuple(sorted(found, key=lambda d: LINKS.index(d.link)))


_NOTHING = object()


def _walk(at: str, a: Any, b: Any) -> Iterator[tuple[str, Any, Any]]:
    """(place, value, value) wherever two plain values differ; lists of numbers are one value."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys([*a, *b]):
            dot = "." if at and not str(key).startswith("[") else ""
            yield from _walk(f"{at}{dot}{key}", a.get(key, _NOTHING), b.get(key, _NOTHING))
    elif not _same(a, b):
        yield at, a, b


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, bool) or isinstance(b, bool) or not isinstance(a, int | float) or not isinstance(b, int | float):
        return bool(a == b)
    return a == b or math.isclose(a, b, rel_tol=CLOSE, abs_tol=1e-12 * min(1.0, abs(a) + abs(b)))


def _short(value: Any) -> str:
    if value is _NOTHING:
        return "nothing"
    if isinstance(value, float):
        return f"{value:.9g}"
    text = f"({', '.join(map(_short, value))})" if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _priors(config: Mapping[str, Any]) -> dict[str, Any]:
    return {f"priors[{index}]": dict(entry) for index, entry in enumerate(config["priors"])}


def _staged(staged: Mapping[str, Any]) -> dict[str, Any]:
    """Layers under their names: an extra layer by its own, what a list holds by its place."""
    extras = {
        f"[{row}] {layer['name']}" if not layer["name"] else layer["name"]: dict(layer)
        for row, stage in enumerate(staged["extras"]["stages"])
        for layer in stage
    }
    stages = [[layer["name"] for layer in stage] for stage in staged["extras"]["stages"]]
    heads = dict(staged["heads"])
    heads["l2norm"] = {f"[{index}]": value for index, value in heads["l2norm"].items()}
    return {
        "backbone": dict(staged["backbone"]),
        "extras": {"stages": stages, "pool": staged["extras"]["pool"], **extras},
        "heads": heads,
    }


def _graph(graph: Mapping[str, Any]) -> dict[str, Any]:
    layers = {
        layer["name"]: {k: v for k, v in layer.items() if k not in ("name", "shared")} for layer in graph["layers"]
    }
    rest = {key: graph[key] for key in ("input", "loc", "conf", "loc_classes")}
    return {"layers": layers, **rest}
