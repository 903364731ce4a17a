from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from ssdconv.ssd_ref.config import LayerSpec
from ssdconv.ssd_ref.graph.operation import blob_names, layer_name, learned_blobs, module_name


@given(st.text())
@example("%2E")
@example("a.%.%25")
def test_escaping_is_reversible_and_leaves_no_dot(name: str) -> None:
    assert layer_name(module_name(name)) == name
    assert "." not in module_name(name)


def test_escaped_names_are_readable() -> None:
    assert module_name("conv1/dw/bn") == "conv1/dw/bn"
    assert module_name("res2.1") == "res2%2E1"
    assert module_name("50%") == "50%25"


def test_blob_names() -> None:
    def names(kind: str, bottoms: int = 1, **params: object) -> tuple[str, ...]:
        return blob_names(LayerSpec("l", kind, ("x", "y")[:bottoms], ("z",), params))

    assert names("Convolution") == ("weight", "bias")
    assert names("Convolution", bias_term=False) == ("weight",)
    assert names("Deconvolution") == names("DepthwiseConvolution") == names("InnerProduct") == ("weight", "bias")
    assert names("BatchNorm") == ("mean", "variance", "factor")
    assert names("Scale") == ("weight",)
    assert names("Scale", bias_term=True) == ("weight", "bias")
    assert names("Scale", 2, bias_term=True) == ("bias",)
    assert names("Scale", 2) == names("Bias", 2) == names("ReLU") == ()
    assert names("Bias") == ("bias",)
    assert names("PReLU") == names("Normalize") == ("weight",)


def test_shared_blobs_name_their_first_holder() -> None:
    def ip(name: str, shared: tuple[str, ...]) -> LayerSpec:
        return LayerSpec(name, "InnerProduct", ("x",), (name,), {}, ((2, 3), (2,)), shared)

    found = list(learned_blobs([ip("a", ("w", "")), ip("b", ("w", "")), ip("c", ())]))
    assert [(b.parameter, b.same_as) for b in found] == [
        ("a.weight", ""),
        ("a.bias", ""),
        ("b.weight", "a.weight"),
        ("b.bias", ""),
        ("c.weight", ""),
        ("c.bias", ""),
    ]
    assert found[0].shape == (2, 3)
