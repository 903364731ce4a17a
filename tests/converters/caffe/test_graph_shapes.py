"""Shape inference against torch's execution and against OpenCV's own run of random layers."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ssdconv.converters.caffe.net import CaffeNet, layer_of
from ssdconv.converters.caffe.prototxt import write_prototxt
from ssdconv.converters.caffe.writer import write_caffemodel
from ssdconv.errors import FormatError
from ssdconv.ssd_ref.config import LayerSpec
from ssdconv.ssd_ref.graph.network import GraphLayer
from ssdconv.ssd_ref.graph.operation import blob_names, infer

small = st.integers(1, 4)


@st.composite
def windowed(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    kind = draw(st.sampled_from(["Convolution", "Deconvolution", "Pooling"]))
    params: dict[str, Any] = {}
    if kind == "Pooling":
        params["pool"] = draw(st.sampled_from(["MAX", "AVE"]))
        if draw(st.booleans()):
            return kind, {**params, "global_pooling": True}
        params |= {"kernel_h": draw(small), "kernel_w": draw(small), "stride": draw(small)}
        params["pad"] = draw(st.integers(0, min(params["kernel_h"], params["kernel_w"]) - 1))
        return kind, params
    group = draw(st.sampled_from([1, 2, 4]))
    params |= {"num_output": 4 * draw(st.integers(1, 2)), "group": group, "bias_term": draw(st.booleans())}
    if draw(st.booleans()):
        params |= {"kernel_h": draw(small), "kernel_w": draw(small)}
    else:
        params["kernel_size"] = draw(st.lists(small, min_size=1, max_size=2))
    params["stride"] = draw(st.lists(small, max_size=2))
    params["pad"] = draw(st.lists(st.integers(0, 2), max_size=2))
    params["dilation"] = [draw(st.integers(1, 3))]
    return kind, params


@st.composite
def moved(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    kind = draw(st.sampled_from(["Permute", "Flatten", "Reshape", "InnerProduct", "Softmax", "Interp", "Upsample"]))
    axis = draw(st.integers(-4, 3))
    params: dict[str, Any] = {"axis": axis}
    if kind == "Permute":
        params = {"order": draw(st.permutations(range(4)))[: draw(st.integers(0, 4))]}
    elif kind == "Flatten":
        params["end_axis"] = draw(st.integers(-4, 3))
    elif kind == "Reshape":
        params = {"shape": {"dim": draw(st.lists(st.sampled_from([0, -1, 1, 2, 4]), max_size=4))}}
        params |= {"axis": draw(st.integers(-3, 2)), "num_axes": draw(st.integers(-1, 3))}
    elif kind == "InnerProduct":
        params |= {"num_output": draw(small), "transpose": draw(st.booleans())}
    elif kind == "Interp":
        params = {draw(st.sampled_from(["zoom_factor", "shrink_factor"])): draw(small), "pad_beg": -draw(small) // 2}
    elif kind == "Upsample":
        params = {"scale": draw(small)}
    return kind, params


def made(kind: str, params: dict[str, Any], shape: tuple[int, ...]) -> tuple[LayerSpec, GraphLayer, tuple[int, ...]]:
    found = infer([LayerSpec("l", kind, ("data",), ("y",), params)], {"data": shape})
    torch.manual_seed(0)
    layer = GraphLayer(found.layers[0])
    with torch.no_grad():
        for name, value in (*layer.named_parameters(), *layer.named_buffers()):
            value.copy_(torch.rand(value.shape) + 0.5 if name == "variance" else torch.randn(value.shape))
    return found.layers[0], layer, found.blobs["y"]


def tried(kind: str, params: dict[str, Any], shape: tuple[int, ...]) -> tuple[LayerSpec, GraphLayer, tuple[int, ...]]:
    try:
        return made(kind, params, shape)
    except FormatError:
        assume(False)
        raise


@settings(max_examples=300, deadline=None)
@given(layer=windowed() | moved(), height=st.integers(1, 9), width=st.integers(1, 9))
def test_inferred_shapes_are_those_of_execution(layer: tuple[str, dict[str, Any]], height: int, width: int) -> None:
    # A Reshape that begins with dim 1 keeps larger batches apart, unlike Caffe's, so it is tried with the batch it names.
    batch = 1 if layer[1].get("shape", {}).get("dim", [])[:1] == [1] else 2
    _, module, shape = tried(*layer, (batch, 4, height, width))
    with torch.inference_mode():
        assert tuple(module(torch.rand(batch, 4, height, width)).shape) == shape


RUN = """
import sys
import cv2
import numpy as np

for folder in sys.argv[1:]:
    run = cv2.dnn.readNetFromCaffe(folder + "/one.prototxt", folder + "/one.caffemodel")
    run.enableFusion(False)
    run.enableWinograd(False)
    run.setInput(np.load(folder + "/x.npy"))
    np.save(folder + "/y.npy", run.forward())
"""


def check_with_opencv(cases: list[tuple[str, dict[str, Any], tuple[int, ...]]], folder: Path) -> None:
    """Run nets of one layer each in OpenCV, without fusion and Winograd, and in torch.

    OpenCV runs in a process of its own: it has been seen to crash on odd parameters.
    """
    ours = {}
    for index, (kind, params, shape) in enumerate(cases):
        spec, module, _ = made(kind, params, shape)
        x = np.random.default_rng(index).standard_normal(shape).astype(np.float32)
        place = folder / str(index)
        place.mkdir()
        net = CaffeNet("one", {"data": shape}, (layer_of(spec),))
        blobs = {f"{spec.name}/{i}": getattr(module, n).detach().numpy() for i, n in enumerate(blob_names(spec))}
        write_caffemodel(net, blobs, place / "one.caffemodel")
        write_prototxt(net, place / "one.prototxt")
        np.save(place / "x.npy", x)
        with torch.inference_mode():
            y = module(torch.from_numpy(x)).numpy()
            ours[place] = (kind, params, shape), y, module.double()(torch.from_numpy(x).double()).numpy()
    child = subprocess.run([sys.executable, "-c", RUN, *map(str, ours)], capture_output=True, text=True, check=False)
    done = [place for place in ours if (place / "y.npy").exists()]
    assert child.returncode == 0, f"OpenCV failed on {list(ours.values())[len(done)][0]}: {child.stderr[-500:]}"
    for place, (case, y, exact) in ours.items():
        theirs = np.load(place / "y.npy")
        assert theirs.shape == y.shape, case
        floor = max(np.abs(y - exact).max(), 1e-7 * np.abs(exact).max())
        assert np.abs(theirs - exact).max() <= 8 * floor, case


def window_case(draw: random.Random) -> tuple[str, dict[str, Any], tuple[int, ...]]:
    """A random layer with a window that OpenCV runs: no window beyond the image, no dilated or 1 x 1
    deconvolution."""
    kind = draw.choice(["Pooling", "Convolution", "Deconvolution"])
    height, width, kernel_h, kernel_w = (draw.randint(*r) for r in ((4, 9), (4, 9), (1, 4), (1, 4)))
    params: dict[str, Any] = {"kernel_h": kernel_h, "kernel_w": kernel_w}
    if kind == "Pooling":
        least = min(kernel_h, kernel_w)
        params |= {"pool": draw.choice(["MAX", "AVE"]), "stride": draw.randint(1, least)}
        return kind, {**params, "pad": draw.randint(0, least - 1)}, (1, 4, height, width)
    params |= {"num_output": 4 * draw.randint(1, 2), "group": draw.choice([1, 2, 4]), "bias_term": draw.random() < 0.5}
    params |= {name: [draw.randint(low, high) for _ in range(draw.randint(0, 2))] for name, low, high in PER_AXIS}
    if kind == "Convolution":
        params["dilation"] = [draw.randint(1, 3)]
    else:  # OpenCV drops the padding of 1 x 1 deconvolutions
        params |= {"kernel_h": max(kernel_h, 2), "kernel_w": max(kernel_w, 2)}
    return kind, params, (1, 4, height, width)


PER_AXIS = (("stride", 1, 4), ("pad", 0, 2))


def test_windowed_layers_equal_opencv(tmp_path: Path) -> None:
    draw = random.Random(7)
    cases = []
    while len(cases) < 100:
        kind, params, shape = window_case(draw)
        pad = [0, 0] if kind == "Pooling" or not params["pad"] else [params["pad"][0], params["pad"][-1]]
        reach = [params.get("dilation", [1])[0] * (params[k] - 1) + 1 for k in ("kernel_h", "kernel_w")]
        # OpenCV refuses images smaller than the kernel, which Caffe may round up to one pixel.
        if kind != "Convolution" or all(shape[2 + i] + 2 * pad[i] >= reach[i] for i in (0, 1)):
            try:
                made(kind, params, shape)
            except FormatError:  # a deconvolution whose padding eats everything
                continue
            cases.append((kind, params, shape))
    check_with_opencv(cases, tmp_path)


SIMPLE: list[tuple[str, dict[str, Any]]] = [
    ("BatchNorm", {"eps": 1e-3}),
    ("Scale", {"bias_term": True}),
    ("PReLU", {}),
    ("ReLU", {"negative_slope": 0.2}),
    ("ELU", {}),
    ("Sigmoid", {}),
    ("TanH", {}),
    ("AbsVal", {}),
    ("BNLL", {}),
    ("Power", {"power": 2.0, "scale": 0.5, "shift": 3.0}),
    ("Exp", {"base": 2.0, "scale": 0.5, "shift": 0.5}),
    ("ReLU6", {}),
    ("LRN", {"alpha": 0.1}),
    ("InnerProduct", {"num_output": 5}),
    ("Softmax", {"axis": 1}),
    ("Normalize", {"across_spatial": False, "channel_shared": False}),
    ("Permute", {"order": [0, 2, 3, 1]}),
    ("Flatten", {}),
    ("Reshape", {"shape": {"dim": [0, -1, 2]}}),
    ("Interp", {"zoom_factor": 2}),
    ("Interp", {"height": 11, "width": 4}),
    ("ConvolutionDepthwise", {"num_output": 4, "kernel_size": [3], "pad": [1]}),
]


def test_other_layers_equal_opencv(tmp_path: Path) -> None:
    check_with_opencv([(kind, params, (1, 4, 6, 7)) for kind, params in SIMPLE], tmp_path)


def test_errors_name_layer_and_blob() -> None:
    with pytest.raises(FormatError, match=r"layer 'l'.*reads blob 'nowhere'"):
        infer([LayerSpec("l", "ReLU", ("nowhere",), ("y",))], {"data": (1, 3, 4, 4)})
    with pytest.raises(FormatError, match=r"layer 'l' \(ReLU\).*tops"):
        infer([LayerSpec("l", "ReLU", ("data",), ("y", "z"))], {"data": (1, 3, 4, 4)})
    with pytest.raises(FormatError, match=r"layer 'l'.*bottoms"):
        infer([LayerSpec("l", "ReLU", (), ("y",))], {"data": (1, 3, 4, 4)})
    for shape in ((1, 3, 0, 4), (1, 3, -1, 4), (1, 3, 2**20, 2**20), (1,) * 33):
        with pytest.raises(FormatError, match="input 'data'"):
            infer([], {"data": shape})


FIELDS = (
    "num_output kernel_size kernel_h kernel_w stride pad dilation group axis num_axes slice_point height width "
    "zoom_factor pad_beg order shape pool bias_term"
)


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(["Convolution", "Pooling", "Reshape", "Slice", "Interp", "InnerProduct", "Scale", "Permute"]),
    params=st.dictionaries(
        st.sampled_from(FIELDS.split()),
        st.integers(-(2**70), 2**70)
        | st.lists(st.integers(-5, 2**40), max_size=4)
        | st.booleans()
        | st.text(max_size=3)
        | st.floats()
        | st.fixed_dictionaries({"dim": st.lists(st.integers(-3, 2**65), max_size=5)}),
        max_size=6,
    ),
)
def test_hostile_parameters_end_in_format_errors(kind: str, params: dict[str, Any]) -> None:
    try:
        infer([LayerSpec("l", kind, ("data",), ("y",), params)], {"data": (1, 4, 8, 8)})
    except FormatError as error:
        assert "'l'" in str(error)
