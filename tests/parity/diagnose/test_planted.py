"""Faults planted in networks with random weights: the cause that is named is the one that was planted.

Caffe networks run live in OpenCV. For Gluon and Keras networks, whose frameworks take seconds to start, the reference itself stands
in for the source here; the search sees the same recordings either way (live ones: ``test_live.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ssdconv.parity.diagnose.configs import TABLE
from ssdconv.ssd_ref.config import L2NormSpec, SSDConfig

Tensors = dict[str, Any]
Fault = Callable[[SSDConfig, Tensors], tuple[SSDConfig, Tensors]]

SSD300, SSD512, MOBILE_BN = "caffe/ssd300_voc", "caffe/ssd512_voc", "caffe/mobilenet_ssd_voc_bn"
GLUON_MOBILE, GLUON_VGG = "gluon/ssd_300_mobilenet0.25_voc", "gluon/ssd_300_vgg16_atrous_voc"
JEDOL_VGG, JEDOL_RESNET = "keras/jedol_ssd300_vgg16_voc", "keras/jedol_ssd300_resnet50_voc"
CHAINER = "chainer/ssd300_voc"
VARIANCES = np.float32([0.1, 0.1, 0.2, 0.2])
SSD_KERAS = "keras/ssd_keras_ssd300_voc"


def tensors(test: Callable[[str], bool], change: Callable[[Any], Any]) -> Fault:
    """Change every tensor whose name passes the test; none is an error of the test itself."""

    def plant(config: SSDConfig, held: Tensors) -> tuple[SSDConfig, Tensors]:
        hit = [n for n in held if test(n)]
        assert hit
        return config, held | {n: change(held[n]) for n in hit}

    return plant


def one(name: str, change: Callable[[Any], Any]) -> Fault:
    return tensors(lambda n: n == name, change)


def heads(kind: str, change: Callable[[Any], Any], values: int) -> Fault:
    """Change all heads of a kind, seen as (anchors, values, ...)."""
    return tensors(
        lambda n: n.startswith(f"heads.{kind}."),
        lambda a: change(a.reshape(-1, values, *a.shape[1:])).reshape(a.shape),
    )


def options(**values: Any) -> Fault:
    def plant(config: SSDConfig, held: Tensors) -> tuple[SSDConfig, Tensors]:
        backbone = replace(config.staged.backbone, options={**config.staged.backbone.options, **values})
        return replace(config, layers=replace(config.staged, backbone=backbone)), held

    return plant


def extras(test: Callable[[Any], bool], change: Callable[[Any], Any]) -> Fault:
    def plant(config: SSDConfig, held: Tensors) -> tuple[SSDConfig, Tensors]:
        stages = tuple(tuple(change(s) if test(s) else s for s in st) for st in config.staged.extras.stages)
        assert stages != config.staged.extras.stages
        new = replace(config.staged, extras=replace(config.staged.extras, stages=stages))
        return replace(config, layers=new), held

    return plant


def norm(**fields: Any) -> Fault:
    return extras(lambda s: s.norm is not None, lambda s: replace(s, norm=replace(s.norm, **fields)))


def l2norm(spec: L2NormSpec) -> Fault:
    def plant(config: SSDConfig, held: Tensors) -> tuple[SSDConfig, Tensors]:
        return replace(
            config, layers=replace(config.staged, heads=replace(config.staged.heads, l2norm={0: spec}))
        ), held

    return plant


def pixels(**fields: Any) -> Fault:
    return lambda c, t: (replace(c, pixels=replace(c.pixels, **fields)), t)


def rule(**fields: Any) -> Fault:
    return lambda c, t: (replace(c, detect=replace(c.detect, **fields)), t)


def priors(change: Callable[[Any], Any]) -> Fault:
    return lambda c, t: (replace(c, priors=tuple(change(m) for m in c.priors)), t)


def cells_of(name: str) -> Fault:
    from ssdconv.ssd_ref.networks.registry import network

    maps = network(name).priors
    return lambda c, t: (
        replace(c, priors=tuple(replace(m, box_sizes=o.box_sizes) for m, o in zip(c.priors, maps, strict=True))),
        t,
    )


def swapped(a: str, b: str) -> Fault:
    return lambda c, t: (c, t | {f"{x}.{k}": t[f"{y}.{k}"] for x, y in ((a, b), (b, a)) for k in ("weight", "bias")})


def jedol_anchors(array: Any) -> Any:
    return array[[0, 1, 2, 4, 3, 5]] if len(array) == 6 else array


def hwi1(array: Any) -> Any:
    """A depthwise kernel (C, 1, H, W) whose bytes are those of (H, W, C, 1)."""
    return np.ascontiguousarray(array.transpose(2, 3, 0, 1)).reshape(array.shape)


def half(array: Any) -> Any:
    return array.astype(np.float16).astype(np.float32)


CONV1 = "backbone.conv1_1.conv.weight"
CHANNELS = one(CONV1, lambda a: a[:, ::-1])
FROM_20 = one("heads.l2norm.0.weight", lambda a: np.full_like(a, 20))
FC6 = options(fc6_dilation=1)
CLAMP = priors(lambda m: replace(m, clip="centers"))
YX = heads("loc", lambda a: a[:, [1, 0, 3, 2]], 4)
SYMMETRIC = extras(lambda s: s.padding == "same", lambda s: replace(s, padding=1))
EPS = norm(eps=1e-5)
FP16 = tensors(lambda n: True, half)

SINGLE: dict[str, tuple[str, Fault, str]] = {
    "conv1_1 in RGB": (SSD300, CHANNELS, "channel-order"),
    "pool3 rounds down": (SSD300, options(rounding="floor"), "pool-rounding"),
    "fc6 without dilation": (SSD300, FC6, "fc6-dilation"),
    "L2 scale left at 20": (SSD300, FROM_20, "l2norm-init"),
    "conv3_2 transposed": (SSD300, one("backbone.conv3_2.conv.weight", lambda a: a.transpose(0, 1, 3, 2)), "kernel-layout"),
    "biases of conv5_1 lost": (SSD300, one("backbone.conv5_1.conv.bias", np.zeros_like), "biases-dropped"),
    "conv8_1 and conv9_1 exchanged": (SSD300, swapped("extras.conv8_1.conv", "extras.conv9_1.conv"), "layer-swapped"),
    "classes shifted": (SSD300, heads("conf", lambda a: np.roll(a, 1, axis=1), 21), "class-order"),
    "background last": (SSD300, heads("conf", lambda a: np.roll(a, -1, axis=1), 21), "background-position"),
    "COCO's prior sizes": (SSD300, cells_of("caffe/ssd300_coco"), "prior-sizes"),
    "priors clamped": (SSD300, CLAMP, "prior-clip"),
    "variances of 1": (SSD300, priors(lambda m: replace(m, variances=(1.0, 1.0, 1.0, 1.0))), "box-variances"),
    "sigmoid": (SSD300, rule(activation="sigmoid"), "score-activation"),
    "NMS at 0.6": (SSD300, rule(nms_threshold=0.6), "detection-rule"),
    "sizes not truncated": (SSD512, cells_of("chainer/ssd512_voc"), "prior-truncation"),
    "conv10_2 pads 2": (SSD512, extras(lambda s: s.kernel == 4, lambda s: replace(s, padding=2)), "pad-size"),
    "factors not divided by": (MOBILE_BN, tensors(lambda n: n.endswith(".factor"), np.ones_like), "bn-unscaled"),
    "eps of the extra layers": (GLUON_MOBILE, EPS, "bn-eps"),
    "gamma of the extra layers": (GLUON_MOBILE, norm(fix_gamma=False), "fix-gamma"),
    "statistics of conv3 not copied": (
        GLUON_MOBILE, tensors(lambda n: "conv3.norm.running" in n, lambda a: np.full_like(a, a.mean() > 0.5)), "bn-stale"),
    "depthwise kernels as HWI1": (GLUON_MOBILE, tensors(lambda n: "_dw.conv.weight" in n, hwi1), "kernel-layout"),
    "ReLU6": (GLUON_MOBILE, options(activation="relu6"), "activation"),
    "resized by OpenCV": (GLUON_MOBILE, pixels(resize="opencv_linear"), "resize"),
    "mean reversed": (GLUON_MOBILE, pixels(mean=(0.406, 0.456, 0.485), std=(0.225, 0.224, 0.229)), "mean-order"),
    "no deviation": (GLUON_VGG, pixels(std=(1.0, 1.0, 1.0)), "std"),
    "conv2_1 scaled": (GLUON_VGG, one("backbone.conv2_1.conv.weight", lambda a: a * np.float32(1.5)), "scaled-tensor"),
    "SAME taken for symmetric": (JEDOL_VGG, SYMMETRIC, "same-padding"),
    "keras-applications' eps": (JEDOL_RESNET, options(eps=1.001e-5), "bn-eps"),
    "stride in the 3x3": (JEDOL_RESNET, options(stride_in_3x3=True), "stride-place"),
    "pixels in RGB": (JEDOL_VGG, pixels(order="RGB"), "pixel-order"),
    "jedol's anchors": (SSD_KERAS, lambda c, t: heads("conf", jedol_anchors, 21)(*heads("loc", jedol_anchors, 4)(c, t)), "anchor-order"),
    "jedol's priors": (SSD_KERAS, priors(lambda m: replace(m, box_sizes=tuple(map(tuple, jedol_anchors(np.array(m.box_sizes)).tolist())))), "prior-order"),
    "loc as yx": (SSD_KERAS, YX, "loc-order"),
    "half precision": (SSD_KERAS, FP16, "fp16-rounding"),
    "L2 norm of Caffe in ChainerCV's": (CHAINER, l2norm(L2NormSpec(1e-10, "inside")), "l2norm-eps"),
    "the last class is background": (SSD_KERAS, rule(background=20), "background"),
    "pixels of 0..255": (GLUON_MOBILE, pixels(unit=1.0), "scale"),
    "keras-applications' mean": (SSD_KERAS, pixels(mean=(103.939, 116.779, 123.68)), "mean"),
    "steps from the grid": (SSD_KERAS, priors(lambda m: replace(m, step=(300 / m.grid[0],) * 2)), "prior-steps"),
    "variances in the weights": (
        SSD_KERAS, heads("loc", lambda a: (a.reshape(len(a), 4, -1) * VARIANCES[:, None]).reshape(a.shape), 4), "variances"),
    "gammas of conv5 not copied": (GLUON_MOBILE, one("backbone.conv5.norm.weight", np.ones_like), "gamma-fixed"),
    "a damaged tensor": (SSD_KERAS, one("backbone.conv4_2.conv.weight", lambda a: np.sin(a * 1e4)), "corrupted-tensor"),
}  # fmt: skip

PAIRS: dict[str, tuple[str, tuple[Fault, ...], tuple[str, ...]]] = {
    "conv1_1 in RGB, L2 scale at 20": (SSD300, (CHANNELS, FROM_20), ("channel-order", "l2norm-init")),
    "fc6 and clamp": (SSD300, (FC6, CLAMP), ("fc6-dilation", "prior-clip")),
    "one layer transposed and without bias": (
        SSD300,
        (one("backbone.conv3_2.conv.weight", lambda a: a.transpose(0, 1, 3, 2)), one("backbone.conv3_2.conv.bias", np.zeros_like)),
        ("kernel-layout", "biases-dropped")),
    "eps and loc order": (GLUON_MOBILE, (EPS, YX), ("bn-eps", "loc-order")),
    "eps and gamma of one layer": (GLUON_MOBILE, (norm(eps=1e-5, fix_gamma=False),), ("bn-eps", "fix-gamma")),
    "resize and mean": (GLUON_MOBILE, (pixels(resize="pil_bilinear", mean=(0.5, 0.5, 0.5)),), ("mean", "resize")),
    "SAME and mean": (JEDOL_VGG, (SYMMETRIC, pixels(mean=(104.0, 117.0, 123.0))), ("mean", "same-padding")),
    "anchors and classes of one head": (
        SSD_KERAS,
        (heads("conf", lambda a: jedol_anchors(np.roll(a, 1, axis=1)), 21), heads("loc", jedol_anchors, 4)),
        ("anchor-order", "class-order")),
    "transposed and half precision": (
        SSD_KERAS, (one(CONV1, lambda a: a.transpose(0, 1, 3, 2)), FP16), ("fp16-rounding", "kernel-layout")),
    "clamp and variances": (
        SSD_KERAS, (CLAMP, priors(lambda m: replace(m, variances=(1.0, 1.0, 1.0, 1.0)))), ("box-variances", "prior-clip")),
}  # fmt: skip


SLOW = {
    "conv3_2 transposed", "classes shifted", "background last", "variances of 1", "sizes not truncated", "conv10_2 pads 2",
    "statistics of conv3 not copied", "mean reversed", "conv2_1 scaled", "jedol's anchors", "loc as yx", "half precision",
    "keras-applications' mean", "variances in the weights", "gammas of conv5 not copied", "biases of conv5_1 lost",
    "one layer transposed and without bias", "transposed and half precision",
}  # fmt: skip
"""Left to ``make test-all``; what they plant is in another test here or in ``test_tensors``."""


def marked(faults: dict[str, Any]) -> list[Any]:
    return [pytest.param(f, marks=[pytest.mark.slow] if f in SLOW else []) for f in faults]


def test_every_hypothesis_is_planted_once() -> None:
    planted = {cause for _, _, cause in SINGLE.values()} | {c for _, _, causes in PAIRS.values() for c in causes}
    assert planted == set(TABLE)
    assert len([f for f in (*SINGLE, *PAIRS) if f not in SLOW]) >= 28


@pytest.mark.parametrize("fault", marked(SINGLE))
def test_the_planted_cause_is_named(bench: Any, fault: str) -> None:
    name, plant, cause = SINGLE[fault]
    found = bench(name, plant, seed=100 + list(SINGLE).index(fault))
    assert [c.name for c in found.causes] == [cause], (found.causes, found.after, found.trials[-3:])
    assert found.verdict == "explained" and found.after.first_divergent is None and not found.after.tensors_different
    assert found.before.first_divergent == found.first_divergent is not None


@pytest.mark.parametrize("fault", marked(PAIRS))
def test_two_planted_causes_are_named(bench: Any, fault: str) -> None:
    name, plants, causes = PAIRS[fault]
    found = bench(name, *plants, seed=200 + list(PAIRS).index(fault))
    assert sorted(c.name for c in found.causes) == sorted(causes), (found.causes, found.after, found.trials[-3:])
    assert found.verdict == "explained"
