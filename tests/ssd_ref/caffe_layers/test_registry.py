from __future__ import annotations

import pytest

from ssdconv.converters.caffe.shapes import supported
from ssdconv.errors import FormatError
from ssdconv.ssd_ref.caffe_layers import all_layers  # noqa: F401
from ssdconv.ssd_ref.caffe_layers.registry import LAYERS, CaffeLayer, build, layer
from ssdconv.ssd_ref.config import LayerSpec


def test_every_type_has_a_module_and_a_shape_rule() -> None:
    caffe = {name for name, module in LAYERS.items() if ".caffe_layers." in module.__module__}
    assert caffe == set(supported())


def test_a_second_module_for_a_type_is_refused() -> None:
    with pytest.raises(ValueError, match="ReLU is registered twice"):
        layer("ReLU")(type("Other", (CaffeLayer,), {}))


def test_unknown_type_names_the_layer_and_near_types() -> None:
    with pytest.raises(FormatError) as caught:
        build(LayerSpec("c1", "Convolutoin", ("x",), ("y",)))
    assert "c1" in str(caught.value)
    assert "Convolution" in (caught.value.hint or "")


def test_wrong_number_of_blobs_is_refused() -> None:
    with pytest.raises(FormatError, match="number of learned tensors"):
        build(LayerSpec("bn", "BatchNorm", ("x",), ("y",), {}, ((3,), (3,))))
