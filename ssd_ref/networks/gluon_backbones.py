"""GluonCV's classification networks as backbones, by GluonCV's names (gluoncv/model_zoo/model_zoo.py), without their classifiers.

Each is the whole feature extractor; a detector that taps earlier uses the first part of it.
"""

from __future__ import annotations

import difflib

from ssdconv.errors import UsageError
from ssdconv.ssd_ref.backbones.resnet_shape import BLOCKS
from ssdconv.ssd_ref.config import Backbone

MULTIPLIERS = (1.0, 0.75, 0.5, 0.25)
VERSIONS = {"v1": (18, 34, 50, 101, 152), "v1b": (18, 34, 50, 101, 152), "v1s": (50, 101, 152), "v2": tuple(BLOCKS)}
"""ResNet version -> depths that GluonCV has."""

BACKBONES: dict[str, Backbone] = {
    "vgg16_atrous": Backbone("vgg16", ("conv4_3", "fc7"), {"input_scale": True}),
    **{
        f"resnet{depth}_{version}": Backbone("resnet", ("stage4",), {"depth": depth, "version": version})
        for version, depths in VERSIONS.items()
        for depth in depths
    },
    **{
        f"mobilenet{multiplier}": Backbone(
            "mobilenet_v1", ("conv13",), {"multiplier": multiplier, "norm": {"eps": 1e-5}}
        )
        for multiplier in MULTIPLIERS
    },
}
"""Name -> backbone."""


def backbone(name: str) -> Backbone:
    """The backbone of that name.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    if name not in BACKBONES:
        close = difflib.get_close_matches(name, BACKBONES, 1)
        raise UsageError(
            f"no backbone {name!r} of GluonCV is known here",
            expected=f"one of {', '.join(BACKBONES)}",
            hint=f"did you mean {close[0]!r}?" if close else None,
        )
    return BACKBONES[name]
