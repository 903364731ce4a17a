"""Networks with fewer channels: the same layers, priors and rules, small enough to try things out on."""

from __future__ import annotations

from dataclasses import replace

from ssdconv.ssd_ref.config import SSDConfig

WIDTHS = ("vgg16", "keras_resnet50")
"""Backbones whose ``width``, 64 in the published networks, can be chosen."""


def narrowed(config: SSDConfig, width: int = 4) -> SSDConfig:
    """``config`` with ``width`` channels where the first stage has 64, extra layers alike; as it is where it has no such option."""
    staged = config.staged
    if staged is None or staged.backbone.kind not in WIDTHS:
        return config
    stages = tuple(
        tuple(replace(c, out_channels=max(c.out_channels * width // 64, 1)) for c in stage)
        for stage in staged.extras.stages
    )
    backbone = replace(staged.backbone, options={**staged.backbone.options, "width": width})
    return replace(config, staged=replace(staged, backbone=backbone, extras=replace(staged.extras, stages=stages)))
