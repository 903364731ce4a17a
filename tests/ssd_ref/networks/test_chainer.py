"""ChainerCV's networks: typed-out facts; the live framework is compared in tests/parity/oracles/test_chainer.py."""

from __future__ import annotations

import pytest

from ssdconv.errors import UsageError
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.networks.chainer import chainer
from ssdconv.ssd_ref.networks.registry import network


@pytest.mark.parametrize(("name", "priors"), [("ssd300_voc", 8732), ("ssd512_voc", 24564)])
def test_prior_counts_and_json(name: str, priors: int) -> None:
    config = network(name, "chainer")
    assert config.num_priors == priors
    assert SSDConfig.from_json(config.to_json()) == config


def test_sizes_are_not_cut_to_whole_pixels() -> None:
    # multibox_coder.py takes the sizes as given; Caffe's PriorBox makes 35 of 35.84
    assert network("chainer/ssd512_voc").priors[0].box_sizes[0] == pytest.approx((35.84, 35.84))
    assert network("caffe/ssd512_voc").priors[0].box_sizes[0] == (35.0, 35.0)


def test_pixels_rule_and_normalisation() -> None:
    config = network("chainer/ssd300_voc")
    assert (config.pixels.order, config.pixels.mean, config.pixels.resize) == (
        "RGB",
        (123, 117, 104),
        "opencv_linear_float",
    )
    rule = config.detect
    assert (rule.score_threshold, rule.score_inclusive, rule.nms_threshold, rule.nms_inclusive) == (
        0.01,
        True,
        0.45,
        True,
    )
    assert rule.top_k == rule.keep_top_k == rule.max_per_class == -1
    assert (config.staged.heads.l2norm[0].eps, config.staged.heads.l2norm[0].form) == (1e-5, "outside")


def test_presets() -> None:
    assert chainer("ssd300_voc", preset="visualize").detect.score_threshold == 0.6
    with pytest.raises(UsageError, match="no preset 'eval'"):
        chainer("ssd300_voc", preset="eval")
