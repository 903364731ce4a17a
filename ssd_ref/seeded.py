"""Seeded weights that behave like trained ones: for parity at full size without any download.

Convolutions are scaled by fan-in (He et al., arXiv:1502.01852), so that activations neither die nor blow up over the depth;
the first layer takes the pixel range away; L2 scales spread around 10 as trained ones do; batch statistics vary, and
head outputs are small enough for the box decoder's exp.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.model import reference_shapes

Array = npt.NDArray[np.float32]


def seeded_tensors(config: SSDConfig, seed: int = 0) -> dict[str, Array]:
    """Reference tensors of a staged or graph config; the same for the same seed on every machine.

    Each tensor has its own generator, seeded by the seed and its name, so that one tensor does not depend on the others.
    """
    shapes = reference_shapes(config)
    pixel_range = 255.0 / config.pixels.unit * config.pixels.scale / min(config.pixels.std) / 3
    return {
        name: _tensor(name, shape, _generator(seed, name), pixel_range if index == 0 else 1.0, shapes)
        for index, (name, shape) in enumerate(shapes.items())
    }


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")])


def _tensor(
    name: str, shape: tuple[int, ...], rng: np.random.Generator, input_range: float, shapes: Mapping[str, Any]
) -> Array:
    kind = name.rsplit(".", 1)[-1]
    loc, conf = ".loc." in name or "_loc" in name, ".conf." in name or "_conf" in name
    if kind == "factor":
        values: npt.NDArray[Any] = np.full(shape, 999.98236)
    elif kind == "scale" and len(shape) == 4:
        values = 255 * np.array([0.229, 0.224, 0.225]).reshape(shape)
    elif kind in ("variance", "running_var"):
        values = rng.uniform(0.5, 1.5, shape) * (999.98236 if kind == "variance" else 1.0)
    elif kind in ("mean", "running_mean"):
        values = rng.normal(0.0, 0.1, shape) * (999.98236 if kind == "mean" else 1.0)
    elif kind == "bias":
        values = rng.normal(0.0, 0.05, shape)
    elif len(shape) == 1:
        l2 = "norm" in name and re.search(r"\.norm\d*\.", name) is None
        values = rng.uniform(4.0, 16.0, shape) if l2 else rng.uniform(0.7, 1.3, shape)
    else:
        fan_in = int(np.prod(shape[1:]))
        gain = np.sqrt((1.0 if loc or conf else 2.0) / fan_in) / input_range
        values = rng.normal(0.0, gain * (0.3 if loc else 1.0), shape)
    return values.astype(np.float32)
