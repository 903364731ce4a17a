"""A spec to fill in: what a file states as comments, what it lacks as keys with the values that are assumed without them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ssdconv.converters.convert import open_source
from ssdconv.converters.plan import Plan, Request
from ssdconv.converters.spec import Input, Spec
from ssdconv.errors import SsdconvError
from ssdconv.ssd_ref.config import DetectRule, Pixels, PriorMap
from ssdconv.ssd_ref.evidence import INDEPENDENT, Link, of_link

GUESS = 300
"""Sides of the input that a template assumes where the file tells none."""
RULE = (
    "activation", "background", "code", "score_threshold", "top_k", "nms_threshold", "keep_top_k", "clip"
)  # fmt: skip
"""Fields of the rule that a template shows; the others are rare and have defaults."""
EXAMPLE = """\
# priors:                          # {count} are needed: one per box of the heads, in their order
#   unit: pixels                   # of sizes and steps; or fraction, of the input
#   rounding: none                 # caffe cuts sizes to whole pixels, as Caffe's PriorBox does
#   clip: none                     # corners (Caffe's clip), centers (ssd.pytorch's clamp)
#   variances: [0.1, 0.2]          # centre, size
#   maps:                          # one per feature map
#     - {{step: 8, min_sizes: [30], max_sizes: [60], ratios: [2]}}   # 30, sqrt(30*60), 2 and 1/2: 4 boxes per cell
#     - {{grid: [19, 19], boxes: [[60, 60], [85, 42]]}}              # or (width, height) of each box of a cell"""


def template(path: Path, prototxt: Path | None = None) -> str:
    """The template for a weight file, as YAML with comments.

    Raises:
        FormatError, MappingError: the file makes no network even with an input size.
    """
    request = Request(prototxt=prototxt)
    try:
        opened = open_source(path, None, request)
    except SsdconvError as error:
        if "input size" not in error.what:
            raise
        guess = Spec(name="template", input=Input(GUESS, GUESS))
        opened = open_source(path, None, Request(prototxt=prototxt, spec=guess))
    with opened.table:
        untold = any(c.link == "architecture" and c.basis == "user" for c in opened.plan.evidence)
        return "\n".join(_lines(path, opened.plan, untold)) + "\n"


def _lines(path: Path, plan: Plan, untold: bool) -> Iterator[str]:
    config = plan.config
    yield f"# What {path.name} does not say. Keys behind a # keep what the file states, or what is taken without them."
    yield f"# {config.name}: {config.num_classes} conf channels, {_boxes(plan):,} boxes. Keys and values: docs/spec.md."
    yield ""
    height, width = config.pixels.size
    stated = "" if untold else "# "
    why = "  # the file tells none: fill it in" if untold else ""
    yield f"{stated}input: {{height: {height}, width: {width}}}{why}"
    yield from _section("pixels", plan, _pixels(config.pixels))
    if config.priors:
        yield from _comment("priors", plan)
        yield "# priors:"
        yield "#   maps:"
        yield from (f"#     - {_prior_map(entry)}" for entry in config.priors)
    else:
        yield ""
        yield "# priors: the file tells none, and without them nothing is detected"
        yield EXAMPLE.format(count=f"{_boxes(plan):,}")
    rule = config.detect
    shown = {name: getattr(rule, name) for name in RULE}
    shown |= {n: v for n in DetectRule.__dataclass_fields__ if (v := getattr(rule, n)) != getattr(DetectRule(), n)}
    shown.pop("share_location", None)
    yield from _section("detection rule", plan, {k: "none" if v is None else v for k, v in shown.items()}, "detection")
    yield from _comment("classes", plan)
    names = config.class_names or tuple(f"class{i}" for i in range(config.num_classes))
    yield f"# classes: [{', '.join(_plain(name) for name in names)}]"
    yield ""
    yield "# override: [pixels.mean]   # keys whose value here wins over what the file states"


def _boxes(plan: Plan) -> int:
    from ssdconv.ssd_ref.model import head_shapes

    return plan.config.num_priors or head_shapes(plan.config)[1][1]


def _section(link: Link, plan: Plan, values: dict[str, Any], name: str = "") -> Iterator[str]:
    yield from _comment(link, plan)
    claims = of_link(plan.evidence, link)
    stated = bool(claims) and all(c.basis in INDEPENDENT for c in claims)
    mark = "# " if stated else ""
    yield f"{mark}{name or link}:"
    yield from (f"{mark}  {key}: {_plain(value)}" for key, value in values.items())


def _comment(link: Link, plan: Plan) -> Iterator[str]:
    yield ""
    for claim in of_link(plan.evidence, link):
        yield f"# {claim}"


def _pixels(pixels: Pixels) -> dict[str, Any]:
    mean, std = (v[0] if len(set(v)) == 1 else v for v in (pixels.mean, pixels.std))
    values = {"order": pixels.order, "mean": mean, "std": std, "unit": pixels.unit, "scale": pixels.scale}
    return values | {"resize": pixels.resize}


def _prior_map(entry: PriorMap) -> str:
    boxes = ", ".join(f"[{w:.9g}, {h:.9g}]" for w, h in entry.cells)
    more = f"offset: {entry.offset:g}, clip: {entry.clip}, variances: {_plain(entry.variances)}"
    step = f"[{entry.step[0]:.9g}, {entry.step[1]:.9g}]"
    return f"{{grid: {_plain(entry.grid)}, step: {step}, boxes: [{boxes}], {more}}}"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        text = f"{value:.9g}"
        return text if "e" not in text or "." in text else text.replace("e", ".0e")  # YAML 1.1 takes 1e-05 for a word
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(_plain(v) for v in value)}]"
    return str(value)
