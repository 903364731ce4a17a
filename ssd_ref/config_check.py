"""What a config may say at all: bounds of every number, whoever made it. Whether heads and priors fit is the network's own check.

The bounds are far outside anything that was ever trained and far inside what costs memory or time to refuse later.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ssdconv.errors import FormatError

if TYPE_CHECKING:
    from ssdconv.ssd_ref.config import LayerSpec, SSDConfig

MAX_CLASSES = 100_000
MAX_SIDE = 16_384
"""Pixels of an input's side."""
MAX_PRIORS = 20_000_000
MAX_LAYERS = 100_000
MAX_NUMBERS = 1 << 33
"""Numbers in one tensor."""
MAX_COUNT = 1 << 20
"""Channels, kernel sides, strides, pads, dilations, groups of a layer."""
COUNTS = frozenset(
    [
        "num_output",
        "kernel_size",
        "kernel_h",
        "kernel_w",
        "pad",
        "pad_h",
        "pad_w",
        "stride",
        "stride_h",
        "stride_w",
        "dilation",
        "group",
        "local_size",
        "tiles",
        "out_channels",
        "kernel",
        "padding",
        "groups",
    ]
)
POSITIVE = COUNTS - {"pad", "pad_h", "pad_w", "padding", "kernel_h", "kernel_w", "stride_h", "stride_w"}


def check(config: SSDConfig) -> None:
    """Refuse a config with a number that no network has.

    Raises:
        FormatError: names the field, what it may be and what it is.
    """
    where = config.name
    _within(where, "num_classes", config.num_classes, 1, MAX_CLASSES)
    for name, side in zip(("height", "width"), config.pixels.size, strict=True):
        _within(where, f"pixels.size ({name})", side, 1, MAX_SIDE)
    _check_pixels(where, config)
    _check_priors(where, config)
    detect = config.detect
    if detect.background is not None:
        _within(where, "detect.background", detect.background, -1, config.num_classes)
    for field in ("score_threshold", "nms_threshold", "nms_eta", "min_size", "nms_margin", "nms_epsilon"):
        _finite(where, f"detect.{field}", getattr(detect, field))
    for field in ("top_k", "max_per_class", "keep_top_k"):
        _within(where, f"detect.{field}", getattr(detect, field), -1, 1 << 31)
    for field, value in _numbers(config):
        if isinstance(value, float):
            _finite(where, field, value)
        elif field.rpartition(".")[2] in COUNTS:
            _within(where, field, value, 1 if field.rpartition(".")[2] in POSITIVE else 0, MAX_COUNT)
    for layer in config.graph.layers if config.graph is not None else ():
        _check_layer(where, layer)


def _check_pixels(where: str, config: SSDConfig) -> None:
    pixels = config.pixels
    for field in ("unit", "scale"):
        value = getattr(pixels, field)
        _finite(where, f"pixels.{field}", value)
        if value == 0:
            raise _wrong(where, f"pixels.{field}", "other than 0", value)
    for field in ("mean", "std"):
        for value in getattr(pixels, field):
            _finite(where, f"pixels.{field}", value)
            if field == "std" and value == 0:
                raise _wrong(where, "pixels.std", "other than 0", value)


def _check_priors(where: str, config: SSDConfig) -> None:
    total = 0
    for i, found in enumerate(config.priors):
        at = f"priors[{i}]"
        for side in found.grid:
            _within(where, f"{at}.grid", side, 1, MAX_SIDE)
        for step in found.step:
            if not (math.isfinite(step) and step > 0):
                raise _wrong(where, f"{at}.step", "a positive number", step)
        for value in (v for v in found.variances if not (math.isfinite(v) and v > 0)):
            raise _wrong(where, f"{at}.variances", "positive numbers", value)
        for cell in found.cells:
            for length in cell:
                if not (math.isfinite(length) and 0 <= length <= 1e6):
                    raise _wrong(where, f"{at}.cells", "from 0 to 1,000,000 pixels", length)
        total += found.grid[0] * found.grid[1] * len(found.cells)
    if total > MAX_PRIORS:
        raise _wrong(where, "priors", f"at most {MAX_PRIORS:,}", total)


def _check_layer(where: str, layer: LayerSpec) -> None:
    for shape in layer.blobs:
        if any(side < 0 for side in shape) or math.prod(shape) > MAX_NUMBERS:
            raise _wrong(where, f"layer {layer.name!r}, blobs", f"at most {MAX_NUMBERS:,} numbers", shape)


def _numbers(config: SSDConfig) -> Iterator[tuple[str, float | int]]:
    """Every number of the layers with the path of its field."""
    if config.graph is not None:
        if len(config.graph.layers) > MAX_LAYERS:
            raise _wrong(config.name, "graph.layers", f"at most {MAX_LAYERS:,}", len(config.graph.layers))
        for layer in config.graph.layers:
            yield from _inside(layer.params, f"layer {layer.name!r}, ")
    if config.staged is not None:
        import msgspec

        yield from _inside(msgspec.to_builtins(config.staged), "staged.")


def _inside(value: Any, path: str) -> Iterator[tuple[str, float | int]]:
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _inside(entry, f"{path}{key}" if path.endswith((".", " ")) else f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _inside(entry, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


def _finite(where: str, field: str, value: float) -> None:
    if not math.isfinite(value):
        raise _wrong(where, field, "a finite number", value)


def _within(where: str, field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise _wrong(where, field, f"{low:,} to {high:,}", value)


def _wrong(where: str, field: str, expected: str, got: object) -> FormatError:
    return FormatError(f"no network has this {field}", where=where, expected=expected, got=got)
