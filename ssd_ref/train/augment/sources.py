"""Each source's augmentation to the letter, for its recipe.

Files read: Caffe ``examples/ssd/ssd_pascal.py``, ``src/caffe/util/{sampler,im_transforms}.cpp``, ``data_transformer.cpp``;
ChainerCV ``links/model/ssd/transforms.py``; GluonCV ``data/transforms/presets/ssd.py`` and ``experimental/``; ssd.pytorch
``utils/augmentations.py``; SSD.TensorFlow ``preprocessing/ssd_preprocessing.py``; SSD-Keras_Tensorflow (jedol)
``lib/sample/``; ssd_keras ``data_generator/``; torchvision ``references/detection/transforms.py``.
"""

from __future__ import annotations

from dataclasses import replace

from ssdconv.ssd_ref.train.augment.spec import AugmentSpec, Crop, CropSampler, Expand, Photometric, Retry, Stage

_FLIP_FIRST: tuple[Stage, ...] = ("photometric", "expand", "crop", "flip", "resize")


def _at_least(*limits: float) -> tuple[CropSampler, ...]:
    return tuple(CropSampler(limit) for limit in limits)


CAFFE = AugmentSpec(jpeg=True)

CHAINER = AugmentSpec(
    photometric=Photometric(arithmetic="truncate", hue_edge="wrap", hue_step=True),
    expand=Expand(offsets="whole"),
    crop=Crop(meets="all", limit="draw", offsets="whole", boxes="pixels", edge="half_open"),
    precision="float32",
)

GLUON = replace(
    CHAINER,
    photometric=Photometric(space="yiq", arithmetic="float", hue_edge="wrap"),
    crop=Crop(
        meets="all",
        limit="draw",
        offsets="whole",
        boxes="pixels",
        edge="half_open",
        needs_object="choice",
        empty="crop",
    ),
)

SSD_PYTORCH = AugmentSpec(
    stages=_FLIP_FIRST,
    photometric=Photometric(channel_shuffle=0.5, hue_unit="degrees", arithmetic="float", hue_edge="wrap"),
    crop=Crop(
        samplers=_at_least(0.1, 0.3, 0.7, 0.9),
        unconstrained=True,
        choice="mode",
        meets="never",
        shape="sides",
        offsets="one",
        boxes="pixels",
        edge="open",
        needs_object="trial",
        exhausted="again",
    ),
    interpolations=("linear",),
    precision="float32",
)

TENSORFLOW = AugmentSpec(
    stages=_FLIP_FIRST,
    photometric=Photometric(
        probability=1.0,
        orders=(("brightness", "saturation"), *(("saturation", "brightness"),) * 3),
        arithmetic="float",
        clip=True,
    ),
    expand=Expand(ratio=(1.1, 4.0)),
    crop=Crop(
        samplers=_at_least(0.1, 0.3, 0.5, 0.7, 0.9),
        unconstrained=True,
        choice="mode",
        meets="inside",
        scale=(0.3, 0.999),
        shape="sides",
        offsets="whole",
        boxes="pixels",
        edge="open",
        needs_object="trial",
        exhausted="last",
    ),
    interpolations=("tf1_linear",),
    precision="float32",
    rounded=True,
    retry=Retry(),
    inclusive=True,
)
"""Of four orders of colour changes the first puts brightness first, the others saturation; neither contrast nor hue."""

JEDOL = AugmentSpec(
    photometric=Photometric(orders=(("contrast", "saturation"), ("saturation", "contrast")), arithmetic="truncate"),
    expand=Expand(fill="mean_uint8", offsets="whole"),
    crop=Crop(limit="none", boxes="pixels"),
)
"""Brightness and hue stand in the source, but their branches test ``0 > beta >= 1`` and never run."""

SSD_KERAS = AugmentSpec(
    stages=_FLIP_FIRST,
    photometric=Photometric(hue_edge="wrap", pivot=127.5),
    crop=Crop(
        samplers=_at_least(0.1, 0.3, 0.5, 0.7, 0.9),
        unconstrained=True,
        choice="mode",
        shape="sides",
        boxes="pixels",
        clip_boxes=False,
        exhausted="again",
    ),
)

TORCHVISION_CROP = Crop(
    samplers=_at_least(0.1, 0.3, 0.5, 0.7, 0.9),
    unconstrained=True,
    choice="mode",
    meets="any_inside",
    trials=40,
    shape="sides",
    boxes="pixels",
    edge="open",
    needs_object="trial",
    exhausted="again",
)

SOURCES = {
    "caffe": CAFFE,
    "chainer": CHAINER,
    "gluon": GLUON,
    "ssd.pytorch": SSD_PYTORCH,
    "tensorflow": TENSORFLOW,
    "keras": JEDOL,
    "ssd_keras": SSD_KERAS,
}
"""By the name of the recipe."""
