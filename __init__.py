"""ssdconv: old SSD weights in, a PyTorch SSD out, with the proof that it is the same network.

The public names are loaded on first use, so that ``import ssdconv`` does not import torch.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssdconv.converters.convert import convert
    from ssdconv.zoo import load

__version__ = "0.1.0"
__all__ = ["__version__", "convert", "load"]

# OpenCV takes its limits when it is loaded: a small file may not claim billions of pixels (ssd_ref.gate.MAX_PIXELS).
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 27))

_HOMES = {
    "convert": "ssdconv.converters.convert",
    "load": "ssdconv.zoo",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ssdconv' has no attribute {name!r}")
