"""What the golden layers do not show: other parameters, batches, autograd, memory formats, and layers beyond BVLC's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssdconv.errors import FormatError
from ssdconv.ssd_ref.config import LayerSpec
from ssdconv.ssd_ref.graph.network import GraphLayer
from ssdconv.ssd_ref.graph.operation import blob_names, infer


def made(kind: str, params: dict[str, Any], *shapes: tuple[int, ...], tops: int = 1) -> GraphLayer:
    bottoms = tuple(f"x{i}" for i in range(len(shapes)))
    spec = LayerSpec("l", kind, bottoms, tuple(f"y{i}" for i in range(tops)), params)
    return GraphLayer(infer([spec], dict(zip(bottoms, shapes, strict=True))).layers[0])


def run(kind: str, params: dict[str, Any], *inputs: Tensor, tops: int = 1) -> Any:
    return made(kind, params, *(tuple(x.shape) for x in inputs), tops=tops)(*inputs)


def counting(*shape: int) -> Tensor:
    return torch.arange(float(np.prod(shape))).reshape(shape)


def test_pooling_window_that_starts_behind_the_image() -> None:
    # stride > kernel and no padding: Caffe keeps the last, empty window and never writes to it (-FLT_MAX for MAX).
    x = counting(1, 1, 7, 7)
    y = run("Pooling", {"kernel_size": 2, "stride": 4}, x)
    assert y.shape == (1, 1, 3, 3)
    assert y[0, 0, 0, 0] == 8
    assert y[0, 0, 2, 2] == torch.finfo(torch.float32).min


def test_average_pooling_divides_by_the_window_clipped_to_the_padding() -> None:
    # 4 wide, kernel 3, stride 2, pad 1: windows start at -1, 1, 3; divisors 3, 3, min(6, 5) - 3 = 2 per axis.
    y = run("Pooling", {"pool": "AVE", "kernel_size": 3, "stride": 2, "pad": 1}, torch.ones(1, 1, 4, 4))
    line = torch.tensor([2 / 3, 3 / 3, 1 / 2])
    assert torch.allclose(y[0, 0], line[:, None] * line[None, :])


def test_average_pooling_with_more_padding_than_half_a_window() -> None:
    # 3 wide, kernel 3, stride 1, pad 2: windows start at -2 … 2, those at both ends see one pixel of three.
    y = run("Pooling", {"pool": "AVE", "kernel_size": 3, "pad": 2}, torch.ones(1, 1, 3, 3))
    line = torch.tensor([1.0, 2.0, 3.0, 2.0, 1.0]) / 3
    assert torch.allclose(y[0, 0], line[:, None] * line[None, :])
    # stride 3: windows start at -2 and 1; the second ends at 4, within image and padding (5).
    y = run("Pooling", {"pool": "AVE", "kernel_size": 3, "stride": 3, "pad": 2}, torch.ones(1, 1, 3, 3))
    line = torch.tensor([1.0, 2.0]) / 3
    assert torch.allclose(y[0, 0], line[:, None] * line[None, :])


@pytest.mark.parametrize("extra", [{"round_mode": "FLOOR"}, {"ceil_mode": False}])
def test_pooling_can_round_down(extra: dict[str, Any]) -> None:
    assert run("Pooling", {"kernel_size": 2, "stride": 2, **extra}, counting(1, 1, 5, 5)).shape == (1, 1, 2, 2)
    assert run("Pooling", {"kernel_size": 2, "stride": 2}, counting(1, 1, 5, 5)).shape == (1, 1, 3, 3)


def test_convolution_of_an_image_smaller_than_its_kernel() -> None:
    # C++ rounds (2 - 3) / 2 towards zero: one pixel, the missing row and column read as zeros.
    layer = made("Convolution", {"num_output": 1, "kernel_size": [3], "stride": [2], "bias_term": False}, (1, 1, 2, 2))
    with torch.no_grad():
        layer.weight.copy_(counting(1, 1, 3, 3))
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert layer(x).flatten().tolist() == [0 * 1 + 1 * 2 + 3 * 3 + 4 * 4]
    # Too low only: the row below reads as zeros.
    assert layer(torch.ones(1, 1, 2, 3)).flatten().tolist() == [0 + 1 + 2 + 3 + 4 + 5]


def test_a_group_divides_inputs_for_the_kernel_of_a_convolution_and_outputs_for_that_of_a_deconvolution() -> None:
    params = {"num_output": 6, "kernel_size": [3], "group": 2}
    assert made("Convolution", params, (1, 4, 5, 5)).weight.shape == (6, 2, 3, 3)
    assert made("Deconvolution", params, (1, 4, 5, 5)).weight.shape == (4, 3, 3, 3)


@pytest.mark.parametrize(("axes", "axis"), [(1, 1), (3, 1), (1, 2), (1, -2), (0, 3), (0, -1)])
@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution"])
def test_convolution_along_other_axes(kind: str, axes: int, axis: int) -> None:
    torch.manual_seed(0)
    before = (axis if axis > 0 else 3 if axes == 0 else 2) - 1
    x = torch.randn(2, *(3,) * before, 4, *(5,) * axes)
    window = {"kernel_size": [3], "pad": [1], "stride": [2]} if axes else {"kernel_size": [1]}
    layer = made(kind, {"num_output": 6, "axis": axis, "group": 2, **window}, tuple(x.shape))
    y = layer(x)
    function = getattr(torch.nn.functional, f"conv{'_transpose' if kind == 'Deconvolution' else ''}{max(axes, 1)}d")
    more = {"stride": 2, "padding": 1} if axes else {}
    flat = x.reshape(-1, 4, *(5,) * axes, *(1,) * (not axes))
    weight = layer.weight if axes else layer.weight[..., None]
    expected = function(flat, weight, layer.bias, groups=2, **more)
    assert y.shape[: before + 2] == (2, *(3,) * before, 6)
    assert torch.equal(y.flatten(), expected.flatten())


def test_several_bottoms_go_through_the_same_convolution() -> None:
    a, b = torch.randn(1, 2, 4, 4), torch.randn(1, 2, 4, 4)
    layer = made("Convolution", {"num_output": 3, "kernel_size": [3]}, (1, 2, 4, 4), (1, 2, 4, 4), tops=2)
    assert len(layer.state_dict()) == 2
    for x, y in zip((a, b), layer(a, b), strict=True):
        assert torch.equal(y, torch.conv2d(x, layer.weight, layer.bias))


def test_maximum_pooling_tells_places() -> None:
    x = torch.tensor([[[[1.0, 5.0, 5.0], [2.0, 0.0, 3.0], [9.0, 4.0, 8.0]]]])
    top, place = run("Pooling", {"kernel_size": 2, "stride": 2}, x, tops=2)
    assert (top.flatten().tolist(), place.flatten().tolist()) == ([5, 5, 9, 8], [1, 2, 6, 8])
    top, place = run("Pooling", {"kernel_size": 2, "stride": 2, "pad": 1}, x, tops=2)
    assert (top.flatten().tolist(), place.flatten().tolist()) == ([1, 5, 9, 8], [0, 1, 6, 8])
    _, beyond = run("Pooling", {"kernel_size": 1, "stride": 3}, counting(1, 1, 5, 5), tops=2)
    assert beyond.flatten().tolist() == [0, 3, -1, 15, 18, -1, -1, -1, -1]


@pytest.mark.parametrize("kind", ["DepthwiseConvolution", "ConvolutionDepthwise"])
def test_depthwise_forms_are_grouped_convolutions(kind: str) -> None:
    torch.manual_seed(0)
    params = {"num_output": 8, "kernel_size": [3], "pad": [1]}
    x = torch.randn(2, 4, 5, 6)
    depthwise = made(kind, params, (2, 4, 5, 6))
    grouped = made("Convolution", {**params, "group": 4}, (2, 4, 5, 6))
    grouped.load_state_dict(depthwise.state_dict())
    assert depthwise.weight.shape == (8, 1, 3, 3)
    assert torch.equal(depthwise(x), grouped(x))


def test_batch_norm_keeps_its_statistics_raw() -> None:
    layer = made("BatchNorm", {"eps": 0.0}, (1, 2, 1, 1))
    state = {"mean": torch.tensor([3.0, 6.0]), "variance": torch.tensor([12.0, 48.0]), "factor": torch.tensor([3.0])}
    layer.load_state_dict(state)
    assert layer(torch.tensor([3.0, 6.0]).reshape(1, 2, 1, 1)).flatten().tolist() == [1.0, 1.0]
    assert all(torch.equal(layer.state_dict()[k], v) for k, v in state.items())
    assert not list(layer.parameters())


def test_batch_norm_with_batch_statistics() -> None:
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    y = run("BatchNorm", {"use_global_stats": False}, x)
    assert torch.allclose(y, torch.nn.functional.batch_norm(x, None, None, training=True, eps=1e-5), atol=1e-6)


def test_scale_with_two_bottoms_weighs_channels() -> None:
    x, s = counting(2, 3, 2, 2), torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert torch.equal(run("Scale", {"axis": 0}, x, s), x * s[:, :, None, None])


def test_scale_of_several_axes_and_of_none() -> None:
    wide = made("Scale", {"axis": 1, "num_axes": -1, "bias_term": True}, (2, 3, 4))
    assert wide.weight.shape == wide.bias.shape == (3, 4)
    assert made("Scale", {"num_axes": 0}, (2, 3, 4)).weight.shape == ()


def test_slice_points_and_equal_slices() -> None:
    x = counting(1, 6, 2)
    assert [y.shape[1] for y in run("Slice", {"slice_point": [1, 3]}, x, tops=3)] == [1, 2, 3]
    assert torch.equal(torch.cat(run("Slice", {}, x, tops=2), 1), x)
    assert [y.shape[2] for y in run("Slice", {"slice_dim": 2}, x, tops=2)] == [1, 1]


def test_normalize_takes_two_to_four_axes() -> None:
    x = torch.tensor([[3.0, 4.0], [6.0, 8.0]])
    for params in ({}, {"across_spatial": False}):
        assert torch.allclose(
            run("Normalize", {**params, "channel_shared": False}, x), x / x.new_tensor([[5.0], [10.0]])
        )
    y = run("Normalize", {"across_spatial": False}, x[None])
    assert torch.allclose(y, x[None] / torch.tensor([45.0, 80.0]).sqrt())
    assert torch.allclose(run("Normalize", {}, x[None]), x[None] / 125**0.5)


def test_coefficients_count_in_sums_alone() -> None:
    a, b = torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, 4.0]])
    assert run("Eltwise", {"coeff": [2.0, -1.0]}, a, b).tolist() == [[-1, 6]]
    assert run("Eltwise", {"operation": "MAX", "coeff": [2.0, -1.0]}, a, b).tolist() == [[3, 5]]


def test_flattening_no_axis_puts_one_in() -> None:
    assert run("Flatten", {"axis": 2, "end_axis": 1}, counting(2, 3, 4)).shape == (2, 3, 1, 4)


def test_interp_keeps_corners() -> None:
    x = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    assert run("Interp", {"height": 3, "width": 3}, x)[0, 0].tolist() == [[0, 0.5, 1], [1, 1.5, 2], [2, 2.5, 3]]
    line = run("Interp", {"height": 1, "width": 4}, torch.tensor([[[[0.0, 3.0]]]]))
    assert line.flatten().tolist() == pytest.approx([0, 1, 2, 3])
    assert run("Interp", {"zoom_factor": 2}, x).shape == (1, 1, 3, 3)  # 2 + (2 - 1) * (2 - 1)
    assert run("Interp", {"shrink_factor": 2}, counting(1, 1, 5, 7)).shape == (1, 1, 3, 4)
    cut = run("Interp", {"height": 2, "width": 2, "pad_beg": -1, "pad_end": -1}, counting(1, 1, 4, 4))
    assert cut[0, 0].tolist() == [[5, 6], [9, 10]]


def test_within_channel_normalisation_has_no_k() -> None:
    y = run(
        "LRN",
        {"local_size": 1, "alpha": 3.0, "beta": 1.0, "k": 7.0, "norm_region": "WITHIN_CHANNEL"},
        torch.ones(1, 1, 2, 2),
    )
    assert y.flatten().tolist() == pytest.approx([0.25] * 4)


def test_upsample_repeats_pixels() -> None:
    x = torch.tensor([[[[1.0, 2.0]]]])
    assert run("Upsample", {"scale": 2}, x)[0, 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2]]


@pytest.mark.parametrize(
    ("kind", "params", "expected"),
    [
        ("ReLU6", {}, [0.0, 0.0, 0.5, 6.0]),
        ("ReLU6", {"negative_slope": 0.5}, [-1.0, 0.0, 0.5, 6.0]),
        ("Clip", {"min": -1.0, "max": 2.0}, [-1.0, 0.0, 0.5, 2.0]),
        ("Exp", {"base": 2.0, "scale": 2.0, "shift": 1.0}, [2**-3.0, 2.0, 4.0, 2.0**17]),
        ("Exp", {"base": 1.0, "scale": 2.0}, [1.0, 1.0, 1.0, 1.0]),
        ("Power", {"scale": -1.0}, [2.0, 0.0, -0.5, -8.0]),
        ("BNLL", {}, [np.log1p(np.exp(-2.0)), np.log(2.0), np.log1p(np.exp(0.5)), np.log1p(np.exp(8.0))]),
        ("Swish", {"beta": 2.0}, [-2 / (1 + np.exp(4.0)), 0.0, 0.5 / (1 + np.exp(-1.0)), 8 / (1 + np.exp(-16.0))]),
        ("Dropout", {}, [-2.0, 0.0, 0.5, 8.0]),
        ("Threshold", {}, [0.0, 0.0, 1.0, 1.0]),
        ("Threshold", {"threshold": 0.5}, [0.0, 0.0, 0.0, 1.0]),
    ],
)
def test_pointwise_formulas(kind: str, params: dict[str, Any], expected: list[float]) -> None:
    y = run(kind, params, torch.tensor([[-2.0, 0.0, 0.5, 8.0]]))
    assert y[0].tolist() == pytest.approx(expected, rel=1e-6)


def test_reductions_take_all_axes_from_one_on() -> None:
    x = torch.tensor([[[1.0, -2.0], [3.0, -4.0]], [[0.0, 0.5], [0.0, 0.0]]])
    assert run("Reduction", {"axis": 1}, x).tolist() == [-2.0, 0.5]
    assert run("Reduction", {"axis": -1, "operation": "ASUM"}, x).tolist() == [[3.0, 7.0], [0.5, 0.0]]
    assert run("Reduction", {"axis": 1, "operation": "SUMSQ", "coeff": 0.5}, x).tolist() == [15.0, 0.125]
    assert run("Reduction", {"axis": 1, "operation": "MEAN", "coeff": 2.0}, x).tolist() == [-1.0, 0.25]
    total = run("Reduction", {}, x)
    assert (total.shape, float(total)) == ((), -1.5)


def test_tiles_repeat_whole_blobs() -> None:
    x = counting(1, 2, 2)
    assert run("Tile", {"tiles": 2}, x)[0].tolist() == [[0, 1], [2, 3], [0, 1], [2, 3]]
    assert run("Tile", {"axis": -1, "tiles": 2}, x)[0].tolist() == [[0, 1, 0, 1], [2, 3, 2, 3]]


def test_mean_and_variance_normalisation() -> None:
    x = torch.tensor([[[[1.0, 3.0]], [[5.0, 9.0]]]])
    assert run("MVN", {"eps": 1.0}, x).flatten().tolist() == pytest.approx([-0.5, 0.5, -2 / 3, 2 / 3])
    assert run("MVN", {"normalize_variance": False}, x).flatten().tolist() == [-1, 1, -2, 2]
    across = run("MVN", {"across_channels": True, "eps": 0.0}, x).flatten()
    assert across.tolist() == pytest.approx(((x - 4.5) / 8.75**0.5).flatten().tolist())
    assert run("MVN", {"normalize_variance": False}, counting(2, 3)).shape == (2, 3, 1, 1)
    assert run("MVN", {"normalize_variance": False}, counting(2, 3, 4))[1, 2, :, 0].tolist() == [-1.5, -0.5, 0.5, 1.5]


def test_the_later_of_equal_values_comes_first_in_argmax() -> None:
    x = torch.tensor([[[1.0, 4.0], [4.0, 2.0]], [[7.0, 7.0], [7.0, 0.0]]])
    assert run("ArgMax", {}, x).tolist() == [[[2.0]], [[2.0]]]
    assert run("ArgMax", {"top_k": 3, "out_max_val": True}, x).tolist() == [
        [[2, 1, 3], [4, 4, 2]],
        [[2, 1, 0], [7, 7, 7]],
    ]
    assert run("ArgMax", {"axis": 1}, x).tolist() == [[[1, 0]], [[1, 0]]]
    assert run("ArgMax", {"axis": -2, "top_k": 2, "out_max_val": True}, x).tolist() == [
        [[4, 4], [1, 2]],
        [[7, 7], [7, 0]],
    ]
    assert run("ArgMax", {}, x[..., None]).shape == (2, 1, 1, 1)


def test_logarithm_to_a_base() -> None:
    y = run("Log", {"base": 10.0, "scale": 10.0, "shift": 90.0}, torch.tensor([[1.0, 91.0]]))
    assert y[0].tolist() == pytest.approx([2.0, 3.0])


def test_reshape_with_a_leading_one_keeps_batch_items_apart() -> None:
    x = counting(3, 8)
    y = run("Reshape", {"shape": {"dim": [1, -1, 4]}}, x)
    assert y.shape == (3, 2, 4)
    assert torch.equal(y[1], x[1].reshape(2, 4))


CASES: list[tuple[str, dict[str, Any]]] = [
    ("Convolution", {"num_output": 4, "kernel_size": [3], "pad": [1], "group": 2}),
    ("Deconvolution", {"num_output": 4, "kernel_size": [2], "stride": [2]}),
    ("Pooling", {"kernel_size": 3, "stride": 2}),
    ("Pooling", {"pool": "AVE", "kernel_size": 2, "stride": 3, "pad": 1}),
    ("BatchNorm", {}),
    ("Normalize", {"across_spatial": False, "channel_shared": False}),
    ("LRN", {"local_size": 3}),
    ("LRN", {"local_size": 3, "norm_region": "WITHIN_CHANNEL"}),
    ("Scale", {"bias_term": True}),
    ("PReLU", {}),
    ("ReLU", {"negative_slope": 0.1}),
    ("ELU", {}),
    ("InnerProduct", {"num_output": 3}),
    ("Permute", {"order": [0, 2, 3, 1]}),
    ("Flatten", {}),
    ("Reshape", {"shape": {"dim": [0, -1, 2]}}),
    ("Softmax", {}),
    ("MVN", {}),
    ("Tile", {"axis": 2, "tiles": 3}),
    ("Reduction", {"axis": 2, "operation": "SUMSQ"}),
    ("Interp", {"zoom_factor": 2}),
    ("Upsample", {"scale": 2}),
    ("Slice", {"slice_point": [1]}),
]


@pytest.mark.parametrize(("kind", "params"), CASES)
def test_batch_items_gradients_and_channels_last(kind: str, params: dict[str, Any]) -> None:
    torch.manual_seed(0)
    tops = 2 if kind == "Slice" else 1
    layer = made(kind, params, (1, 4, 6, 8), tops=tops).double()
    x = torch.randn(3, 4, 6, 8, dtype=torch.float64)

    def first(value: Tensor) -> Tensor:
        result = layer(value)
        return result[0] if isinstance(result, tuple) else result

    whole = first(x)
    assert torch.allclose(whole, torch.cat([first(x[i : i + 1]) for i in range(3)]))
    assert torch.allclose(whole, first(x.contiguous(memory_format=torch.channels_last)))
    assert (
        torch.autograd.gradcheck(first, (x[:1, :, :4, :4].clone().requires_grad_(),))
        if kind != "InnerProduct"
        else True
    )
    if blob_names_of(layer):
        whole.sum().backward()
        assert all(p.grad is not None for p in layer.parameters())


def blob_names_of(layer: GraphLayer) -> list[str]:
    return [name for name, _ in layer.named_parameters()]


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("Convolution", {"num_output": 4}),
        ("Convolution", {"num_output": 4, "kernel_size": [3], "kernel_h": 3, "kernel_w": 3}),
        ("Convolution", {"num_output": 4, "kernel_size": [3, 3, 3]}),
        ("Convolution", {"num_output": 4, "kernel_size": [0]}),
        ("Convolution", {"num_output": 4, "kernel_size": [3], "stride": [0]}),
        ("Convolution", {"num_output": 4, "kernel_size": [3], "group": 3}),
        ("Convolution", {"num_output": 6, "kernel_size": [3], "group": 3}),
        ("Convolution", {"num_output": 6, "kernel_size": [3], "group": 4}),
        ("Convolution", {"num_output": -4, "kernel_size": [3]}),
        ("Convolution", {"num_output": "4", "kernel_size": [3]}),
        ("Convolution", {"num_output": 4, "kernel_size": [9]}),
        ("Convolution", {"num_output": 2**31 - 1, "kernel_size": [2**20]}),
        ("Pooling", {"kernel_size": 2, "pad": 2}),
        ("Pooling", {"pool": "STOCHASTIC", "kernel_size": 2}),
        ("Pooling", {"global_pooling": True, "stride": 2}),
        ("Eltwise", {"operation": "PROD", "coeff": [1.0]}),
        ("Convolution", {"num_output": 4, "kernel_h": 1, "kernel_w": 1, "axis": 2}),
        ("Convolution", {"num_output": 4, "kernel_size": [1], "axis": 0, "group": 3}),
        ("LRN", {"local_size": 4}),
        ("InnerProduct", {"num_output": 4, "axis": 4}),
        ("Softmax", {"axis": -5}),
        ("Reshape", {"shape": {"dim": [-1, -1]}}),
        ("Reshape", {"shape": {"dim": [7, -1]}}),
        ("Reshape", {"shape": {"dim": [2**40, 0]}}),
        ("Reshape", {"shape": {"dim": [0] * 40}}),
        ("Permute", {"order": [0, 0]}),
        ("Permute", {"order": [4]}),
        ("Flatten", {"axis": 3, "end_axis": 1}),
        ("Slice", {"slice_point": [4]}),
        ("Interp", {}),
        ("Interp", {"height": 2**31 - 1, "width": 2**31 - 1}),
        ("Interp", {"zoom_factor": 2, "pad_beg": -6}),
        ("Power", {"power": float("nan")}),
        ("Clip", {"min": 0.0}),
        ("Log", {"base": 1.0}),
        ("Tile", {}),
        ("Tile", {"tiles": 0}),
        ("Reduction", {"axis": 4}),
        ("Reduction", {"operation": "MAX"}),
        ("ArgMax", {"top_k": 101}),
        ("ArgMax", {"axis": 1, "top_k": 5}),
        ("ArgMax", {"top_k": 0}),
    ],
)
def test_impossible_parameters_name_the_layer(kind: str, params: dict[str, Any]) -> None:
    with pytest.raises(FormatError) as caught:
        made(kind, params, (1, 4, 5, 5), tops=2 if kind == "Slice" else 1)
    assert f"layer 'l' ({kind})" in str(caught.value)


def test_names_and_shapes_agree() -> None:
    layer = made("Scale", {"bias_term": True}, (1, 4, 5, 5))
    assert [n for n, _ in layer.named_parameters()] == list(
        blob_names(LayerSpec("l", "Scale", ("x",), ("y",), {"bias_term": True}))
    )
