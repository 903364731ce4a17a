"""What is in a file: tensors, layers and the network they make, from names and shapes alone. Imports no torch.

``template`` is a spec to fill in: what the file states as comments, what it lacks as keys with the values that are assumed without them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ssdconv.converters.caffe.net import CaffeNet
from ssdconv.converters.convert import open_source
from ssdconv.converters.plan import Plan, Request, completed
from ssdconv.converters.pytorch.reader import PthFile
from ssdconv.converters.registry import Source, head_of, recognise
from ssdconv.converters.spec import Input, Spec
from ssdconv.converters.tensors import TensorTable
from ssdconv.errors import FormatError, SsdconvError
from ssdconv.ssd_ref.config import (
    Backbone,
    Postprocess,
    Preprocess,
    PriorMap,
    SSDConfig,
    backbone_from_plain,
    backbone_to_plain,
)
from ssdconv.ssd_ref.containers import CONFIG, agreed, check_provenance, described
from ssdconv.ssd_ref.evidence import INDEPENDENT, Claim, Link, from_plain, of_link, to_plain
from ssdconv.ssd_ref.evidence import lines as claim_lines
from ssdconv.ssd_ref.gate import reading


@dataclass(frozen=True)
class TensorSummary:
    """One tensor of the file."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class FileSummary:
    """What ``inspect`` found.

    Attributes:
        path, bytes, format: the file, its size, and its format ("caffemodel", "prototxt", "safetensors", …).
        source: the system it comes from, "ssdconv" for our own checkpoints.
        tensors: in file order.
        layers: (name, type) where the file has a layer list.
        network: name of the network that the tensors make, "" when it is none that ssdconv can build.
        why_not: the reason for an empty ``network``.
        config: the network itself, for ``input``, classes and priors.
        provenance: of our own checkpoints.
        backbone: what a backbone file for training holds.
        warnings: oddities met while reading.
        evidence: who says what about the network, with the settings that change it.
    """

    path: Path
    bytes: int
    format: str
    source: str
    tensors: tuple[TensorSummary, ...]
    layers: tuple[tuple[str, str], ...] = ()
    network: str = ""
    why_not: str = ""
    config: SSDConfig | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    backbone: Backbone | None = None
    evidence: tuple[Claim, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The summary as JSON-ready data."""
        config = self.config
        return {
            "path": str(self.path),
            "bytes": self.bytes,
            "format": self.format,
            "source": self.source,
            "network": self.network or None,
            "why_not": self.why_not or None,
            "backbone": backbone_to_plain(self.backbone) if self.backbone else None,
            "input": list(config.pixels.size) if config else None,
            "num_classes": config.num_classes if config else None,
            "priors": config.num_priors if config else None,
            "tensors": [asdict(t) for t in self.tensors],
            "layers": [{"name": n, "type": t} for n, t in self.layers],
            "provenance": self.provenance,
            "warnings": list(self.warnings),
            "evidence": to_plain(self.evidence),
        }

    def text(self) -> str:
        """The summary for a terminal: a few facts, then one line per tensor."""
        numbers = sum(math.prod(t.shape) for t in self.tensors)
        facts = [
            ("file", f"{self.path} ({self.bytes:,} bytes)"),
            ("format", f"{self.format} of {self.source}"),
            ("backbone", f"{self.backbone.kind} {dict(self.backbone.options)}, for training to start from")
            if self.backbone
            else ("network", self.network or f"not recognised: {self.why_not}"),
        ]
        if self.config:
            height, width = self.config.pixels.size
            classes, priors = self.config.num_classes, self.config.num_priors
            facts.append(("detector", f"input {width}x{height}, {classes} classes, {priors} priors"))
        if "training" in self.provenance:
            made = self.provenance["training"]
            facts.append(("trained", f"recipe {made.get('recipe')} on {made.get('data')}, {made.get('step')} updates"))
        elif self.provenance:
            facts.append(("made from", f"{self.provenance.get('file')} sha256 {self.provenance.get('sha256')}"))
        if self.layers:
            kinds = Counter(kind for _, kind in self.layers)
            facts.append(("layers", f"{len(self.layers)}: " + ", ".join(f"{n} {k}" for k, n in kinds.most_common())))
        facts += [("note", warning) for warning in self.warnings]
        facts += [(link, said) for link, said in claim_lines(self.evidence)]
        lines = [f"{label:>14}  {value}" for label, value in facts]
        if self.tensors:
            lines.append(f"{'tensors':>14}  {len(self.tensors)}, {numbers:,} numbers")
            wide = max(len(t.name) for t in self.tensors)
            lines += [f"                {t.name:<{wide}}  {t.dtype:<8} {list(t.shape)}" for t in self.tensors]
        return "\n".join(lines)


def inspect(path: str | Path) -> FileSummary:
    """Look into any supported file without converting it; no tensor byte is read.

    Raises:
        MissingError: no such file.
        FormatError: damaged, or of no known format.
        UnsafeFileError: the file could run code when loaded; the message lists what it would call.
    """
    path = Path(path)
    with reading(path):
        return _inspect(path)


def _inspect(path: Path) -> FileSummary:
    head = head_of(path)
    if path.suffix == ".prototxt":
        return _prototxt(path)
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return _safetensors(path)
    source = recognise(path)
    with source.module.read(path) as table:
        tensors = tuple(TensorSummary(t.name, tuple(t.shape), str(t.dtype)) for t in table.values())
        if source.name == "pytorch" and "ssdconv" in table.found(PthFile).strings:
            return _about(path, table.found(PthFile).strings["ssdconv"], tensors, "pth")
        plan, why = _plan(source, table)
        config = plan.config if plan else None
        net = table.found(CaffeNet).layers if source.name == "caffe" else ()
        layers = tuple((la.name, la.type) for la in net)
        return FileSummary(
            path,
            path.stat().st_size,
            table.format,
            source.name,
            tensors,
            layers,
            config.name if config else "",
            why,
            config,
            warnings=(*table.warnings, *(plan.warnings if plan else ())),
            evidence=plan.evidence if plan else (),
        )


def _plan(source: Source, table: TensorTable) -> tuple[Plan | None, str]:
    try:
        return completed(source.module.plan(table, Request()), Request(), source.title), ""
    except SsdconvError as error:
        return None, str(error)


def _prototxt(path: Path) -> FileSummary:
    from ssdconv.converters.caffe.graph import as_named, graph_config
    from ssdconv.converters.caffe.prototxt import read_prototxt

    net = read_prototxt(path)
    config, why = None, ""
    try:
        config = graph_config(net, name=net.name or path.stem)
        config = as_named(config) or config
    except SsdconvError as error:
        why = str(error)
    return FileSummary(
        path,
        path.stat().st_size,
        "prototxt",
        "caffe",
        (),
        tuple((layer.name, layer.type) for layer in net.layers),
        config.name if config else "",
        why,
        config,
        warnings=net.unknown,
    )


def _about(path: Path, text: str | None, tensors: tuple[TensorSummary, ...], format: str) -> FileSummary:
    size = path.stat().st_size
    if text is None:
        return FileSummary(path, size, format, "unknown", tensors, why_not="the file carries no ssdconv config")
    try:
        about = json.loads(text)
        provenance = dict(about["provenance"])
        check_provenance(provenance, path)
        if "backbone" in about:
            held, why = backbone_from_plain(about["backbone"]), "a backbone alone, for training to start from"
            return FileSummary(path, size, format, "ssdconv", tensors, (), "", why, None, provenance, (), held)
        config = SSDConfig.from_json(json.dumps(about["config"]))
    except (ValueError, KeyError, TypeError, RecursionError, FormatError) as error:
        raise FormatError(f"damaged checkpoint: {error}", where=str(path)) from None
    claims = from_plain(provenance.get("evidence", ()))
    return FileSummary(path, size, format, "ssdconv", tensors, (), config.name, "", config, provenance, evidence=claims)


def _safetensors(path: Path) -> FileSummary:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            tensors = tuple(TensorSummary(n, tuple(s.get_shape()), str(s.get_dtype())) for n, s in slices.items())
            text = (file.metadata() or {}).get("ssdconv")
        return _about(path, agreed(text, path.with_name(CONFIG)) if described(path) else text, tensors, "safetensors")
    except SafetensorError as error:
        raise FormatError(f"damaged safetensors file: {error}", where=str(path)) from None


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
    shown |= {n: v for n in Postprocess.__dataclass_fields__ if (v := getattr(rule, n)) != getattr(Postprocess(), n)}
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


def _pixels(pixels: Preprocess) -> dict[str, Any]:
    mean, std = (v[0] if len(set(v)) == 1 else v for v in (pixels.mean, pixels.std))
    values = {"order": pixels.order, "mean": mean, "std": std, "unit": pixels.unit, "scale": pixels.scale}
    return values | {"resize": pixels.resize}


def _prior_map(entry: PriorMap) -> str:
    boxes = ", ".join(f"[{w:.9g}, {h:.9g}]" for w, h in entry.box_sizes)
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
