"""Every source's augmentation to the letter, for its recipe: one column per source.

Files read: Caffe ``examples/ssd/ssd_pascal.py``, ``src/caffe/util/{sampler,im_transforms}.cpp``, ``data_transformer.cpp``;
ChainerCV ``links/model/ssd/transforms.py``; GluonCV ``data/transforms/presets/ssd.py`` and ``experimental/``; ssd.pytorch
``utils/augmentations.py``; simple-ssd ``lib/augmentations.py``; SSD.TensorFlow ``preprocessing/ssd_preprocessing.py``;
SSD-Keras_Tensorflow (jedol) ``lib/sample/``; ssd_keras ``data_generator/``; torchvision ``references/detection/transforms.py``.

**Every field is written out for every source**, also where it is what another source does: a value that is taken over unsaid is a
fault until it is measured. ``tools/augmentation.json`` tells which of them samples of the original code bear out.

What no field says: of SSD.TensorFlow's four orders of colour changes the first puts brightness first, the others saturation, and
there is neither contrast nor hue. jedol's brightness and hue stand in its source, but their branches test ``0 > beta >= 1`` and never
run. simple-ssd crops first, then colours, then expands; no object need stay, so that a tenth of the samples have none. torchvision's
brightness is a factor of 0.875 to 1.125; here ±32 are added.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ssdconv.train.augment.spec import AugmentSpec, CropSampler, Expand, Photometric, RandomCrop, Retry

_FIVE = ("linear", "area", "nearest", "cubic", "lanczos4")
_LINEAR = ("linear",)
_BOTH = (("brightness", "contrast", "saturation", "hue"), ("brightness", "saturation", "hue", "contrast"))
_HUE_LAST_BUT_ONE = (("brightness", "contrast", "hue", "saturation"),)
_TF = (("brightness", "saturation"), *[("saturation", "brightness")] * 3)
_NO_HUE = (("contrast", "saturation"), ("saturation", "contrast"))
_RESIZED = ("photometric", "expand", "crop", "resize", "flip")
_FLIPPED = ("photometric", "expand", "crop", "flip", "resize")
_CROP_FIRST = ("crop", "photometric", "expand", "flip", "resize")
_LIMITS = tuple(CropSampler(limit) for limit in (0.1, 0.3, 0.5, 0.7, 0.9))
_AND_MAX = (*_LIMITS, CropSampler(max_iou=1.0))
_NO_HALF = (_LIMITS[0], _LIMITS[1], _LIMITS[3], _LIMITS[4])
_WIDE, _TF_WIDE, _SCALE, _TF_SCALE = (1.0, 4.0), (1.1, 4.0), (0.3, 1.0), (0.3, 0.999)
_RETRY = Retry(attempts=2, min_area=64.0, max_area=0.96, min_side=5.0)
_Table = dict[str, tuple[Any, ...]]

# fmt: off
_NAMES = ("caffe", "chainer", "gluon", "ssd.pytorch", "simple-ssd", "tensorflow", "keras", "ssd_keras", "torchvision")
_WHOLE: _Table = {
    "stages": (_RESIZED, _RESIZED, _RESIZED, _FLIPPED, _CROP_FIRST, _FLIPPED, _RESIZED, _FLIPPED, _FLIPPED),
    "flip": (0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5),
    "interpolations": (_FIVE, _FIVE, _FIVE, _LINEAR, _LINEAR, ("tf1_linear",), _FIVE, _FIVE, _LINEAR),
    "jpeg": (True, False, False, False, False, False, False, False, False),
    "precision": ("uint8", "float32", "float32", "float32", "uint8", "float32", "uint8", "uint8", "uint8"),
    "rounded": (False, False, False, False, False, True, False, False, False),
    "retry": (None, None, None, None, None, _RETRY, None, None, None),
    "inclusive": (False, False, False, False, False, True, False, False, False),
}
_PHOTOMETRIC: _Table = {
    "brightness": (32.0, 32.0, 32.0, 32.0, 32.0, 32.0, 32.0, 32.0, 32.0),
    "contrast": ((0.5, 1.5),) * 9,
    "saturation": ((0.5, 1.5),) * 9,
    "hue": (18.0, 18.0, 18.0, 18.0, 18.0, 18.0, 18.0, 18.0, 18.0),
    "probability": (0.5, 0.5, 0.5, 0.5, 0.5, 1.0, 0.5, 0.5, 0.5),
    "orders": (_BOTH, _BOTH, _BOTH, _BOTH, _HUE_LAST_BUT_ONE, _TF, _NO_HUE, _BOTH, _BOTH),
    "channel_shuffle": (0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.5),
    "hue_unit": (*["half_degrees"] * 3, "degrees", *["half_degrees"] * 4, "degrees"),
    "space": ("hsv", "hsv", "yiq", "hsv", "hsv", "hsv", "hsv", "hsv", "hsv"),
    "arithmetic": ("round", "truncate", "float", "float", "truncate", "float", "truncate", "round", "round"),
    "visits": ("each", "each", "each", "each", "once", "each", "each", "each", "each"),
    "hue_edge": ("saturate", "wrap", "wrap", "wrap", "wrap", "saturate", "saturate", "wrap", "saturate"),
    "hue_step": (False, True, False, False, True, False, False, False, False),
    "clip": (False, False, False, False, False, True, False, False, False),
    "pivot": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 127.5, 0.0),
}
_EXPAND: _Table = {
    "probability": (0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5),
    "ratio": (_WIDE, _WIDE, _WIDE, _WIDE, _WIDE, _TF_WIDE, _WIDE, _WIDE, _WIDE),
    "fill": ("mean", "mean", "mean", "mean", "mean", "mean", "mean_uint8", "mean", "mean"),
    "offsets": ("real", "whole", "whole", "uncut", "whole", "real", "whole", "real", "real"),
}
_CROP: _Table = {
    "probability": (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    "samplers": (_AND_MAX, _AND_MAX, _AND_MAX, _NO_HALF, _NO_HALF, _LIMITS, _AND_MAX, _LIMITS, _LIMITS),
    "whole": (True, True, True, True, True, True, True, True, True),
    "unconstrained": (False, False, False, True, True, True, False, True, True),
    "choice": ("found", "found", "found", "mode", "mode", "mode", "found", "mode", "mode"),
    "meets": ("any", "all", "all", "never", "all", "inside", "any", "any", "any_inside"),
    "trials": (50, 50, 50, 50, 50, 50, 50, 50, 40),
    "scale": (_SCALE, _SCALE, _SCALE, _SCALE, _SCALE, _TF_SCALE, _SCALE, _SCALE, _SCALE),
    "aspect": ((0.5, 2.0),) * 9,
    "shape": (*["scale_aspect"] * 3, "sides", "whole_sides", "sides", "scale_aspect", "sides", "sides"),
    "limit": ("clip", "draw", "draw", "clip", "clip", "clip", "none", "clip", "clip"),
    "offsets": ("real", "whole", "whole", "one", "whole", "whole", "real", "real", "real"),
    "boxes": ("fractions", "pixels", "pixels", "pixels", "pixels", "pixels", "pixels", "pixels", "pixels"),
    "edge": ("closed", "half_open", "half_open", "open", "open", "open", "closed", "closed", "open"),
    "needs_object": ("no", "no", "choice", "trial", "no", "trial", "no", "no", "trial"),
    "clip_boxes": (True, True, True, True, True, True, True, False, True),
    "empty": ("whole", "whole", "crop", "whole", "whole", "whole", "whole", "whole", "whole"),
    "exhausted": ("whole", "whole", "whole", "again", "again", "last", "whole", "again", "again"),
}
# fmt: on


def _column(table: _Table, place: int) -> dict[str, Any]:
    return {field: row[place] for field, row in table.items()}


SOURCES = {
    name: AugmentSpec(
        photometric=Photometric(**_column(_PHOTOMETRIC, place)),
        expand=Expand(**_column(_EXPAND, place)),
        crop=RandomCrop(**_column(_CROP, place)),
        **_column(_WHOLE, place),
    )
    for place, name in enumerate(_NAMES)
}
"""By the name of the recipe."""

CAFFE, CHAINER, GLUON, SSD_PYTORCH, SIMPLE_SSD, TENSORFLOW, JEDOL, SSD_KERAS, TORCHVISION = SOURCES.values()

JEDOL_RESNET = replace(JEDOL, expand=Expand(probability=0.5, ratio=(1.0, 4.0), fill="zero", offsets="whole"))
"""jedol's ResNet50 starts from unnormalised pixels, and pads with black."""
SOURCES["keras-resnet50"] = JEDOL_RESNET
