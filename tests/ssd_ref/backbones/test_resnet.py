"""ResNet backbones: strides, taps and what is left out behind them. Values are compared with MXNet in ``parity/oracles``."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssdconv.errors import FormatError
from ssdconv.ssd_ref.backbones.resnet import ResNet, resnet


def convolutions(model: ResNet, block: str) -> dict[str, tuple[int, bool]]:
    """Name -> (stride, bias) of a block's convolutions."""
    children = model.get_submodule(block).named_modules()
    return {n: (m.stride[0], m.bias is not None) for n, m in children if isinstance(m, nn.Conv2d)}


def test_where_the_stride_and_the_biases_are() -> None:
    first = {v: convolutions(resnet(["stage4"], depth=50, version=v), "stage2.0") for v in ("v1", "v1b", "v2")}
    assert first["v1"] == {
        "conv1.conv": (2, True),
        "conv2.conv": (1, False),
        "conv3.conv": (1, True),
        "downsample.conv": (2, False),
    }
    assert first["v1b"] == {
        "conv1.conv": (1, False),
        "conv2.conv": (2, False),
        "conv3.conv": (1, False),
        "downsample.conv": (2, False),
    }
    assert first["v2"] == {"conv1": (1, False), "conv2": (2, False), "conv3": (1, False), "downsample": (2, False)}
    basic = convolutions(resnet(["stage4"], depth=18, version="v1"), "stage3.0")
    assert basic == {"conv1.conv": (2, False), "conv2.conv": (1, False), "downsample.conv": (2, False)}


def test_deep_stem() -> None:
    model = resnet(["stage1"], depth=50, version="v1s")
    widths = [m.out_channels for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and n.startswith("conv1_")]
    assert widths == [64, 64, 128]


@pytest.mark.parametrize(
    ("depth", "version", "taps", "shapes"),
    [
        (18, "v1", ["stage3", "stage4"], [(256, 4, 4), (512, 2, 2)]),
        (50, "v1", ["stage3", "stage4"], [(1024, 4, 4), (2048, 2, 2)]),
        (34, "v1b", ["stage2"], [(128, 8, 8)]),
        (101, "v2", ["stage3.7.act2", "stage4.0.act3"], [(256, 4, 4), (512, 2, 2)]),
        (50, "v2", ["stage1.0.act1", "stage3"], [(64, 16, 16), (1024, 4, 4)]),
    ],
)
def test_taps(depth: int, version: str, taps: list[str], shapes: list[tuple[int, ...]]) -> None:
    with torch.device("meta"):
        model = resnet(taps, depth=depth, version=version).eval()
        outputs = model(torch.zeros(2, 3, 64, 64))
    assert [tuple(o.shape[1:]) for o in outputs] == shapes
    assert model.channels == [s[0] for s in shapes]
    names = {n.split(".")[0] for n, _ in model.named_parameters()}
    last = max(int(t[5]) for t in taps)
    assert f"stage{last}" in names and f"stage{last + 1}" not in names


def test_nothing_is_left_behind_a_tap_inside_a_block() -> None:
    """GluonCV's v2 networks end in the middle of stage 4's first block: its last convolution and shortcut do not exist."""
    model = resnet(["stage4.0.act3"], depth=101, version="v2")
    block = model.get_submodule("stage4.0")
    assert len(model.get_submodule("stage4")) == 1  # type: ignore[arg-type]
    assert {n for n, _ in block.named_children()} == {
        "norm1",
        "act1",
        "conv1",
        "norm2",
        "act2",
        "conv2",
        "norm3",
        "act3",
    }


def test_strides_of_the_stages() -> None:
    with torch.device("meta"):
        model = resnet(["stage2", "stage4"], depth=34, version="v1b", strides=[1, 2, 1, 2]).eval()
        outputs = model(torch.zeros(1, 3, 300, 300))
    assert [o.shape[2] for o in outputs] == [38, 19]


@pytest.mark.parametrize("tap", ["stage5", "layer1", "stage3.6.act1", "stage3.0.act1", ""])
def test_wrong_tap(tap: str) -> None:
    with pytest.raises(FormatError, match="to tap"):
        resnet([tap], depth=50, version="v1")


def test_wrong_depth() -> None:
    with pytest.raises(FormatError, match="with 49 layers"):
        resnet(["stage4"], depth=49)
