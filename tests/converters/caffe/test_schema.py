import pytest

from ssdconv.converters.caffe.schema import V1_TYPES, messages

# typed from the SSD branch's own format
LAYER_NUMBERS = {
    "name": 1, "type": 2, "bottom": 3, "top": 4, "param": 6, "blobs": 7, "include": 8, "phase": 10,
    "transform_param": 100, "loss_param": 101, "concat_param": 104, "convolution_param": 106, "dropout_param": 108,
    "eltwise_param": 110, "inner_product_param": 117, "lrn_param": 118, "pooling_param": 121, "power_param": 122,
    "relu_param": 123, "softmax_param": 125, "slice_param": 126, "prelu_param": 131, "reshape_param": 133,
    "flatten_param": 135, "batch_norm_param": 139, "elu_param": 140, "bias_param": 141, "scale_param": 142,
    "input_param": 143, "crop_param": 144, "annotated_data_param": 200, "multibox_loss_param": 201,
    "permute_param": 202, "prior_box_param": 203, "detection_output_param": 204, "norm_param": 206,
}  # fmt: skip


def test_layer_field_numbers():
    fields = messages()["Layer"].DESCRIPTOR.fields_by_name
    assert {name: fields[name].number for name in LAYER_NUMBERS} == LAYER_NUMBERS


@pytest.mark.parametrize(
    "name", ["swish_param", "clip_param", "upsample_param", "interp_param", "relu6_param", "bn_param", "mvn_param"]
)
def test_layers_of_later_caffes(name):
    assert name in messages()["Layer"].DESCRIPTOR.fields_by_name


def test_net_and_v1_numbers():
    net = messages()["Net"].DESCRIPTOR.fields_by_name
    assert {n: net[n].number for n in ("name", "layers", "input", "input_dim", "input_shape", "layer")} == {
        "name": 1, "layers": 2, "input": 3, "input_dim": 4, "input_shape": 8, "layer": 100,
    }  # fmt: skip
    v1 = messages()["V1Layer"].DESCRIPTOR.fields_by_name
    assert (v1["blobs"].number, v1["name"].number, v1["type"].number, v1["param"].number) == (6, 4, 5, 1001)
    assert V1_TYPES["CONVOLUTION"] == (4, "Convolution") and V1_TYPES["SOFTMAX_LOSS"] == (21, "SoftmaxWithLoss")


def test_shapes_are_packed_and_weights_too(emit):
    blob = messages()["Blob"]()
    blob.shape.dim.extend([2, 300])
    blob.data.extend([1.0])
    assert blob.SerializeToString() == emit.floats(1.0) + emit.shape(2, 300)


def test_no_field_or_number_twice():
    for name, kind in messages().items():
        fields = kind.DESCRIPTOR.fields
        assert len({f.number for f in fields}) == len({f.name for f in fields}) == len(fields), name


def test_enums_that_ssd_needs():
    prior = messages()["MultiBoxLoss"].DESCRIPTOR.fields_by_name["code_type"].enum_type
    assert {v.name: v.number for v in prior.values} == {"CORNER": 1, "CENTER_SIZE": 2, "CORNER_SIZE": 3}
    pool = messages()["Pooling"].DESCRIPTOR.fields_by_name["pool"].enum_type
    assert {v.name: v.number for v in pool.values} == {"MAX": 0, "AVE": 1, "STOCHASTIC": 2}
