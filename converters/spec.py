"""What a user states about a network whose file does not: a small file, YAML or JSON (``--spec FILE``; docs/spec.md).

    input: {height: 240, width: 320}
    pixels: {order: RGB, mean: 127, std: 128}
    priors:
      clip: centers
      variances: [0.1, 0.2]
      maps: [{step: 8, min_sizes: [10, 16, 24]}, {step: 16, min_sizes: [32, 48]}]
    detection: {activation: softmax, score_threshold: 0.7, nms_threshold: 0.3}
    classes: [background, face]

Every key is optional. Sizes are pixels of the network's input; ``priors.unit: fraction`` takes them as fractions of it.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from ssdconv.errors import FormatError, MissingError
from ssdconv.ssd_ref.box_sizes import caffe_box_sizes
from ssdconv.ssd_ref.config import MAX_SIDE, PriorMap, Resize
from ssdconv.ssd_ref.gate import load_yaml, read_text, reader

Side = Annotated[int, Meta(ge=1, le=MAX_SIDE)]
Positive = Annotated[float, Meta(gt=0)]
Positives = Annotated[tuple[Positive, ...], Meta(min_length=1, max_length=256)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Limit = Annotated[int, Meta(ge=-1)]
PerChannel = float | Annotated[tuple[float, ...], Meta(min_length=1, max_length=3)]
PositivePerChannel = Positive | Annotated[tuple[Positive, ...], Meta(min_length=1, max_length=3)]
Pair = Annotated[tuple[Positive, ...], Meta(min_length=2, max_length=2)]
"""Two numbers. Not ``tuple[Positive, Positive]``: msgspec 0.22 crashes when it collects such a type's garbage."""
Clip = Literal["none", "corners", "centers"]
Variances = (
    Annotated[tuple[Positive, ...], Meta(min_length=1, max_length=4)] | Positive
)  # one for all, (centre, size), or four


class Input(Struct, frozen=True, forbid_unknown_fields=True):
    """Size of the network's input in pixels."""

    height: Side
    width: Side


class SpecPixels(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How an image becomes the input: ``((x / unit) - mean) / std * scale``, fields as in ``config.Preprocess``.

    ``mean`` and ``std`` are one number, or one per channel in ``order``.
    """

    order: Literal["BGR", "RGB", "GRAY"] | UnsetType = UNSET
    mean: PerChannel | UnsetType = UNSET
    std: PositivePerChannel | UnsetType = UNSET
    unit: Positive | UnsetType = UNSET
    scale: float | UnsetType = UNSET
    resize: Resize | UnsetType = UNSET


class SpecMap(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The priors of one feature map: on a grid of ``step``, the boxes of each cell by sizes and ratios or one by one.

    Attributes:
        grid: rows and columns; left out, the input divided by the step, rounded up.
        step: distance of centres, one number or (y, x); left out, the input divided by the grid.
        min_sizes, max_sizes, ratios, flip: as in Caffe's PriorBox: for each minimum its square, the square of
            sqrt(min * max) where there are maxima, then each ratio and, with ``flip``, its inverse.
        boxes: instead of these, (width, height) of each box of a cell.
        clip, offset, variances: for this map only.
    """

    grid: Annotated[tuple[Side, ...], Meta(min_length=2, max_length=2)] | UnsetType = UNSET
    step: Positive | Pair | UnsetType = UNSET
    min_sizes: Positives | UnsetType = UNSET
    max_sizes: Positives | UnsetType = UNSET
    ratios: Annotated[tuple[Positive, ...], Meta(max_length=64)] | UnsetType = UNSET
    flip: bool = True
    boxes: Annotated[tuple[Pair, ...], Meta(min_length=1, max_length=4096)] | UnsetType = UNSET
    clip: Clip | UnsetType = UNSET
    offset: float | UnsetType = UNSET
    variances: Variances | UnsetType = UNSET


class SpecPriors(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The priors of all maps, in the order of the heads.

    Attributes:
        maps: see there; left out, the other keys are for the maps that the network has.
        unit: of sizes, boxes and steps: pixels of the input, or fractions of it (sizes of its shorter side).
        rounding: ``caffe`` cuts sizes to whole pixels, as Caffe's PriorBox does; ``none`` takes them as they are.
        clip: ``corners`` clips boxes to the image (Caffe), ``centers`` clamps cx, cy, w, h (ssd.pytorch).
        offset: of a centre within its cell, in steps (0.5).
        variances: of (x, y, w, h), 0.1, 0.1, 0.2, 0.2; two are of centre and size.
    """

    maps: Annotated[tuple[SpecMap, ...], Meta(min_length=1, max_length=256)] | UnsetType = UNSET
    unit: Literal["pixels", "fraction"] = "pixels"
    rounding: Literal["none", "caffe"] = "none"
    clip: Clip | UnsetType = UNSET
    offset: float | UnsetType = UNSET
    variances: Variances | UnsetType = UNSET


class SpecDetection(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """From heads to detections: what loc holds, then fields of ``config.Postprocess``.

    ``boxes`` ``offsets`` are decoded against the priors; ``corners`` are boxes already, xmin, ymin, xmax, ymax as fractions of
    the image, ``pixel_corners`` the same in pixels of the input: these need no priors. ``background`` is a class' index or "none".
    """

    boxes: Literal["offsets", "corners", "pixel_corners"] | UnsetType = UNSET
    code: Literal["center_size", "corner", "corner_size"] | UnsetType = UNSET
    activation: Literal["softmax", "sigmoid", "none"] | UnsetType = UNSET
    background: Annotated[int, Meta(ge=0)] | Literal["none"] | UnsetType | None = UNSET
    score_threshold: float | UnsetType = UNSET
    score_inclusive: bool | UnsetType = UNSET
    top_k: Limit | UnsetType = UNSET
    top_k_scope: Literal["class", "image"] | UnsetType = UNSET
    nms_threshold: Fraction | UnsetType = UNSET
    nms_inclusive: bool | UnsetType = UNSET
    nms_scope: Literal["class", "image"] | UnsetType = UNSET
    background_competes: bool | UnsetType = UNSET
    nms_eta: Annotated[float, Meta(gt=0, le=1)] | UnsetType = UNSET
    nms_margin: Annotated[float, Meta(ge=0)] | UnsetType = UNSET
    nms_epsilon: Annotated[float, Meta(ge=0)] | UnsetType = UNSET
    max_per_class: Limit | UnsetType = UNSET
    keep_top_k: Limit | UnsetType = UNSET
    clip: Literal["none", "before_nms", "after"] | UnsetType = UNSET
    min_size: Fraction | UnsetType = UNSET
    variance_encoded: bool | UnsetType = UNSET
    max_exponent: float | UnsetType = UNSET


class Spec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Everything that a user may state.

    Attributes:
        classes: names of the conf channels, with or without the background.
        override: keys whose value here wins over what the file states ("pixels.mean", or "pixels" for all of its keys).
    """

    name: str | UnsetType = UNSET
    input: Input | UnsetType = UNSET
    pixels: SpecPixels | UnsetType = UNSET
    priors: SpecPriors | UnsetType = UNSET
    detection: SpecDetection | UnsetType = UNSET
    classes: Annotated[tuple[str, ...], Meta(min_length=1)] | UnsetType = UNSET
    override: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int] | None:
        """Input height and width, None where it is not given."""
        return None if self.input is UNSET else (self.input.height, self.input.width)

    def overrides(self, key: str) -> bool:
        """Whether ``key`` ("pixels.mean") wins over the file."""
        return key in self.override or key.partition(".")[0] in self.override

    def to_plain(self) -> dict[str, Any]:
        """The spec as JSON-ready data, as it was given."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


@reader
def read_spec(path: Path) -> Spec:
    """Read a spec; its name is the file's where it gives none.

    Raises:
        MissingError: no such file.
        FormatError: neither YAML nor JSON, an unknown key, or a value that its key cannot have; the message names it.
    """
    where = str(path)
    if not path.exists():
        raise MissingError(
            "no such spec", where=where, hint="`ssdconv inspect FILE --spec-template` writes one to fill in"
        )
    text = read_text(path, "description", "spec")
    return spec_of(_parse(text, path.suffix, where), where, path.stem)


def _parse(text: str, suffix: str, where: str) -> Any:
    import yaml  # here, because most commands read no spec

    try:
        return json.loads(text) if suffix == ".json" else load_yaml(text, where)
    except RecursionError:
        raise FormatError("nested too deeply", where=where) from None
    except (ValueError, yaml.YAMLError) as error:
        raise FormatError(f"not {'JSON' if suffix == '.json' else 'YAML'}: {error}", where=where) from None


def spec_of(content: Any, where: str = "spec", name: str = "spec") -> Spec:
    """A spec from plain data.

    Raises:
        FormatError: an unknown key, or a value that its key cannot have; the message names it and the nearest key.
    """
    try:
        spec = msgspec.convert({} if content is None else content, Spec)
    except (msgspec.ValidationError, TypeError, RecursionError) as error:
        raise _told(str(error), where) from None
    for key in spec.override:
        if key not in KEYS:
            raise _unknown(key, KEYS, where, "override")
    if (
        spec.priors is not UNSET
        and spec.detection is not UNSET
        and spec.detection.boxes in ("corners", "pixel_corners")
    ):
        raise FormatError(
            "priors and decoded boxes exclude each other", where=where, got=f"detection.boxes {spec.detection.boxes}"
        )
    return spec if spec.name is not UNSET else msgspec.structs.replace(spec, name=name)


def _sections() -> Mapping[str, type[Struct]]:
    return {"input": Input, "pixels": SpecPixels, "priors": SpecPriors, "detection": SpecDetection}


_SECTION_KEYS = ((name, *(f"{name}.{f}" for f in kind.__struct_fields__)) for name, kind in _sections().items())
KEYS = ("classes", *(key for keys in _SECTION_KEYS for key in keys))
"""Keys that ``override`` may name."""


def _told(message: str, where: str) -> FormatError:
    """msgspec's complaint in our words: ``Object contains unknown field `meen` - at `$.pixels```."""
    what, _, place = message.partition(" - at ")
    path = place.strip("`").removeprefix("$").lstrip(".")
    found = re.search(r"unknown field `(.*)`", what)
    if found:
        kind = SpecMap if path.startswith("priors.maps[") else _sections().get(path, Spec)
        return _unknown(found.group(1), kind.__struct_fields__, where, path)
    return FormatError(f"this value cannot be: {what[:1].lower()}{what[1:]}", where=f"{where}, key {path or '(top)'}")


def _unknown(key: str, known: tuple[str, ...], where: str, path: str) -> FormatError:
    near = difflib.get_close_matches(key, known, 1, 0.5)
    everywhere = [k for k in KEYS if k.rpartition(".")[2] == key]
    hint = f"did you mean {near[0]!r}?" if near else f"it stands under {everywhere[0]!r}" if everywhere else None
    return FormatError(
        f"unknown key {key!r}", where=f"{where}, {path}" if path else where, expected=", ".join(known), hint=hint
    )


def prior_maps(
    priors: SpecPriors, size: tuple[int, int], held: Sequence[PriorMap] = (), where: str = "spec"
) -> tuple[PriorMap, ...]:
    """The maps that a spec describes, for an input of ``size`` (height, width).

    Args:
        held: the network's own maps, which the spec changes where it has no maps.

    Raises:
        FormatError: a map without grid and step, without boxes, or with impossible sizes; no maps at all.
    """
    if priors.maps is UNSET:
        if not held:
            raise FormatError("priors need maps: the network has none of its own", where=f"{where}, priors")
        return tuple(_changed(entry, priors, where) for entry in held)
    return tuple(_map(entry, priors, size, f"{where}, priors.maps[{i}]") for i, entry in enumerate(priors.maps))


def _changed(held: PriorMap, priors: SpecPriors, where: str) -> PriorMap:
    given = {k: getattr(priors, k) for k in ("clip", "offset") if getattr(priors, k) is not UNSET}
    if priors.variances is not UNSET:
        given["variances"] = four(priors.variances, f"{where}, priors")
    return replace(held, **given)


def _map(entry: SpecMap, priors: SpecPriors, size: tuple[int, int], where: str) -> PriorMap:
    unit = (1.0, 1.0) if priors.unit == "pixels" else (float(size[0]), float(size[1]))
    step: tuple[float, float] | None = None
    if entry.step is not UNSET:
        given = entry.step if isinstance(entry.step, tuple) else (entry.step, entry.step)
        step = given[0] * unit[0], given[1] * unit[1]
    if entry.grid is not UNSET:
        grid = entry.grid[0], entry.grid[1]
    elif step is not None:
        grid = int(-(-size[0] // step[0])), int(-(-size[1] // step[1]))
    else:
        raise FormatError("a map needs its grid or its step", where=where)
    made = PriorMap(grid, step or (size[0] / grid[0], size[1] / grid[1]), _cells(entry, priors, size, unit, where))
    own = SpecPriors(clip=entry.clip, offset=entry.offset, variances=entry.variances)
    return _changed(_changed(made, priors, where), own, where)


def _cells(
    entry: SpecMap, priors: SpecPriors, size: tuple[int, int], unit: tuple[float, float], where: str
) -> tuple[tuple[float, float], ...]:
    by_size = [k for k in ("min_sizes", "max_sizes", "ratios") if getattr(entry, k) is not UNSET]
    if (entry.boxes is UNSET) == (entry.min_sizes is UNSET) or (entry.boxes is not UNSET and by_size):
        raise FormatError(
            "a map has either boxes, or min_sizes with max_sizes and ratios where there are any",
            where=where,
            got=", ".join([*(["boxes"] if entry.boxes is not UNSET else []), *by_size]) or "neither",
        )
    if entry.boxes is not UNSET:
        return tuple((width * unit[1], height * unit[0]) for width, height in entry.boxes)
    assert entry.min_sizes is not UNSET
    side = 1.0 if priors.unit == "pixels" else float(min(size))
    highest = () if entry.max_sizes is UNSET else tuple(side * m for m in entry.max_sizes)
    ratios = () if entry.ratios is UNSET else entry.ratios
    try:
        return caffe_box_sizes(
            tuple(side * m for m in entry.min_sizes), highest, ratios, entry.flip, truncate=priors.rounding == "caffe"
        )
    except FormatError as error:
        raise FormatError(error.what, where=where, expected=error.expected, got=error.got) from None


def four(variances: tuple[float, ...] | float, where: str) -> tuple[float, float, float, float]:
    """Variances of (x, y, w, h) from one number, two (centre, size), or four.

    Raises:
        FormatError: three.
    """
    given = variances if isinstance(variances, tuple) else (variances,)
    if len(given) == 3:
        raise FormatError("variances are one number, two (centre, size) or four", where=where, got=given)
    first, second, third, last = given * (4 // len(given)) if len(given) != 2 else (given[0],) * 2 + (given[1],) * 2
    return first, second, third, last
