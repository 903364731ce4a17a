import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ssdconv.converters.caffe.net import CaffeLayer, CaffeNet
from ssdconv.converters.caffe.prototxt import read_prototxt, write_prototxt
from ssdconv.converters.caffe.reader import read_caffemodel
from ssdconv.errors import FormatError, OutputError

REAL = [
    "weights/res10_face_ssd/deploy.prototxt",
    "weights/libfacedetection_v1/yufacedetectnet-open-v1.prototxt",
    "weights/libfacedetection_v1/yufacedetectnet-open-v1.train.prototxt",
    "weights/aizoo_facemask/face_mask_detection.prototxt",
    "golden/vgg_ssd300_narrow.prototxt",
]

SAMPLE = """
name: "sample"  # a net
input: "data" input_dim: 1 input_dim: 3 input_dim: 30 input_dim: 40
layer {
  name: 'conv' type: "Convo" "lution" bottom: "data", top: "conv";
  param { name: "w" lr_mult: 1 }
  param { lr_mult: 2 }
  convolution_param < num_output: 0x10 kernel_size: [3, 5] pad: 1 pool_type: SUM weight_filler { type: "xavier" } >
  include { phase: TEST }
}
"""


def test_text_forms(save):
    net = read_prototxt(save(SAMPLE))
    assert net == CaffeNet(
        "sample",
        {"data": (1, 3, 30, 40)},
        (
            CaffeLayer(
                "conv",
                "Convolution",
                ("data",),
                ("conv",),
                {
                    "convolution_param": {
                        "num_output": 16,
                        "pad": [1],
                        "kernel_size": [3, 5],
                        "weight_filler": {"type": "xavier"},
                    }
                },
                shared=("w", ""),
                phase="TEST",
            ),
        ),
        ("layer conv: field 'convolution_param.pool_type'",),
    )


@pytest.mark.parametrize(
    "head",
    [
        'input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 9 }',
        'layer { name: "in" type: "Input" top: "data" input_param { shape: { dim: [1, 3, 8, 9] } } }',
        'input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 9',
    ],
)
def test_inputs(save, head):
    net = read_prototxt(save(head + ' layer { name: "r" type: "ReLU" bottom: "data" top: "data" }'))
    assert net.inputs == {"data": (1, 3, 8, 9)}


def test_one_input_shape_serves_all_tops(save):
    shape = "input_param { shape { dim: 2 } }"
    net = read_prototxt(save(f'layer {{ name: "i" type: "Input" top: "a" top: "b" {shape} }}'))
    assert net.inputs == {"a": (2,), "b": (2,)}


def test_v1_layers_are_upgraded(save):
    net = read_prototxt(
        save(
            'layers { name: "c" type: CONVOLUTION bottom: "data" top: "c" param: "w" param: "b" blobs_lr: 1 '
            'convolution_param { num_output: 4 } } layers { name: "d" type: DATA data_param { scale: 0.5 } '
            "transform_param { mirror: true } include: { phase: TRAIN } }"
        )
    )
    assert [(la.name, la.type, la.shared, la.phase) for la in net.layers] == [
        ("c", "Convolution", ("w", "b"), ""),
        ("d", "Data", (), "TRAIN"),
    ]
    assert net.layers[1].params == {"data_param": {}, "transform_param": {"scale": 0.5, "mirror": True}}


def test_unknown_fields_are_listed_and_left_out(save):
    text = """
    surprise: 1  other { deep { deeper: "}" } list: [1, 2] }
    layer { name: "a" type: "X" mystery_param { layer { name: "no" } # } not a brace
      x: '{' } relu_param { slope: 1 negative_slope: 0.5 } foo: "multi" "part" }
    layer { type: "Y" blobs { data: 1 } bar: -1e-3; }
    """
    net = read_prototxt(save(text))
    assert net.unknown == (
        "net: field 'surprise'",
        "net: field 'other'",
        "layer a: field 'mystery_param'",
        "layer a: field 'relu_param.slope'",
        "layer a: field 'foo'",
        "layer #1: field 'blobs'",
        "layer #1: field 'bar'",
    )
    assert [layer.params for layer in net.layers] == [{"relu_param": {"negative_slope": 0.5}}, {}]


def test_floats_are_float32_as_in_caffe(save):
    net = read_prototxt(save('layer { name: "n" type: "Normalize" norm_param { eps: 1e-10 } }'))
    assert net.layers[0].params["norm_param"]["eps"] == float(np.float32(1e-10))


def test_comments_in_any_encoding_and_bom(save):
    data = b"\xef\xbb\xbf# \xd6\xd0\xce\xc4 in GBK\nlayer { name: \"\xe5\x8d\xb7\" type: 'ReLU' } # \xff end"
    assert read_prototxt(save(data)).layers[0].name == "卷"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('layer { name: "a\n type: "b" }', 1, "string is not closed"),
        ("layer {\n name: 'a'\n", 3, "expected a field name"),
        ("layer { }\n}", 2, "expected a field name"),
        ("layer {\n name 'a' }", 2, "expected ':'"),
        ("layer {\n name: }", 2, "expected a value"),
        ("layer {\n name: [{ }] }", 2, "list of plain values"),
        ("layer {\n name: 3 }", 2, "not a valid prototxt"),
        ("layer {\n type: CONVOLUTION }", 2, "not a valid prototxt"),
        ("layers {\n type: NO_SUCH }", 2, "no value named NO_SUCH"),
        ("layer {\n pooling_param { pool:\n BEST } }", 3, "no value named BEST"),
        ("layer {\n name: 'a'\n name: 'b' }", 3, 'multiple "name"'),
        ("layer {\n convolution_param { num_output: -1 } }", 2, "not a valid prototxt"),
        ("layer {\n convolution_param { num_output: 4294967296 } }", 2, "not a valid prototxt"),
        ("layer {\n convolution_param: 3 }", 2, "not a valid prototxt"),
        ("layer {\n name { x: 1 } }", 2, "not a valid prototxt"),
        ("layer {\n name: 'a' $ }", 2, "unexpected character"),
        ("layer {\n name: 'a>' >", 2, "expected a field name"),
        ("\n" + "a { " * 40, 2, "nested too deeply"),
        ("# one\n# two\nlayer { odd {\n a: 1\n } # three\n type: 'a'\n type: 'b' }", 7, 'multiple "type"'),
        ("layer {\n name: '\xff' }", 2, "not UTF-8"),
    ],
)
def test_errors_name_file_and_line(save, text, line, message):
    path = save(text.encode("latin-1"), "x.prototxt")
    with pytest.raises(FormatError, match=message) as caught:
        read_prototxt(path)
    assert caught.value.where == f"{path}, line {line}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("name: 'x'", "no layers"),
        ("layer { name: 'a' } layers { name: 'b' }", "mixes"),
        ("layers { layer { name: 'a' type: 'conv' } }", "oldest form"),
        ("input: 'a' input_dim: 1 input_dim: 3 layer { }", "input_dim does not fit"),
        ("input: 'a' input_shape { } input_shape { } layer { }", "input_shape does not fit"),
        ("input: 'a' input_shape { dim: -1 } layer { }", "impossible shape"),
        ("layer { type: 'Input' top: 'a' input_param { shape { } shape { } } }", "does not fit the layer's tops"),
        ("layer { name: '" + "n" * 2000 + "' }", "too long"),
        ("layer { name: '\\377' }", "not UTF-8"),
        ("layer { }" * 10_001, "more layers than"),
        ("layer { top: 'a' }" * 50_000, "longer than any network's"),
        ("# pad\n" * 700_000, "larger than any prototxt"),
        ("<!DOCTYPE html><html></html>", "web page"),
        ("\0\1\2", "binary file"),
    ],
)
def test_errors_of_the_whole_file(save, text, message):
    path = save(text, "x.prototxt")
    with pytest.raises(FormatError, match=message) as caught:
        read_prototxt(path)
    assert str(path) in caught.value.where


@pytest.mark.shared
@pytest.mark.parametrize("name", REAL)
def test_real_files_round_trip(shared: Path, tmp_path: Path, name: str):
    net = read_prototxt(shared / name)
    assert net.unknown == () and len(net.layers) > 70
    write_prototxt(net, tmp_path / "a.prototxt")
    again = read_prototxt(tmp_path / "a.prototxt")
    assert again == net
    write_prototxt(again, tmp_path / "b.prototxt")
    assert (tmp_path / "a.prototxt").read_bytes() == (tmp_path / "b.prototxt").read_bytes()


@pytest.mark.shared
def test_text_and_binary_say_the_same(shared: Path):
    folder = shared / "golden"
    text = read_prototxt(folder / "vgg_ssd300_narrow.prototxt")
    binary = read_caffemodel(folder / "vgg_ssd300_narrow.caffemodel").found(CaffeNet)
    assert [replace(layer, blobs=()) for layer in binary.layers] == list(text.layers)


def test_inputs_are_written_once(tmp_path):
    layer = CaffeLayer("in", "Input", (), ("data",), {"input_param": {"shape": [{"dim": [1, 3]}]}})
    net = CaffeNet("n", {"data": (1, 3), "free": ()}, (layer,))
    write_prototxt(net, tmp_path / "x.prototxt")
    text = (tmp_path / "x.prototxt").read_text()
    assert re.findall(r"^input.*", text, re.MULTILINE) == ['input: "free"']  # its shape is not known: none is written
    assert read_prototxt(tmp_path / "x.prototxt") == net


def test_writing_what_the_schema_lacks_is_an_error(tmp_path):
    net = CaffeNet("n", {}, (CaffeLayer("a", "X", params={"what_param": {}}),))
    with pytest.raises(FormatError, match="no field 'what_param'"):
        write_prototxt(net, tmp_path / "x.prototxt")
    net = CaffeNet("n", {}, (CaffeLayer("a", "X", params={"pooling_param": {"pool": "BEST"}}),))
    with pytest.raises(FormatError, match=r"layer a\.pooling_param.*'pool'"):
        write_prototxt(net, tmp_path / "x.prototxt")
    assert list(tmp_path.iterdir()) == []


def test_writing_to_a_missing_folder(tmp_path):
    with pytest.raises(OutputError, match="No such file"):
        write_prototxt(CaffeNet("n", {}, ()), tmp_path / "no" / "x.prototxt")
