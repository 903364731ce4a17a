"""What is in a file: tensors, layers and the network they make, from names and shapes alone. Imports no torch."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ssdconv.converters.caffe.net import CaffeNet
from ssdconv.converters.claims import completed
from ssdconv.converters.plan import Plan, Request
from ssdconv.converters.registry import Source, head_of, recognise
from ssdconv.converters.tensors import TensorTable
from ssdconv.errors import FormatError, SsdconvError
from ssdconv.ssd_ref.config import Backbone, SSDConfig
from ssdconv.ssd_ref.containers import check_provenance
from ssdconv.ssd_ref.evidence import Claim, from_plain, to_plain
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
            "backbone": asdict(self.backbone) if self.backbone else None,
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
    own = _own_checkpoint(path, head)
    if own is not None:
        return own
    source = recognise(path)
    with source.module.read(path) as table:
        plan, why = _plan(source, table)
        config = plan.config if plan else None
        net = table.meta.get("net")
        layers = tuple((la.name, la.type) for la in net.layers) if isinstance(net, CaffeNet) else ()
        return FileSummary(
            path,
            path.stat().st_size,
            table.format,
            source.name,
            tuple(TensorSummary(t.name, tuple(t.shape), str(t.dtype)) for t in table.values()),
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
    from ssdconv.converters.caffe.graph import graph_config
    from ssdconv.converters.caffe.prototxt import read_prototxt
    from ssdconv.converters.caffe.recognise import as_named

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
            held, why = msgspec.convert(about["backbone"], Backbone), "a backbone alone, for training to start from"
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
            return _about(path, (file.metadata() or {}).get("ssdconv"), tensors, "safetensors")
    except SafetensorError as error:
        raise FormatError(f"damaged safetensors file: {error}", where=str(path)) from None


def _own_checkpoint(path: Path, head: bytes) -> FileSummary | None:
    """A ``.pth`` of ours, read through a pickle walker that builds nothing but strings, dicts and shapes."""
    if head[:4] != b"PK\x03\x04":
        return None
    from ssdconv.converters.pytorch.outline import outline

    found = outline(path)
    if found is None or "ssdconv" not in found.strings:
        return None
    tensors = tuple(TensorSummary(n, shape, dtype) for n, shape, dtype in found.tensors)
    return _about(path, found.strings["ssdconv"], tensors, "pth")
