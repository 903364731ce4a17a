"""Which outputs of a Caffe net are raw heads, scores and priors, when layers work in place."""

from __future__ import annotations

import pytest

from ssdconv.converters.caffe.graph import graph_config
from ssdconv.converters.caffe.prototxt import parse_prototxt
from ssdconv.parity.oracles.caffe import head_probes

NET = """input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }
layer { name: "l" type: "Convolution" bottom: "data" top: "x" convolution_param { num_output: 4 kernel_size: 1 stride: 4 } }
layer { name: "lp" type: "Permute" bottom: "x" top: "x" permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "lf" type: "Flatten" bottom: "x" top: "lf" }
layer { name: "c" type: "Convolution" bottom: "data" top: "y" convolution_param { num_output: 2 kernel_size: 1 stride: 4 } }
layer { name: "cp" type: "Permute" bottom: "y" top: "z" permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "cf" type: "Flatten" bottom: "z" top: "cf" }
ACT
layer { name: "p" type: "PriorBox" bottom: "y" bottom: "data" top: "p" prior_box_param { min_size: 4 } }
layer { name: "o" type: "DetectionOutput" bottom: "lf" bottom: "END" bottom: "p" top: "o" detection_output_param { num_classes: 2 } }
"""
SOFT = """layer { name: "r" type: "Reshape" bottom: "cf" top: "r" reshape_param { shape { dim: 0 dim: -1 dim: 2 } } }
layer { name: "s" type: "Softmax" bottom: "r" top: "TOP" softmax_param { axis: 2 } }
layer { name: "q" type: "Flatten" bottom: "TOP" top: "q" }"""
SIGMOID = 'layer { name: "s" type: "Sigmoid" bottom: "cf" top: "TOP" }'


@pytest.mark.parametrize(
    ("act", "top", "end", "raw", "scores"),
    [
        (SOFT, "s", "q", "r", ("s", "q")),
        (SOFT, "r", "q", "r", ("s", "q")),  # in place
        (SIGMOID, "s", "s", "cf", ("s",)),
        (SIGMOID, "cf", "cf", "cf", ("s",)),
        ("", "", "cf", None, ("cf",)),
    ],
)
def test_heads_are_read_where_they_are_made(
    act: str, top: str, end: str, raw: str | None, scores: tuple[str, ...]
) -> None:
    net = parse_prototxt(NET.replace("ACT", act).replace("TOP", top).replace("END", end).encode(), "net")
    probes = [(p.source, p.reference) for p in head_probes(net, graph_config(net, name="x"))]
    wanted = [("lf", "@loc"), *([(raw, "@conf")] if raw else []), *((s, "@scores") for s in scores), ("p", "@priors")]
    assert probes == wanted


def test_a_softmax_of_one_map_is_no_softmax_of_all_scores() -> None:
    """Two maps, each with a softmax of its own: scores are compared where they are joined, raw class outputs nowhere."""
    soft = SOFT.replace("TOP", "s")
    for old, new in (("r", "r2"), ("s", "s2"), ("q", "q2")):
        soft += "\n" + next(x for x in SOFT.replace("TOP", "s").splitlines() if f'name: "{old}"' in x).replace(
            f'name: "{old}"', f'name: "{new}"'
        ).replace(f'top: "{old}"', f'top: "{new}"').replace('bottom: "r"', 'bottom: "r2"').replace(
            'bottom: "s"', 'bottom: "s2"'
        )
    soft += '\nlayer { name: "all" type: "Concat" bottom: "q" bottom: "q2" top: "all" }'
    soft += '\nlayer { name: "ll" type: "Concat" bottom: "lf" bottom: "lf" top: "ll" }'
    text = (
        NET.replace("ACT", soft)
        .replace("END", "all")
        .replace('bottom: "lf" bottom: "all"', 'bottom: "ll" bottom: "all"')
    )
    text = text.replace(
        'name: "p" type',
        'name: "p2" type: "PriorBox" bottom: "y" bottom: "data" top: "p2" prior_box_param { min_size: 4 } }\nlayer { name: "p" type',
    )
    text = text.replace(
        'layer { name: "o"',
        'layer { name: "pp" type: "Concat" bottom: "p2" bottom: "p" top: "pp" concat_param { axis: 2 } }\nlayer { name: "o"',
    ).replace('bottom: "p" top: "o"', 'bottom: "pp" top: "o"')
    net = parse_prototxt(text.encode(), "net")
    probes = [(p.source, p.reference) for p in head_probes(net, graph_config(net, name="x"))]
    assert probes == [("ll", "@loc"), ("all", "@scores"), ("pp", "@priors")]
