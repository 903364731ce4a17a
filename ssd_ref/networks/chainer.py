"""The networks of ChainerCV 0.13 (chainercv/links/model/ssd): SSD300 and SSD512 on VGG16.

They are Caffe's networks with RGB pixels resized in float, prior sizes that are not cut to whole pixels (35.84 stays 35.84),
another L2 normalisation, and detection without limits. ChainerCV has VOC's prior sizes only, for any class count.
"""

from __future__ import annotations

from ssdconv.errors import UsageError
from ssdconv.ssd_ref.classes import names_for
from ssdconv.ssd_ref.config import L2NormSpec, Postprocess, Preprocess, SSDConfig
from ssdconv.ssd_ref.networks.caffe import SIZES, prior_maps, vgg_staged

MEAN = (123.0, 117.0, 104.0)
"""Subtracted from RGB pixels."""

L2NORM = L2NormSpec(1e-5, "outside")
"""``x / (norm + 1e-5)`` (chainer.functions.normalize)."""

PRESETS = {"evaluate": 0.01, "visualize": 0.6}
"""Score thresholds of ``SSD.use_preset``; ChainerCV starts with ``visualize``, its benchmarks use ``evaluate``."""


def detect_rule(preset: str = "evaluate") -> Postprocess:
    """ChainerCV's rule: score at least the threshold, boxes dropped at IoU 0.45 or more, no limit on their number.

    Raises:
        UsageError: no such preset.
    """
    if preset not in PRESETS:
        raise UsageError(f"no preset {preset!r}", expected=f"one of {', '.join(PRESETS)}")
    return Postprocess(
        score_threshold=PRESETS[preset],
        score_inclusive=True,
        top_k=-1,
        nms_threshold=0.45,
        nms_inclusive=True,
        keep_top_k=-1,
    )


def chainer(name: str, num_classes: int | None = None, *, width: int = 64, preset: str = "evaluate") -> SSDConfig:
    """``ssd300_voc`` or ``ssd512_voc``.

    Args:
        num_classes: conf channels per prior, background included; ChainerCV's ``n_fg_class + 1``. The reference keeps
            background as label 0, so its labels are ChainerCV's plus one.
        width: channels of conv1; 64 is the published network.
        preset: "evaluate" or "visualize".
    """
    size = int(name[3:6])
    count = num_classes or 21
    return SSDConfig(
        name=name,
        source="chainer",
        num_classes=count,
        pixels=Preprocess((size, size), "RGB", MEAN, resize="opencv_linear_float"),
        priors=prior_maps(size, SIZES[name], truncate=False),
        detect=detect_rule(preset),
        class_names=names_for(count),
        layers=vgg_staged(size, width, L2NORM),
    )


NETWORKS = {"ssd300_voc": chainer, "ssd512_voc": chainer}
"""Network name -> builder ``(name, num_classes) -> SSDConfig``."""
