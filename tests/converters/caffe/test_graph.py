"""Caffe nets as configs: released files, train and deploy forms, and small nets with every oddity.

Deploy nets written back from graph configs: OpenCV loads them and gives what it gives for the original files.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ssdconv.converters.caffe.graph import graph_config, graph_net
from ssdconv.converters.caffe.net import CaffeNet
from ssdconv.converters.caffe.prototxt import parse_prototxt, read_prototxt, write_prototxt
from ssdconv.converters.caffe.reader import read_caffemodel
from ssdconv.converters.caffe.writer import write_caffemodel
from ssdconv.errors import FormatError, UsageError
from ssdconv.ssd_ref.config import Graph, Postprocess, Preprocess, SSDConfig
from ssdconv.ssd_ref.graph.network import LayerGraph
from ssdconv.ssd_ref.networks.caffe import NETWORKS

LIB = "weights/libfacedetection_v1/yufacedetectnet-open-v1"
RES10 = "weights/res10_face_ssd/"
MASK = "weights/aizoo_facemask/face_mask_detection"


def own_net(path: Path) -> CaffeNet:
    with read_caffemodel(path) as table:
        net = table.found(CaffeNet)
    assert isinstance(net, CaffeNet)
    return net


def graph_of(config: SSDConfig) -> Graph:
    return config.graph


INPUT = 'input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 } '
DATA = """
layer { name: "data" type: "AnnotatedData" top: "data" top: "label" include { phase: TRAIN }
        transform_param { mean_value: 1 mean_value: 2 mean_value: 3 scale: 0.5
                          resize_param { resize_mode: WARP height: 8 width: 8 } } }
"""
BODY = """
layer { name: "c" type: "Convolution" bottom: "data" top: "c"
        convolution_param { num_output: 4 kernel_size: 3 pad: 1 stride: 2 weight_filler { type: "xavier" } } }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
layer { name: "l" type: "Convolution" bottom: "c" top: "l" convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "lp" type: "Permute" bottom: "l" top: "lp" permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "lf" type: "Flatten" bottom: "lp" top: "lf" }
layer { name: "k" type: "Convolution" bottom: "c" top: "k" convolution_param { num_output: 3 kernel_size: 1 } }
layer { name: "kp" type: "Permute" bottom: "k" top: "kp" permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "kf" type: "Flatten" bottom: "kp" top: "kf" }
layer { name: "p" type: "PriorBox" bottom: "c" bottom: "data" top: "p" prior_box_param { min_size: 4.9 } }
"""
SOFT = """
layer { name: "kr" type: "Reshape" bottom: "kf" top: "kr" reshape_param { shape { dim: 0 dim: -1 dim: 3 } } }
layer { name: "ks" type: "Softmax" bottom: "kr" top: "ks" softmax_param { axis: 2 } }
layer { name: "ko" type: "Flatten" bottom: "ks" top: "ko" }
"""
OUT = """
layer { name: "o" type: "DetectionOutput" bottom: "lf" bottom: "ko" bottom: "p" top: "o"
        detection_output_param { num_classes: 3 code_type: CENTER_SIZE } }
"""
LOSS = """
layer { name: "loss" type: "MultiBoxLoss" bottom: "lf" bottom: "kf" bottom: "p" bottom: "label" top: "loss"
        include { phase: TRAIN } multibox_loss_param { num_classes: 3 code_type: CENTER_SIZE } }
"""


def parse(*texts: str) -> CaffeNet:
    return parse_prototxt("".join(texts).encode(), "test.prototxt")


def config_of(*texts: str, **options: object) -> SSDConfig:
    return graph_config(parse(*texts), name="net", **options)  # type: ignore[arg-type]


def test_small_deploy_net() -> None:
    config = config_of(INPUT, BODY, SOFT, OUT)
    graph = graph_of(config)
    assert (graph.input, graph.loc, graph.conf) == ("data", "lp", "kp")
    assert config.num_classes == 3
    assert config.num_priors == 16
    assert config.priors[0].box_sizes == ((4.0, 4.0),)  # 4.9 cut to whole pixels
    assert config.priors[0].step == (2.0, 2.0)
    # Caffe's own defaults, from caffe.proto of the SSD branch, where the layer says nothing.
    assert config.detect == Postprocess(
        score_threshold=-3.4028234663852886e38, top_k=-1, nms_threshold=0.3, keep_top_k=-1
    )
    assert [s.name for s in graph.layers][:3] == ["c", "r", "l"]
    assert graph.layers[0].params == {"num_output": 4, "kernel_size": [3], "pad": [1], "stride": [2]}
    assert graph.layers[0].blobs == ((4, 3, 3, 3), (4,))
    assert SSDConfig.from_json(config.to_json()).to_json() == config.to_json()
    assert any("mean" in w for w in graph.warnings)
    assert config_of(INPUT, BODY, SOFT, OUT.replace("code_type: CENTER_SIZE", "")).detect.code == "corner"


def test_train_net_gives_the_same_layers_and_priors() -> None:
    deploy, train = config_of(INPUT, BODY, SOFT, OUT), config_of(DATA, BODY, LOSS)
    assert graph_of(train).layers == graph_of(deploy).layers
    assert (graph_of(train).loc, graph_of(train).conf) == (graph_of(deploy).loc, graph_of(deploy).conf)
    assert train.priors == deploy.priors
    assert train.pixels == Preprocess((8, 8), "BGR", (1.0, 2.0, 3.0), scale=0.5)
    assert train.detect == Postprocess()
    assert any("no DetectionOutput layer" in w for w in graph_of(train).warnings)
    assert [s.type for s in graph_of(train).tail] == ["PriorBox", "Reshape", "Softmax", "Flatten", "DetectionOutput"]
    back = graph_config(graph_net(train), name="net")
    assert graph_of(back).layers == graph_of(train).layers
    assert back.detect == train.detect
    assert back.priors == train.priors


def test_prototxt_wins_and_the_weight_file_fills_gaps() -> None:
    deploy = parse(INPUT, BODY.replace("num_output: 3 ", "num_output: 3 pad: 0 "), SOFT, OUT)
    own = parse(DATA, BODY.replace("stride: 2", "stride: 1"), LOSS)
    config = graph_config(deploy, name="net", weights=own)
    assert config.pixels.mean == (1.0, 2.0, 3.0)
    assert config.pixels.size == (8, 8)
    assert graph_of(config).layers[0].params["stride"] == [2]
    assert any("has other parameters in c:" in w for w in graph_of(config).warnings)
    assert config.detect.nms_threshold == 0.3


def test_priors_from_the_weight_file_when_the_prototxt_has_none() -> None:
    outputs = BODY[: BODY.index('layer { name: "p"')]
    bare = parse(INPUT, outputs, SOFT.replace('"ko"', '"conf"')).layers
    net = CaffeNet("net", {"data": (1, 3, 8, 8)}, bare)
    alone = graph_config(net, name="net")
    assert alone.priors == ()
    assert any("does not tell its priors" in w for w in graph_of(alone).warnings)
    lent = graph_config(net, name="net", weights=parse(DATA, BODY, LOSS))
    assert lent.num_priors == 16
    assert lent.num_classes == 3
    assert any("no DetectionOutput" in w for w in graph_of(lent).warnings)
    ruled = graph_config(net, name="net", weights=parse(INPUT, BODY, SOFT, OUT))
    assert (ruled.detect.nms_threshold, ruled.detect.activation) == (0.3, "softmax")
    assert not any("no DetectionOutput" in w for w in graph_of(ruled).warnings)
    assert not any("does not tell its priors" in w for w in graph_of(lent).warnings)


def test_all_fields_of_detection_output() -> None:
    text = """detection_output_param { num_classes: 3 share_location: true background_label_id: -1
        nms_param { nms_threshold: 0.6 top_k: 7 eta: 0.9 } code_type: CORNER keep_top_k: 5
        variance_encoded_in_target: true confidence_threshold: 0.2 }"""
    config = config_of(INPUT, BODY, SOFT, OUT.replace(OUT[OUT.index("detection_output_param") : OUT.rindex("}")], text))
    expected = Postprocess(
        background=None,
        score_threshold=0.2,
        top_k=7,
        nms_threshold=0.6,
        keep_top_k=5,
        code="corner",
        variance_encoded=True,
        nms_eta=0.9,
    )
    assert config.detect == expected
    assert graph_config(graph_net(config), name="net").detect == expected


def test_boxes_per_class() -> None:
    text = BODY.replace('top: "l" convolution_param { num_output: 4', 'top: "l" convolution_param { num_output: 12')
    config = config_of(INPUT, text, SOFT, OUT.replace("num_classes: 3", "num_classes: 3 share_location: false"))
    loc, conf = LayerGraph(graph_of(config))(torch.zeros(1, 3, 8, 8))
    assert loc.shape == (1, 16, 12)
    assert conf.shape == (1, 16, 3)


@pytest.mark.parametrize("kind", ["Sigmoid", "Softmax"])
def test_activation_of_its_own_for_each_map(kind: str) -> None:
    param = "softmax_param { axis: 2 }" if kind == "Softmax" else ""
    text = INPUT + BODY
    for i in "12":
        text += f"""
        layer {{ name: "kr{i}" type: "Reshape" bottom: "kf" top: "kr{i}"
                 reshape_param {{ shape {{ dim: 0 dim: -1 dim: 3 }} }} }}
        layer {{ name: "act{i}" type: "{kind}" bottom: "kr{i}" top: "kr{i}" {param} }}
        """
    for name, bottom in (("ll", "lf"), ("pp", "p")):
        axis = 2 if name == "pp" else 1
        text += f"""layer {{ name: "{name}" type: "Concat" bottom: "{bottom}" bottom: "{bottom}" top: "{name}"
                    concat_param {{ axis: {axis} }} }}"""
    text += """
    layer { name: "kk" type: "Concat" bottom: "kr1" bottom: "kr2" top: "kk" concat_param { axis: 1 } }
    layer { name: "o" type: "DetectionOutput" bottom: "ll" bottom: "kk" bottom: "pp" top: "o"
            detection_output_param { num_classes: 3 } }
    """
    config = config_of(text)
    graph = graph_of(config)
    assert config.detect.activation == kind.lower()
    assert graph.added == ("kk_raw",)
    assert config.num_priors == 32
    module = LayerGraph(graph)
    x = torch.rand(2, 3, 8, 8)
    _, conf = module(x)
    traced = {layer.name: values[0] for layer, values in module.trace(x)}
    scores = torch.softmax(conf, 2) if kind == "Softmax" else torch.sigmoid(conf)
    assert torch.equal(traced["kk"], scores)
    assert torch.equal(traced["kr1"].flatten(), traced["kf"].flatten())
    names = [layer.name for layer in graph_net(config).layers]
    assert "kk_raw" not in names
    assert {"kk", "act1", "act2", "o"} <= set(names)


def test_caffes_own_splits_disappear_and_needed_ones_stay() -> None:
    text = BODY.replace('bottom: "c" top: "l"', 'bottom: "c_0" top: "l"').replace(
        'bottom: "c" top: "k"', 'bottom: "c_1" top: "k"'
    )
    split = 'layer { name: "s" type: "Split" bottom: "c" top: "c_0" top: "c_1" } '
    at = text.index('layer { name: "l"')
    config = config_of(INPUT, text[:at], split, text[at:], SOFT, OUT)
    assert graph_of(config).layers == graph_of(config_of(INPUT, BODY, SOFT, OUT)).layers


SPLIT = """
layer { name: "s" type: "Split" bottom: "c" top: "c_0" top: "c_1" }
layer { name: "double" type: "Power" bottom: "c_0" top: "c_0" power_param { scale: 2 } }
"""
VIEW = """
layer { name: "flat" type: "Flatten" bottom: "c" top: "c_0" flatten_param { axis: 2 } }
layer { name: "same" type: "Concat" bottom: "c" top: "c_2" }
layer { name: "part" type: "Slice" bottom: "c_2" top: "c_1" }
layer { name: "double" type: "Power" bottom: "c_0" top: "c_0" power_param { scale: 2 } }
"""
"""Caffe lets all of these names share one piece of memory, so whoever reads c_1 finds it doubled."""


@pytest.mark.parametrize("text", [SPLIT, VIEW])
def test_what_works_in_place_changes_all_names_of_its_memory(text: str) -> None:
    body = BODY.replace('bottom: "c" top: "l"', 'bottom: "c_1" top: "l"').replace(
        'bottom: "c" top: "k"', 'bottom: "c_1" top: "k"'
    )
    at = body.index('layer { name: "l"')
    config = config_of(INPUT, body[:at], text, body[at:], SOFT, OUT)
    assert "double" in [layer.name for layer in graph_of(config).layers]
    plain = config_of(INPUT, BODY, SOFT, OUT)
    module, other = LayerGraph(graph_of(config)), LayerGraph(graph_of(plain))
    other.load_state_dict(module.state_dict())
    x = torch.rand(1, 3, 8, 8)
    traced = {layer.name: values[0] for layer, values in module.trace(x)}
    single = {layer.name: values[0] for layer, values in other.trace(x)}
    for name in ("l", "k"):  # convolutions: twice the input gives twice the output, but for the bias
        bias = module.layer(name).bias.reshape(1, -1, 1, 1)
        assert torch.allclose(traced[name] - bias, 2 * (single[name] - bias), atol=1e-6)
        assert traced[name].shape == single[name].shape
    again = graph_config(graph_net(config), name="net")
    assert graph_of(again).layers == graph_of(config).layers


def test_a_name_that_is_given_away_ends_the_sharing() -> None:
    """What Caffe itself would refuse, but train nets with several phases may show: the split blob's name is made anew."""
    text = BODY.replace('bottom: "c" top: "l"', 'bottom: "c_0" top: "l"')
    anew = """layer { name: "s" type: "Split" bottom: "c" top: "c_0" top: "c_1" }
              layer { name: "half" type: "Power" bottom: "c_1" top: "c" power_param { scale: 0.5 } }"""
    at = text.index('layer { name: "l"')
    graph = graph_of(config_of(INPUT, text[:at], anew, text[at:], SOFT, OUT))
    traced = {layer.name: values[0] for layer, values in LayerGraph(graph).trace(torch.rand(1, 3, 8, 8))}
    assert torch.equal(traced["half"], 0.5 * traced["r"])
    assert graph.layers[[s.name for s in graph.layers].index("l")].bottoms == ("c_0",)


def test_unneeded_layers_are_dropped_and_listed() -> None:
    extra = 'layer { name: "spare" type: "Mystery" bottom: "c" top: "spare" } '
    config = config_of(INPUT, BODY, extra, SOFT, OUT)
    assert graph_of(config).dropped == ("spare",)
    assert any("spare" in w for w in graph_of(config).warnings)


def test_one_error_names_all_unsupported_layers() -> None:
    text = BODY.replace(
        'layer { name: "r" type: "ReLU" bottom: "c" top: "c" }',
        'layer { name: "m1" type: "Mystery" bottom: "c" top: "c" } layer { name: "m2" type: "Riddle" bottom: "c" top: "c" }',
    )
    with pytest.raises(FormatError) as caught:
        config_of(INPUT, text, SOFT, OUT)
    for part in ("m1", "Mystery", "m2", "Riddle"):
        assert part in str(caught.value)


def test_oddities() -> None:
    """V1 types, a test-only layer, Slice/Eltwise/Concat branches, PReLU, a repeated ReLU name, a shared parameter."""
    body = BODY.replace(
        'layer { name: "r" type: "ReLU" bottom: "c" top: "c" }',
        """
        layer { name: "r" type: "PReLU" bottom: "c" top: "c" }
        layer { name: "s" type: "Slice" bottom: "c" top: "s1" top: "s2" }
        layer { name: "w1" type: "Convolution" bottom: "s1" top: "w1" param { name: "w" }
                convolution_param { num_output: 2 kernel_size: 1 bias_term: false } }
        layer { name: "act" type: "ReLU" bottom: "w1" top: "w1" }
        layer { name: "w2" type: "Convolution" bottom: "s2" top: "w2" param { name: "w" }
                convolution_param { num_output: 2 kernel_size: 1 bias_term: false } }
        layer { name: "act" type: "ReLU" bottom: "w2" top: "w2" }
        layer { name: "e" type: "Eltwise" bottom: "w1" bottom: "w2" top: "e" eltwise_param { coeff: 1 coeff: -1 } }
        layer { name: "d" type: "Dropout" bottom: "e" top: "e" include { phase: TRAIN } }
        layer { name: "t" type: "Power" bottom: "e" top: "e" power_param { scale: 2 } include { phase: TEST } }
        layer { name: "j" type: "Concat" bottom: "e" bottom: "w1" top: "c" }
        """,
    )
    config = config_of(INPUT, body, SOFT, OUT)
    graph = graph_of(config)
    names = [s.name for s in graph.layers]
    assert "d" not in names
    assert {"act", "act#2", "t"} <= set(names)
    module = LayerGraph(graph)
    assert module.layer("w1").weight is module.layer("w2").weight
    x = torch.rand(1, 3, 8, 8)
    traced = {layer.name: values for layer, values in module.trace(x)}
    one, two = traced["s"]
    weight = module.layer("w1").weight
    difference = torch.relu(torch.conv2d(one, weight)) - torch.relu(torch.conv2d(two, weight))
    assert torch.allclose(traced["j"][0][:, :2], 2 * difference, atol=1e-6)


def test_v1_nets_give_the_same_graph() -> None:
    v2 = """
    layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 6 kernel_size: 8 } }
    layer { name: "s" type: "Slice" bottom: "c" top: "loc" top: "conf" slice_param { axis: 1 slice_point: 4 } }
    layer { name: "loc_flat" type: "Flatten" bottom: "loc" top: "loc_flat" }
    layer { name: "conf_flat" type: "Flatten" bottom: "conf" top: "conf_flat" }
    """
    v1 = v2.replace("layer {", "layers {")
    for kind, old in (("Convolution", "CONVOLUTION"), ("Slice", "SLICE"), ("Flatten", "FLATTEN")):
        v1 = v1.replace(f'type: "{kind}"', f"type: {old}")
    new, old_net = config_of(INPUT, v2), config_of(INPUT, v1)
    assert graph_of(new) == graph_of(old_net)
    assert new.num_classes == 2


@pytest.mark.parametrize("kind", ["DepthwiseConvolution", "ConvolutionDepthwise"])
def test_depthwise_types_are_written_as_grouped_convolutions(kind: str) -> None:
    text = BODY.replace('type: "Convolution" bottom: "data"', f'type: "{kind}" bottom: "data"')
    config = config_of(INPUT, text.replace("num_output: 4 kernel_size: 3", "num_output: 6 kernel_size: 3"), SOFT, OUT)
    first = graph_of(config).layers[0]
    assert first.type == kind
    assert first.params["group"] == 3
    assert first.blobs == ((6, 1, 3, 3), (6,))
    written = graph_net(config).layers[0]
    assert written.type == "Convolution"
    assert written.params["convolution_param"]["group"] == 3
    again = graph_of(graph_config(graph_net(config), name="net"))
    assert [s.blobs for s in again.layers] == [s.blobs for s in graph_of(config).layers]


def test_a_softmax_over_something_else_stays_a_layer() -> None:
    config = config_of(INPUT, BODY, SOFT.replace("axis: 2", "axis: 1"), OUT)
    graph = graph_of(config)
    assert config.detect.activation == "none"
    assert "ks" in [layer.name for layer in graph.layers]
    assert any("'ks' does not run over the classes" in w for w in graph.warnings)
    _, conf = LayerGraph(graph)(torch.rand(1, 3, 8, 8))
    assert torch.allclose(conf.sum(1), torch.ones(1, 3))


def test_maps_of_which_only_one_has_a_softmax_give_their_scores_as_they_are() -> None:
    text = """
    layer { name: "kr" type: "Reshape" bottom: "kf" top: "kr" reshape_param { shape { dim: 0 dim: -1 dim: 3 } } }
    layer { name: "ss" type: "Slice" bottom: "kr" top: "s1" top: "s2" slice_param { axis: 1 slice_point: 6 } }
    layer { name: "ks" type: "Softmax" bottom: "s1" top: "s1" softmax_param { axis: 2 } }
    layer { name: "ko" type: "Concat" bottom: "s1" bottom: "s2" top: "ko" }
    """
    config = config_of(INPUT, BODY, text, OUT)
    _, conf = LayerGraph(graph_of(config))(torch.rand(1, 3, 8, 8))
    assert config.detect.activation == "none"
    sums = conf.sum(2)[0]
    assert torch.allclose(sums[:6], torch.ones(6)) and not torch.allclose(sums[6:], torch.ones(10), atol=1e-3)


@pytest.mark.parametrize("join", ["", "concat_param { concat_dim: 2 }", "concat_param { axis: -1 }"])
def test_priors_may_be_joined_in_every_way_that_caffe_knows(join: str) -> None:
    """One map may go through a Concat along any axis; a map of a flat blob has one column."""
    both = "" if not join else BODY[BODY.index('layer { name: "p"') :].replace('name: "p"', 'name: "p2"')
    more = 'bottom: "q"' if both else ""
    text = both.replace('bottom: "c"', 'bottom: "lf"').replace('top: "p"', 'top: "q"')
    concat = f'layer {{ name: "pj" type: "Concat" bottom: "p" {more} top: "pj" {join} }}'
    body = BODY
    if both:  # the flat map: 64 "channels", so one prior more; loc and conf get four and three values more
        body += """
        layer { name: "xl" type: "InnerProduct" bottom: "c" top: "xl" inner_product_param { num_output: 4 } }
        layer { name: "xk" type: "InnerProduct" bottom: "c" top: "xk" inner_product_param { num_output: 3 } }
        layer { name: "jl" type: "Concat" bottom: "lf" bottom: "xl" top: "jl" }
        layer { name: "jk" type: "Concat" bottom: "kf" bottom: "xk" top: "jk" }
        """
    soft = SOFT.replace('bottom: "kf"', 'bottom: "jk"') if both else SOFT
    out = OUT.replace('bottom: "p"', 'bottom: "pj"').replace('bottom: "lf"', 'bottom: "jl"' if both else 'bottom: "lf"')
    config = config_of(INPUT, body, text, concat, soft, out)
    assert [m.grid for m in config.priors] == [(4, 4), (1, 1)][: 2 if both else 1]
    if both:
        with pytest.raises(FormatError, match="joined along another axis than 2"):
            config_of(INPUT, body, text, concat.replace(join, "concat_param { axis: 1 }"), soft, out)


def test_input_size_can_be_given() -> None:
    config = config_of(INPUT, BODY, SOFT, OUT, input_size=(16, 12))
    assert config.pixels.size == (16, 12)
    assert config.priors[0].grid == (8, 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("num_classes: 3 code", "num_classes: 4 code"), "conf does not fit the priors"),
        (("min_size: 4.9", "min_size: 4.9 max_size: 6"), "loc does not fit the priors"),
        (("min_size: 4.9", "min_size: -1"), "positive number of pixels"),
        (('bottom: "kf" top: "kr"', 'bottom: "nowhere" top: "kr"'), "nowhere"),
        (("dim: 3 dim: 8 dim: 8", "dim: 2 dim: 8 dim: 8"), "is no image"),
        (("dim: 3 dim: 8 dim: 8", "dim: 3 dim: 0 dim: 8"), "is no image"),
        (('name: "l" type: "Convolution"', 'name: "c" type: "Convolution"'), "share a name"),
        (("kernel_size: 3", "kernel_size: 0"), "kernel_size is out of range"),
        (
            ('bottom: "lf" bottom: "ko" bottom: "p" top: "o"', 'bottom: "lf" bottom: "ko" top: "o"'),
            "another detector",
        ),
        (
            ('bottom: "lf" bottom: "ko" bottom: "p" top', 'bottom: "lf" bottom: "ko" bottom: "lf" top'),
            "PriorBox layers",
        ),
    ],
)
def test_nets_that_do_not_fit_together(change: tuple[str, str], message: str) -> None:
    text = (INPUT + BODY + SOFT + OUT).replace(*change)
    assert text != INPUT + BODY + SOFT + OUT
    with pytest.raises(FormatError, match=message):
        config_of(text)


def test_no_input_size_and_no_detector() -> None:
    with pytest.raises(FormatError, match="does not tell its input size"):
        config_of(BODY, SOFT, OUT)
    classifier = """layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 9 } }
                    layer { name: "x" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "x" }"""
    with pytest.raises(FormatError, match="no loc and conf outputs"):
        config_of(INPUT, classifier)


def test_deep_and_doubling_nets_end_quickly() -> None:
    doubling = "".join(
        f'layer {{ name: "d{i}" type: "Concat" bottom: "{a}" bottom: "{a}" top: "d{i}" concat_param {{ axis: 2 }} }}'
        for i, a in enumerate(["p", *(f"d{j}" for j in range(40))])
    )
    with pytest.raises(FormatError, match="prior"):
        config_of(INPUT, BODY, SOFT, doubling, OUT.replace('bottom: "p"', 'bottom: "d40"'))
    permutes = "".join(
        f'layer {{ name: "q{i}" type: "Permute" bottom: "{a}" top: "q{i}" }}'
        for i, a in enumerate(["ko", *(f"q{j}" for j in range(3000))])
    )
    assert config_of(INPUT, BODY, SOFT, permutes, OUT.replace('"ko"', '"q3000"')).detect.activation == "none"


def test_a_staged_config_is_no_graph() -> None:
    with pytest.raises(UsageError):
        graph_net(NETWORKS["ssd300_voc"]("ssd300_voc", 21))


@pytest.mark.shared
def test_narrow_vgg_from_prototxt_and_from_its_own_file(shared: Path) -> None:
    deploy = graph_config(read_prototxt(shared / "golden/vgg_ssd300_narrow.prototxt"), name="net")
    own = own_net(shared / "golden/vgg_ssd300_narrow.caffemodel")
    assert graph_config(own, name="net", input_size=(300, 300)) == deploy
    assert deploy.priors == NETWORKS["ssd300_voc"]("ssd300_voc", 21).priors
    assert deploy.detect == Postprocess()
    assert [s.blobs for s in graph_of(deploy).layers if s.blobs] == [la.blobs for la in own.layers if la.blobs]


@pytest.mark.shared
def test_libfacedetection_deploy_train_and_own_net(shared: Path) -> None:
    own = own_net(shared / f"{LIB}.caffemodel")
    deploy = graph_config(read_prototxt(shared / f"{LIB}.prototxt"), name="net", weights=own)
    train = graph_config(read_prototxt(shared / f"{LIB}.train.prototxt"), name="net")
    assert train.pixels.size == (320, 320)
    assert deploy.pixels == Preprocess((240, 320), "BGR", (104.0, 117.0, 123.0))
    assert deploy.num_priors == 4420
    assert (deploy.detect.top_k, deploy.detect.nms_threshold, deploy.detect.keep_top_k) == (100, 0.15, 50)
    for net in (read_prototxt(shared / f"{LIB}.train.prototxt"), own):
        same = graph_config(net, name="net", input_size=(240, 320))
        assert graph_of(same).layers == graph_of(deploy).layers
        assert same.priors == deploy.priors
        assert same.pixels == deploy.pixels
        assert (graph_of(same).loc, graph_of(same).conf) == (graph_of(deploy).loc, graph_of(deploy).conf)
    blobs = {layer.name: layer.blobs for layer in own.layers if layer.blobs}
    assert {s.name: s.blobs for s in graph_of(deploy).layers if s.blobs} == blobs


@pytest.mark.shared
def test_res10_own_net_is_complete_and_differs_from_the_deploy_net(shared: Path) -> None:
    own = own_net(shared / RES10 / "res10_300x300_ssd_iter_140000.caffemodel")
    deploy = graph_config(read_prototxt(shared / RES10 / "deploy.prototxt"), name="net", weights=own)
    alone = graph_config(own, name="net")
    assert deploy.pixels == alone.pixels == Preprocess((300, 300), "BGR", (104.0, 117.0, 123.0))
    assert deploy.num_priors == 8892
    # The net in the file does not pad conv8_2_h and conv9_2_h; OpenCV's deploy net does.
    assert any("conv8_2_h, conv9_2_h" in w for w in graph_of(deploy).warnings)
    assert alone.num_priors == 8732
    assert graph_of(alone).tail == graph_of(deploy).tail
    padded = {"conv8_2_h", "conv9_2_h"}
    for mine, theirs in zip(graph_of(alone).layers, graph_of(deploy).layers, strict=True):
        assert mine == theirs or (mine.name in padded and mine == replace(theirs, params=mine.params))


@pytest.mark.shared
def test_face_mask_net_without_detection_output(shared: Path) -> None:
    own = own_net(shared / f"{MASK}.caffemodel")
    config = graph_config(read_prototxt(shared / f"{MASK}.prototxt"), name="net", weights=own)
    graph = graph_of(config)
    assert config.priors == ()
    assert config.num_classes == 2
    assert config.detect.activation == "sigmoid"
    assert config.detect.background is None
    assert graph_of(graph_config(own, name="net")).layers == graph.layers
    assert any("does not tell its priors" in w for w in graph.warnings)
    module = LayerGraph(graph)
    with torch.inference_mode():
        x = torch.rand(1, 3, 260, 260)
        loc, conf = module(x)
        traced = {layer.name: values[0] for layer, values in module.trace(x)}
    assert loc.shape == (1, 5972, 4)
    assert conf.shape == (1, 5972, 2)
    assert torch.allclose(traced["cls_branch_concat"], torch.sigmoid(conf), rtol=1e-6, atol=0)
    assert [s.name for s in graph_net(config).layers].count("cls_branch_concat") == 1


FILES = {
    "res10": ("res10_face_ssd/res10_300x300_ssd_iter_140000.caffemodel", "res10_face_ssd/deploy.prototxt"),
    "libfacedetection": (
        "libfacedetection_v1/yufacedetectnet-open-v1.caffemodel",
        "libfacedetection_v1/yufacedetectnet-open-v1.prototxt",
    ),
    "face_mask": ("aizoo_facemask/face_mask_detection.caffemodel", "aizoo_facemask/face_mask_detection.prototxt"),
}


def rewritten(model: Path, prototxt: Path | None, folder: Path, size: tuple[int, int] | None = None) -> CaffeNet:
    with read_caffemodel(model) as table:
        own = table.found(CaffeNet)
        net = own if prototxt is None else read_prototxt(prototxt)
        written = graph_net(graph_config(net, name="back", weights=own, input_size=size))
        learned = {f"{la.name}/{i}" for la in written.layers for i in range(len(la.blobs))}
        write_caffemodel(
            written, {n: np.array(table[n].load()) for n in table if n in learned}, folder / "b.caffemodel"
        )
    write_prototxt(written, folder / "b.prototxt")
    return written


def outputs(prototxt: Path, model: Path, x: np.ndarray) -> dict[str, np.ndarray]:
    net = cv2.dnn.readNetFromCaffe(str(prototxt), str(model))
    net.enableFusion(False)
    net.enableWinograd(False)
    net.setInput(x)
    names = net.getUnconnectedOutLayersNames()
    return dict(zip(names, (np.array(y) for y in net.forward(names)), strict=True))


@pytest.mark.shared
@pytest.mark.parametrize("name", FILES)
def test_opencv_gives_the_same_for_the_net_written_back(name: str, shared: Path, tmp_path: Path) -> None:
    model, prototxt = (shared / "weights" / part for part in FILES[name])
    net = rewritten(model, prototxt, tmp_path)
    (shape,) = net.inputs.values()
    x = (np.random.default_rng(0).random(shape) * 200 - 100).astype(np.float32)
    before, after = outputs(prototxt, model, x), outputs(tmp_path / "b.prototxt", tmp_path / "b.caffemodel", x)
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert np.array_equal(value, after[key]), key
    again = graph_config(read_prototxt(tmp_path / "b.prototxt"), name="back")
    assert graph_net(again).layers == net.layers


@pytest.mark.shared
def test_a_weight_file_alone_becomes_a_whole_deploy_net(shared: Path, tmp_path: Path) -> None:
    model, _ = (shared / "weights" / part for part in FILES["res10"])
    rewritten(model, None, tmp_path)
    x = (np.random.default_rng(0).random((1, 3, 300, 300)) * 200 - 100).astype(np.float32)
    (found,) = outputs(tmp_path / "b.prototxt", tmp_path / "b.caffemodel", x).values()
    assert found.shape[3] == 7
    assert found.shape[2] >= 1
