"""Named backbones: ``kind`` of ``config.Backbone`` -> builder returning a ``Tapped``-like module."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ssdconv.errors import FormatError
from ssdconv.ssd_ref.config import Backbone

if TYPE_CHECKING:
    from torch import nn

KINDS = {
    "vgg16": ("sequential", "vgg16"),
    "mobilenet_v1": ("sequential", "mobilenet_v1"),
    "resnet": ("resnet", "resnet"),
    "keras_resnet50": ("sequential", "keras_resnet50"),
    "ssd7": ("sequential", "ssd7"),
    "aizoo": ("sequential", "aizoo"),
}
"""kind -> (module, function); the function takes ``out_indices`` and the config's options, and the module that it returns
has ``channels`` (one per tap) and maps (N, 3, H, W) to a list of feature maps."""


def build_backbone(spec: Backbone) -> nn.Module:
    """Build the backbone that ``spec`` names."""
    if spec.kind not in KINDS:
        raise FormatError(f"no backbone {spec.kind!r}", expected=f"one of {', '.join(KINDS)}")
    module, function = KINDS[spec.kind]
    built: nn.Module = getattr(import_module(f"{__name__}.{module}"), function)(spec.out_indices, **spec.options)
    return built
