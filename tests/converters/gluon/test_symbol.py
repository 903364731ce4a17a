"""Symbols without MXNet: what is read of them, priors by its formula, and graphs that are refused by name."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssdconv.converters.convert import convert, open_source
from ssdconv.converters.gluon.params import write_params
from ssdconv.converters.gluon.symbol import parse_symbol
from ssdconv.converters.plan import Request
from ssdconv.errors import FormatError, SsdconvError, UsageError
from ssdconv.ssd_ref.checkpoint import read
from ssdconv.ssd_ref.priors import prior_corners

Graph = dict[str, Any]


class Maker:
    """A symbol in the making; ``add`` returns the node's index."""

    def __init__(self) -> None:
        self.nodes: list[Graph] = []

    def add(self, op: str, name: str, *inputs: int, **attrs: object) -> int:
        held = {k: str(v) for k, v in attrs.items()}
        self.nodes.append({"op": op, "name": name, "attrs": held, "inputs": [[i, 0, 0] for i in inputs]})
        return len(self.nodes) - 1

    def conv(self, x: int, name: str, out: int, **attrs: object) -> int:
        weight, bias = self.add("null", f"{name}_weight"), self.add("null", f"{name}_bias")
        words = {"kernel": "(3, 3)", "pad": "(1, 1)", "num_filter": out, **attrs}
        return self.add("Convolution", name, x, weight, bias, **words)


def tiny(**words: object) -> Graph:
    """One map of 8x8 at 64 pixels, two anchors, three classes, MultiBoxDetection at the end."""
    m = Maker()
    x = m.add(
        "Activation",
        "relu",
        m.conv(m.add("null", "data"), "first", 4, stride="(8, 8)", kernel="(8, 8)", pad="(0, 0)"),
        act_type="relu",
    )
    flat = []
    for kind, channels in (("loc", 8), ("cls", 6)):
        y = m.add("transpose", f"{kind}_t", m.conv(x, kind, channels), axes="(0, 2, 3, 1)")
        flat.append(m.add("Flatten", f"{kind}_f", y))
    rows = m.add("Reshape", "rows", m.add("Concat", "joined", flat[1], dim=1), shape="(0, -1, 3)")
    conf = m.add("transpose", "conf", rows, axes="(0, 2, 1)")
    anchors = m.add("_contrib_MultiBoxPrior", "anchors", x, sizes="(0.1, 0.141)", ratios="(1,)")
    anchors = m.add("Reshape", "anchors_r", m.add("Flatten", "anchors_f", anchors), shape="(0, -1, 4)")
    prob = m.add("SoftmaxActivation", "prob", conf, mode="channel")
    end = m.add("_contrib_MultiBoxDetection", "detection", prob, flat[0], anchors, nms_topk=400, **words)
    return {"nodes": m.nodes, "arg_nodes": [], "heads": [[end, 0, 0]]}


SHAPES = {
    "first_weight": (4, 3, 8, 8),
    "first_bias": (4,),
    "loc_weight": (8, 4, 3, 3),
    "loc_bias": (8,),
    "cls_weight": (6, 4, 3, 3),
    "cls_bias": (6,),
}


def written(folder: Path, graph: Graph) -> Path:
    rng = np.random.default_rng(0)
    write_params(
        folder / "n-0000.params", ((f"arg:{k}", rng.normal(size=s).astype(np.float32)) for k, s in SHAPES.items())
    )
    (folder / "n-symbol.json").write_text(json.dumps(graph))
    return folder / "n-0000.params"


def test_a_network_that_no_table_names(tmp_path: Path) -> None:
    convert(written(tmp_path, tiny(threshold=0.02)), tmp_path / "o.pth", settings={"input.size": "64x64"})
    config = read(tmp_path / "o.pth").config
    assert (config.num_classes, config.num_priors, config.pixels.size) == (3, 128, (64, 64))
    rule = config.detect
    assert (rule.nms_scope, rule.score_threshold, rule.score_inclusive, rule.nms_inclusive) == (
        "best",
        0.02,
        True,
        True,
    )
    assert (rule.top_k, rule.top_k_scope, rule.keep_top_k, rule.clip) == (400, "image", -1, "before_nms")


def test_priors_by_mxnets_formula(tmp_path: Path) -> None:
    """MultiBoxPrior of MXNet 1.9.1, its first box for sizes (0.1, …) and steps 8/300 on a 38x38 map; kept from a run of it."""
    from ssdconv.converters.gluon.symbol import SymbolNode
    from ssdconv.converters.gluon.whole import _multibox_prior

    attrs = {"sizes": "(0.1, 0.141)", "ratios": "(1, 2, 0.5)", "steps": f"({8 / 300}, {8 / 300})"}
    entry = _multibox_prior(SymbolNode("_contrib_MultiBoxPrior", "a", attrs), (38, 38), (300, 300))
    corners = prior_corners((entry,), (300, 300)).numpy().reshape(-1, 4)
    assert len(corners) == 38 * 38 * 4
    assert np.abs(corners[0] - [-0.036666669, -0.036666669, 0.0633333325, 0.0633333325]).max() < 1e-7


def test_the_size_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="size of its input") as caught:
        open_source(written(tmp_path, tiny()), "gluon")
    assert "input.size" in str(caught.value.hint)


def with_op(name: str, op: str, **attrs: str) -> Callable[[Graph], None]:
    def change(graph: Graph) -> None:
        node = next(n for n in graph["nodes"] if n["name"] == name)
        node["op"] = op
        node["attrs"].update(attrs)

    return change


def cycle(graph: Graph) -> None:
    graph["nodes"][3]["inputs"][0] = [len(graph["nodes"]) - 1, 0, 0]


def twice(graph: Graph) -> None:
    graph["nodes"][1]["name"] = "data"


def elsewhere(graph: Graph) -> None:
    graph["heads"] = [[999, 0, 0]]


def unknown_tensor(graph: Graph) -> None:
    graph["nodes"][1]["name"] = "other_weight"


REFUSED: dict[str, tuple[Callable[[Graph], None], str]] = {
    "operator": (with_op("relu", "Custom", op_type="mine"), "operator Custom is not supported"),
    "activation": (with_op("relu", "Activation", act_type="gelu"), "not supported"),
    "cycle": (cycle, "does not come before it"),
    "one name twice": (twice, "two nodes have one name"),
    "head": (elsewhere, "gives no value"),
    "tensor": (unknown_tensor, "not of this file"),
    "no kernel": (with_op("first", "Convolution", kernel="(0, 0)"), "of nothing"),
    "huge kernel": (with_op("first", "Convolution", kernel="(99999999, 3)"), "two axes"),
    "code in an attribute": (with_op("first", "Convolution", kernel="__import__('os').getpid()"), "cannot be read"),
    "deep attribute": (with_op("first", "Convolution", kernel="(" * 5000), "cannot be read"),
    "groups": (with_op("first", "Convolution", num_group="2"), "do not divide"),
    "mean of nothing": (with_op("relu", "mean", axis="(1,)"), "other axes"),
    "background": (with_op("detection", "_contrib_MultiBoxDetection", background_id="2"), "background"),
    "variances": (with_op("detection", "_contrib_MultiBoxDetection", variances="(0, 1, 1, 1)"), "variances"),
    "anchors": (with_op("anchors", "_arange"), "not known"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, tmp_path: Path) -> None:
    change, message = REFUSED[case]
    graph = tiny()
    change(graph)
    started = time.process_time()
    with pytest.raises(FormatError, match=message):
        open_source(written(tmp_path, graph), "gluon", Request(settings={"input.size": "64x64"}))
    assert time.process_time() - started < 2


def test_a_million_nodes_are_refused() -> None:
    text = json.dumps(
        {"nodes": [{"op": "null", "name": str(k), "inputs": []} for k in range(100_001)], "heads": [[0, 0]]}
    )
    with pytest.raises(FormatError, match="so many nodes"):
        parse_symbol(text, "x")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"nodes": 3, "heads": []}', '{"nodes": [{}], "heads": [[0]]}', "[" * 100_000]
)
def test_what_is_no_symbol(text: str) -> None:
    with pytest.raises(SsdconvError):
        parse_symbol(text, "x")


def test_a_name_and_a_symbol_contradict(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot both say"):
        open_source(
            written(tmp_path, tiny()), "gluon", Request("ssd_300_vgg16_atrous_voc", settings={"layers": "symbol"})
        )


def test_a_symbol_is_asked_for_where_there_is_none(tmp_path: Path) -> None:
    path = written(tmp_path, tiny())
    (tmp_path / "n-symbol.json").unlink()
    with pytest.raises(UsageError, match="no symbol beside"):
        open_source(path, "gluon", Request(settings={"layers": "symbol"}))
