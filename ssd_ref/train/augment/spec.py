"""Augmentation as data: the stages of a recipe in its own order, with probabilities and ranges. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Stage = Literal["photometric", "expand", "crop", "flip", "resize"]
Interpolation = Literal["linear", "area", "nearest", "cubic", "lanczos4"]


@dataclass(frozen=True)
class Photometric:
    """Colour changes on 0..255 pixels, each with its own probability.

    Attributes:
        brightness: added, drawn from ±this.
        contrast, saturation: factors drawn from the range.
        hue: added to the hue in degrees, drawn from ±this (OpenCV's half-degree scale for ``hue_unit`` ``half_degrees``).
        probability: of each change.
        orders: one of these orders is drawn per image, all alike.
        channel_shuffle: probability that the channels are permuted at the end (ssd.pytorch).
        hue_unit: scale of ``hue``.
    """

    brightness: float = 32.0
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = 18.0
    probability: float = 0.5
    orders: tuple[tuple[str, ...], ...] = (
        ("brightness", "contrast", "saturation", "hue"),
        ("brightness", "saturation", "hue", "contrast"),
    )
    channel_shuffle: float = 0.0
    hue_unit: Literal["degrees", "half_degrees"] = "half_degrees"


@dataclass(frozen=True)
class Expand:
    """Zoom out: the image is placed at random on a larger canvas.

    Attributes:
        probability: of doing it.
        ratio: range of the canvas' side over the image's.
        fill: of the canvas: the pixels' mean, the mean truncated to bytes, or 0.
    """

    probability: float = 0.5
    ratio: tuple[float, float] = (1.0, 4.0)
    fill: Literal["mean", "mean_uint8", "zero"] = "mean"


@dataclass(frozen=True)
class CropSampler:
    """One way to crop: min and max IoU with the objects, None for no limit."""

    min_iou: float | None = None
    max_iou: float | None = None


@dataclass(frozen=True)
class Crop:
    """Random crop under an overlap constraint.

    Attributes:
        probability: of trying at all.
        samplers: the constrained ways.
        whole: whether the uncropped image is one of the choices.
        unconstrained: whether a crop without any constraint is one of the choices.
        choice: ``found``: every sampler is tried and one of the crops found is drawn (Caffe); ``mode``: one sampler is drawn,
            then tried until it succeeds (the others).
        meets: whether ``any`` object must meet the limits (Caffe), ``all`` (GluonCV, ChainerCV), or ``never`` rejects
            (ssd.pytorch, whose test can never be true).
        trials: per sampler.
        scale: range of the crop's size (of area's root or of each side, see ``shape``).
        aspect: range of width over height.
        shape: ``scale_aspect``: w = s·sqrt(a), h = s/sqrt(a) of the unit square (Caffe, clipped to it); ``sides``: both
            sides drawn from ``scale``, rejected when their aspect is outside (ssd.pytorch).
    """

    probability: float = 1.0
    samplers: tuple[CropSampler, ...] = (
        CropSampler(0.1),
        CropSampler(0.3),
        CropSampler(0.5),
        CropSampler(0.7),
        CropSampler(0.9),
        CropSampler(max_iou=1.0),
    )
    whole: bool = True
    unconstrained: bool = False
    choice: Literal["found", "mode"] = "found"
    meets: Literal["any", "all", "never"] = "any"
    trials: int = 50
    scale: tuple[float, float] = (0.3, 1.0)
    aspect: tuple[float, float] = (0.5, 2.0)
    shape: Literal["scale_aspect", "sides"] = "scale_aspect"


@dataclass(frozen=True)
class AugmentSpec:
    """The stages of a recipe in its own order; a stage that is None is not done.

    Attributes:
        stages: order of execution.
        flip: probability of mirroring.
        interpolations: one is drawn per image for the resize to the network's size.
        jpeg: re-encode to JPEG (quality 95) after distort, expand and crop, as Caffe does.
        keep: which objects survive a crop (centre inside, in all sources).
    """

    stages: tuple[Stage, ...] = ("photometric", "expand", "crop", "resize", "flip")
    photometric: Photometric | None = field(default_factory=Photometric)
    expand: Expand | None = field(default_factory=Expand)
    crop: Crop | None = field(default_factory=Crop)
    flip: float = 0.5
    interpolations: tuple[Interpolation, ...] = ("linear", "area", "nearest", "cubic", "lanczos4")
    jpeg: bool = False
    keep: Literal["centre"] = "centre"
