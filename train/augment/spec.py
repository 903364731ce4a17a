"""Augmentation as data: a recipe's stages in its own order, and the plan that is drawn from them. Nothing here imports torch.

A plan is what augmentation does to one image, drawn before a pixel is touched: a function of (spec, image size, objects, random
numbers) alone. The faithful and the fast way carry out the same plan, so that boxes are the same and pixels can be laid side by
side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Stage = Literal["photometric", "expand", "crop", "flip", "resize"]
Interpolation = Literal["linear", "area", "nearest", "cubic", "lanczos4", "tf1_linear"]
"""OpenCV's by name; ``tf1_linear`` is TensorFlow 1's bilinear grid without half-pixel centres."""


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
        space: where saturation and hue live: OpenCV's ``hsv``, or GluonCV's ``yiq``, whose hue is an angle of ``hue`` times pi
            radians drawn from ±, that is any angle at all.
        arithmetic: bytes rounded after every change (``round``, Caffe, in float32), bytes cut off (``truncate``: ChainerCV,
            jedol, simple-ssd, in float64), or ``float`` without limits in between (ssd.pytorch, GluonCV, SSD.TensorFlow).
        visits: to HSV, with bytes: ``each`` for saturation and for hue, where drawn (Caffe, ChainerCV), or ``once`` for both
            and for every image, also where neither is drawn, which alters a third of the pixels (simple-ssd).
        hue_edge: whether a hue beyond the scale goes round (``wrap``) or stays at the edge of the bytes (``saturate``, Caffe).
        hue_step: the hue's change is a whole number (ChainerCV).
        clip: pixels are limited to 0..255, and saturation to its range, with ``float`` too (SSD.TensorFlow).
        pivot: the value that contrast leaves as it is (ssd_keras: 127.5).
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
    space: Literal["hsv", "yiq"] = "hsv"
    arithmetic: Literal["round", "truncate", "float"] = "round"
    visits: Literal["each", "once"] = "each"
    hue_edge: Literal["wrap", "saturate"] = "saturate"
    hue_step: bool = False
    clip: bool = False
    pivot: float = 0.0


@dataclass(frozen=True)
class Expand:
    """Zoom out: the image is placed at random on a larger canvas.

    Attributes:
        probability: of doing it.
        ratio: range of the canvas' side over the image's.
        fill: of the canvas: the pixels' mean, the mean truncated to bytes, or 0.
        offsets: the free pixels on the left and above: a ``real`` number cut off, so that the last one never comes (Caffe,
            SSD.TensorFlow), a real number of the free space as it was ``uncut``, before the canvas got whole sides, so that the
            last one comes rarely (ssd.pytorch), or every ``whole`` number alike (ChainerCV, GluonCV, simple-ssd, jedol).
    """

    probability: float = 0.5
    ratio: tuple[float, float] = (1.0, 4.0)
    fill: Literal["mean", "mean_uint8", "zero"] = "mean"
    offsets: Literal["real", "uncut", "whole"] = "real"


@dataclass(frozen=True)
class CropSampler:
    """One way to crop: min and max IoU with the objects, None for no limit."""

    min_iou: float | None = None
    max_iou: float | None = None


@dataclass(frozen=True)
class RandomCrop:
    """Random crop under an overlap constraint.

    Attributes:
        probability: of trying at all.
        samplers: the constrained ways.
        whole: whether the uncropped image is one of the choices.
        unconstrained: whether a crop without any constraint is one of the choices.
        choice: ``found``: every sampler is tried and one of the crops found is drawn (Caffe); ``mode``: one sampler is drawn,
            then tried until it succeeds (the others).
        meets: whether ``any`` object must meet the limits (Caffe), ``all`` (GluonCV, ChainerCV), ``inside``: all whose centre is
            inside (SSD.TensorFlow), ``any_inside``: one of those (torchvision), or ``never`` rejects (ssd.pytorch, whose test can never be true).
        trials: per sampler.
        scale: range of the crop's size (of area's root or of each side, see ``shape``).
        aspect: range of width over height.
        shape: ``scale_aspect``: w = s·sqrt(a), h = s/sqrt(a) of the unit square (Caffe, clipped to it); ``sides``: both
            sides drawn from ``scale``, rejected when their aspect is outside (ssd.pytorch); ``whole_sides``: the same with whole
            numbers of pixels below the image's own (simple-ssd).
        limit: how the aspect is kept such that the crop fits: ``clip``: drawn from ``aspect``, then cut to [s², 1/s²] (Caffe);
            ``draw``: drawn from what both ranges share (ChainerCV, GluonCV); ``none``: sides may pass the image's and are cut
            (jedol).
        offsets: where the corner is drawn: ``real`` numbers, ``whole`` pixels without the last one (ChainerCV, GluonCV,
            simple-ssd, SSD.TensorFlow), or ``one``: real from 1 to the free space (ssd.pytorch: numpy's uniform with one argument).
        boxes: objects are moved by the crop in ``pixels`` as cut, or by its exact ``fractions`` (Caffe).
        edge: whether a centre on the crop's edge is inside: ``closed`` (Caffe), ``half_open`` (ChainerCV, GluonCV), ``open``.
        needs_object: whether a crop must keep one: ``no``, ``trial``: one without fails (ssd.pytorch, SSD.TensorFlow),
            ``choice``: one without is not chosen (GluonCV).
        clip_boxes: whether objects are cut at the crop's edge (ssd_keras leaves them whole).
        empty: what happens to an image without objects: ``whole`` it stays, ``crop`` it is cropped at random (GluonCV).
        exhausted: with ``mode``, when no trial succeeds: ``whole`` image, ``again`` with another sampler, without end
            (ssd.pytorch, simple-ssd), or the ``last`` crop with an object, though it breaks its limit (SSD.TensorFlow; only crops with an object count as tried).
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
    meets: Literal["any", "all", "inside", "any_inside", "never"] = "any"
    trials: int = 50
    scale: tuple[float, float] = (0.3, 1.0)
    aspect: tuple[float, float] = (0.5, 2.0)
    shape: Literal["scale_aspect", "sides", "whole_sides"] = "scale_aspect"
    limit: Literal["clip", "draw", "none"] = "clip"
    offsets: Literal["real", "whole", "one"] = "real"
    boxes: Literal["pixels", "fractions"] = "fractions"
    edge: Literal["closed", "half_open", "open"] = "closed"
    needs_object: Literal["no", "trial", "choice"] = "no"
    clip_boxes: bool = True
    empty: Literal["whole", "crop"] = "whole"
    exhausted: Literal["whole", "again", "last"] = "whole"


@dataclass(frozen=True)
class Retry:
    """SSD.TensorFlow's second chance: expand and crop are drawn again while no object is sound, and left out in the end.

    Attributes:
        attempts: how often they are drawn.
        min_area, min_side: a sound object has more than this, in pixels.
        max_area: and less than this part of the image. Unsound objects are dropped.
    """

    attempts: int = 2
    min_area: float = 64.0
    max_area: float = 0.96
    min_side: float = 5.0


@dataclass(frozen=True)
class AugmentSpec:
    """The stages of a recipe in its own order; a stage that is None is not done.

    Attributes:
        stages: order of execution.
        flip: probability of mirroring.
        interpolations: one is drawn per image for the resize to the network's size.
        jpeg: re-encode to JPEG (quality 95) after distort, expand and crop, as Caffe does.
        precision: of the pixels after the photometric stage and until the network's size.
        rounded: whether a ``float32`` image becomes bytes in the end: times 255.5/255 and cut off, as TensorFlow converts.
        retry: see there.
        inclusive: corners name pixels inside the box (SSD.TensorFlow): sides and overlaps count one more, and mirroring maps
            x to width - 1 - x.
    """

    stages: tuple[Stage, ...] = ("photometric", "expand", "crop", "resize", "flip")
    photometric: Photometric | None = field(default_factory=Photometric)
    expand: Expand | None = field(default_factory=Expand)
    crop: RandomCrop | None = field(default_factory=RandomCrop)
    flip: float = 0.5
    interpolations: tuple[Interpolation, ...] = ("linear", "area", "nearest", "cubic", "lanczos4")
    jpeg: bool = False
    precision: Literal["uint8", "float32"] = "uint8"
    rounded: bool = False
    retry: Retry | None = None
    inclusive: bool = False


Boxes = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ColourChange:
    """One photometric change: ``value`` is added (brightness, hue) or multiplied (contrast, saturation); for ``channels``
    it is the new order of the BGR channels.
    """

    kind: Literal["brightness", "contrast", "saturation", "hue", "channels"]
    value: float = 0.0
    order: tuple[int, int, int] = (0, 1, 2)


@dataclass(frozen=True)
class CanvasPlace:
    """The image on a larger canvas: its top left corner, and the canvas' size, in pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class CropWindow:
    """The part that is cut out of what the stages before have left (the canvas, or the image), in pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class AugmentPlan:
    """One image's augmentation.

    Attributes:
        changes: photometric, in order.
        place, window: None where not done.
        crop_first: the window is cut out of the image, and what is cut out is placed.
        flip: mirrored.
        interpolation: of the resize.
        boxes: (g, 4) xyxy of the objects that stay, fractions of the result.
        index: (g,) which objects those are.
    """

    changes: tuple[ColourChange, ...]
    place: CanvasPlace | None
    window: CropWindow | None
    flip: bool
    interpolation: Interpolation
    boxes: Boxes
    index: Indices
    crop_first: bool = False
