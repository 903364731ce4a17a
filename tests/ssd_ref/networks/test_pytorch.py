"""PyTorch projects' networks: typed-out facts; live torchvision is compared in tests/parity/oracles/test_pytorch.py."""

from __future__ import annotations

import math

import pytest
import torch

from ssdconv.errors import UsageError
from ssdconv.ssd_ref.config import SSDConfig, Staged
from ssdconv.ssd_ref.layers import L2Norm
from ssdconv.ssd_ref.networks.pytorch import KINDS, NETWORKS, pytorch
from ssdconv.ssd_ref.networks.registry import network


@pytest.mark.parametrize(
    ("name", "classes", "first", "order"),
    [
        ("ssd_pytorch_ssd300_voc", 21, 30, "RGB"),
        ("ssd_pytorch_ssd300_coco", 81, 21, "RGB"),
        ("ssd_pytorch_ssd300_coco201", 201, 21, "RGB"),
        ("simple_ssd_ssd300_voc", 21, 30, "BGR"),
        ("torchvision_ssd300_vgg16", 91, 21, "RGB"),
    ],
)
def test_facts(name: str, classes: int, first: float, order: str) -> None:
    config = network(name)
    assert (config.source, config.num_classes, config.num_priors) == ("pytorch", classes, 8732)
    assert config.priors[0].box_sizes[0] == (first, first)
    assert config.pixels.order == order
    assert SSDConfig.from_json(config.to_json()) == config
    assert name in KINDS


def test_the_order_is_a_wish_but_for_torchvision() -> None:
    assert pytorch("ssd_pytorch_ssd300_voc", order="BGR").pixels.mean == (104, 117, 123)
    assert pytorch("ssd_pytorch_ssd300_voc", order="RGB").pixels.mean == (123, 117, 104)
    for name, order in (("torchvision_ssd300_vgg16", "BGR"), ("ssd_pytorch_ssd300_voc", "GBR")):
        with pytest.raises(UsageError, match="cannot read"):
            pytorch(name, order=order)


def test_rules() -> None:
    first, second, third = (
        network(n).detect for n in ("ssd_pytorch_ssd300_voc", "simple_ssd_ssd300_voc", "torchvision_ssd300_vgg16")
    )
    assert (first.top_k, first.keep_top_k, first.nms_threshold, first.score_inclusive) == (200, -1, 0.45, False)
    assert (second.top_k, second.keep_top_k, second.nms_threshold, second.score_inclusive) == (-1, -1, 0.5, True)
    assert (third.top_k, third.keep_top_k, third.clip) == (400, 200, "before_nms")
    assert third.max_exponent == pytest.approx(math.log(62.5))


def test_which_priors_are_clamped_and_how() -> None:
    # conv9_2, ratio 2: 264 * sqrt(2) = 373 pixels for VOC, 261 * sqrt(2) = 369 for COCO
    plain, theirs = network("ssd_pytorch_ssd300_voc").priors, network("torchvision_ssd300_vgg16").priors
    assert {m.clip for m in plain} == {"centers"} and plain[5].box_sizes[2][0] == pytest.approx(373.35, abs=0.01)
    assert {m.clip for m in theirs} == {"none"} and theirs[5].box_sizes[2][0] == 300.0


@pytest.mark.parametrize("name", [n for n in NETWORKS if "torchvision" not in n])
@pytest.mark.parametrize("size", [1.0, 1e-6, 1e-9])
def test_the_norm_of_the_ssd_pytorch_family(name: str, size: float) -> None:
    """layers/modules/l2norm.py: ``norm = x.pow(2).sum(dim=1, keepdim=True).sqrt() + eps``, eps 1e-10; ``x / norm * weight``."""
    x = torch.randn(1, 8, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * size
    expected = x / (x.pow(2).sum(dim=1, keepdim=True).sqrt() + 1e-10) * 20
    torch.testing.assert_close(normalized(name, x), expected, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("size", [1.0, 1e-6, 1e-11, 1e-13])
def test_the_norm_of_torchvision(size: float) -> None:
    """torchvision.models.detection.ssd: ``scale_weight * F.normalize(x)``."""
    x = torch.randn(1, 8, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * size
    expected = torch.nn.functional.normalize(x) * 20
    torch.testing.assert_close(normalized("torchvision_ssd300_vgg16", x), expected, rtol=1e-9, atol=0.0)


def normalized(name: str, x: torch.Tensor) -> torch.Tensor:
    """(N, 8, H, W) through the network's L2 normalisation, with the scale that it starts from."""
    staged = NETWORKS[name](name).layers
    assert isinstance(staged, Staged)
    return L2Norm(8, staged.heads.l2norm[0]).double()(x)
