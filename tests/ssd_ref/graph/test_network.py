"""Layer graphs: execution, names, sharing, memory; and whole nets against what the original Caffe printed."""

from __future__ import annotations

import copy
import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ssdconv.converters.caffe.graph import graph_config
from ssdconv.converters.caffe.net import CaffeNet
from ssdconv.converters.caffe.prototxt import parse_prototxt, read_prototxt
from ssdconv.converters.caffe.reader import read_caffemodel
from ssdconv.errors import FormatError
from ssdconv.ssd_ref.config import Graph, LayerSpec
from ssdconv.ssd_ref.graph.network import LayerGraph
from ssdconv.ssd_ref.graph.operation import learned_blobs


def spec(
    name: str, kind: str, bottom: str, top: str, blobs: tuple[tuple[int, ...], ...] = (), **rest: object
) -> LayerSpec:
    params = rest.pop("params", {})
    return LayerSpec(name, kind, tuple(bottom.split()), tuple(top.split()), params, blobs, **rest)  # type: ignore[arg-type]


def tiny(*layers: LayerSpec, loc: str = "loc", conf: str = "conf") -> Graph:
    return Graph("data", layers, loc, conf)


IN_PLACE = tiny(
    spec("double", "Power", "data", "a", params={"scale": 2.0}),
    spec("half.rectify", "ReLU", "a", "a"),
    spec("loc", "Flatten", "a", "loc"),
    spec("conf", "Flatten", "data", "conf"),
)


def test_in_place_layers_leave_the_value_before_them_to_be_read() -> None:
    graph = LayerGraph(IN_PLACE).eval()
    seen: dict[str, Tensor] = {}
    for name in ("double", "half.rectify"):
        graph.layer(name).register_forward_hook(lambda m, i, o, name=name: seen.update({name: o}))
    x = torch.tensor([[[[-1.0, 1.0], [2.0, -2.0]]] * 3])
    kept = x.clone()
    loc, conf = graph(x)
    assert torch.equal(x, kept)
    assert torch.equal(seen["double"], 2 * x)
    assert torch.equal(seen["half.rectify"], torch.relu(2 * x))
    assert torch.equal(loc.flatten(), torch.relu(2 * x).flatten())
    assert loc.shape == (1, 3, 4)
    assert conf.shape == (1, 3, 4)
    assert dict(graph.named_children()).keys() == {"double", "half%2Erectify", "loc", "conf"}


def test_blobs_are_freed_after_their_last_use() -> None:
    graph = LayerGraph(
        tiny(
            spec("a", "Power", "data", "a", params={"scale": 2.0}),
            spec("b", "Power", "a", "b", params={"scale": 2.0}),
            spec("c", "Power", "b", "loc", params={"scale": 2.0}),
            conf="loc",
        )
    )
    alive: list[weakref.ref[Tensor]] = []
    counts: list[int] = []

    def before(module: object, inputs: object) -> None:
        gc.collect()
        counts.append(sum(r() is not None for r in alive))

    def after(module: object, inputs: object, output: Tensor) -> None:
        alive.append(weakref.ref(output))

    for name in "abc":
        graph.layer(name).register_forward_pre_hook(before)
        graph.layer(name).register_forward_hook(after)
    with torch.inference_mode():
        graph(torch.zeros(1, 3, 2, 2))
    assert counts == [0, 1, 1]


def test_layers_may_be_called_like_attributes_of_modules() -> None:
    graph = LayerGraph(
        tiny(
            spec("type", "Scale", "data", "x", ((3,),)),
            spec("half", "Flatten", "x", "loc"),
            conf="loc",
        )
    )
    assert list(graph.state_dict()) == ["type.weight"]
    graph.double()
    assert graph.layer("type").weight.dtype == torch.float64
    assert copy.deepcopy(graph)(torch.ones(1, 3, 2, 2, dtype=torch.float64))[0].shape == (1, 3, 4)


def shared_graph() -> LayerGraph:
    params = {"num_output": 4, "axis": 3, "bias_term": False}
    one = spec("one", "InnerProduct", "data", "a", ((4, 4),), params=params, shared=("w",))
    two = spec("two", "InnerProduct", "a", "loc", ((4, 4),), params=params, shared=("w",))
    return LayerGraph(tiny(one, two, conf="loc"))


def test_shared_parameters_are_one_and_stored_once() -> None:
    graph = shared_graph()
    assert graph.layer("one").weight is graph.layer("two").weight
    assert list(graph.state_dict()) == ["one.weight"]
    assert len(list(graph.parameters())) == 1
    for assign in (False, True):
        graph.load_state_dict({"one.weight": 2 * torch.eye(4)}, assign=assign)
        assert graph.layer("one").weight is graph.layer("two").weight
    assert torch.equal(graph(torch.ones(1, 3, 1, 4))[0], torch.full((1, 3, 4), 4.0))
    again = copy.deepcopy(graph)
    assert again.layer("one").weight is again.layer("two").weight is not graph.layer("one").weight


def test_graph_errors_name_layer_and_blob() -> None:
    with pytest.raises(FormatError, match=r"'b'.*reads blob 'nowhere'"):
        LayerGraph(tiny(spec("b", "ReLU", "nowhere", "loc"), conf="loc"))
    with pytest.raises(FormatError, match="no layer writes blob 'conf'"):
        LayerGraph(tiny(spec("b", "ReLU", "data", "loc")))
    with pytest.raises(FormatError, match="two layers"):
        LayerGraph(tiny(spec("b", "ReLU", "data", "loc"), spec("b", "ReLU", "loc", "conf")))
    with pytest.raises(FormatError, match="two shapes"):
        LayerGraph(
            tiny(
                spec("a", "Scale", "data", "x", ((3,),), shared=("w",)),
                spec("b", "Scale", "x", "loc", ((4,),), shared=("w",)),
                conf="loc",
            )
        )


NETS = {
    "vgg_ssd300_narrow": ("golden/vgg_ssd300_narrow.caffemodel", "golden/vgg_ssd300_narrow.prototxt", 63),
    "res10_face_ssd": (
        "weights/res10_face_ssd/res10_300x300_ssd_iter_140000.caffemodel",
        "weights/res10_face_ssd/deploy.prototxt",
        77,
    ),
    "libfacedetection_v1": (
        "weights/libfacedetection_v1/yufacedetectnet-open-v1.caffemodel",
        "weights/libfacedetection_v1/yufacedetectnet-open-v1.prototxt",
        66,
    ),
}


def loaded(model: Path, prototxt: Path) -> LayerGraph:
    with read_caffemodel(model) as table:
        config = graph_config(read_prototxt(prototxt), name="net", weights=table.found(CaffeNet))
        graph = LayerGraph(config.graph).eval()
        graph.load_state_dict(
            {
                b.parameter: torch.from_numpy(np.array(table[f"{b.layer}/{b.index}"].load())).reshape(b.shape)
                for b in learned_blobs(config.graph.layers)
            }
        )
    return graph


@pytest.mark.shared
@pytest.mark.parametrize("net", NETS)
def test_every_layer_equals_the_original_caffe(net: str, shared: Path) -> None:
    model, prototxt, probes = NETS[net]
    graph = loaded(shared / model, shared / prototxt)
    with np.load(shared / f"golden/{net}.npz") as file:
        golden = dict(file)
    x = torch.from_numpy(golden.pop("input"))
    with torch.inference_mode():
        ours = {s.name: o[0] for s, o in graph.trace(x)}
        again, _ = graph(x)
        exact = {s.name: o[0] for s, o in graph.double().trace(x.double())}
    assert torch.equal(again.flatten(), ours["mbox_loc"].flatten())
    compared = 0
    for name, expected in golden.items():
        if name == "detection_out" or name.endswith("priorbox"):
            continue
        compared += 1
        assert tuple(ours[name].shape) == expected.shape
        floor = (ours[name] - exact[name]).abs().max().item()
        error = np.abs(expected - exact[name].numpy()).max()
        assert error <= max(8 * floor, 1e-12 * np.abs(expected).max()), f"{name}: {error:.2e}, floor {floor:.2e}"
        assert floor <= 1e-5 * max(np.abs(expected).max(), 1e-30), name
    assert compared == probes


@pytest.mark.shared
def test_batches_and_channels_last_give_the_same(shared: Path) -> None:
    graph = loaded(shared / NETS["libfacedetection_v1"][0], shared / NETS["libfacedetection_v1"][1])
    x = torch.randn(2, 3, 240, 320, generator=torch.Generator().manual_seed(3)) * 50
    with torch.inference_mode():
        loc, conf = graph(x)
        single = [graph(x[i : i + 1]) for i in (0, 1)]
        last = graph(x.contiguous(memory_format=torch.channels_last))
    assert loc.shape == (2, 4420, 4)
    assert conf.shape == (2, 4420, 2)
    for whole, parts, other in ((loc, [s[0] for s in single], last[0]), (conf, [s[1] for s in single], last[1])):
        assert torch.allclose(whole, torch.cat(parts), rtol=1e-4, atol=1e-4)
        assert torch.allclose(whole, other, rtol=1e-4, atol=1e-4)


def test_trace_runs_the_tail_that_computes() -> None:
    net = parse_prototxt(
        b"""
        input: "data" input_shape { dim: 1 dim: 3 dim: 2 dim: 2 }
        layer { name: "four" type: "Convolution" bottom: "data" top: "four"
                convolution_param { num_output: 4 kernel_size: 1 } }
        layer { name: "loc" type: "Flatten" bottom: "four" top: "loc" }
        layer { name: "conf" type: "Flatten" bottom: "four" top: "conf" }
        layer { name: "rows" type: "Reshape" bottom: "conf" top: "rows"
                reshape_param { shape { dim: 0 dim: -1 dim: 4 } } }
        layer { name: "soft" type: "Softmax" bottom: "rows" top: "soft" softmax_param { axis: 2 } }
        layer { name: "flat" type: "Flatten" bottom: "soft" top: "flat" }
        layer { name: "prior" type: "PriorBox" bottom: "data" bottom: "data" top: "prior"
                prior_box_param { min_size: 1 } }
        layer { name: "out" type: "DetectionOutput" bottom: "loc" bottom: "flat" bottom: "prior" top: "out"
                detection_output_param { num_classes: 4 } }
        """,
        "test",
    )
    config = graph_config(net, name="net")
    graph = LayerGraph(config.graph)
    x = torch.rand(2, 3, 2, 2)
    traced = {layer.name: values[0] for layer, values in graph.trace(x)}
    assert list(traced) == ["four", "loc", "conf", "rows", "soft", "flat"]
    loc, conf = graph(x)
    assert torch.equal(conf, traced["rows"])
    assert torch.equal(torch.softmax(conf, 2), traced["soft"])
    assert torch.equal(loc.flatten(), traced["four"].flatten())
