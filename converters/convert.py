"""Source file in, self-describing PyTorch checkpoint out, with a report; and back.

The report has one row per tensor, with the proof of what was written. The checkpoint keeps what the conversion was asked for, so that its
proof plans the network anew from the file in the same way: ``provenance["request"]`` holds the plain options, ``provenance["prototxt"]`` the
definition itself: name, SHA-256, and its text, packed where that is shorter. No path is kept: the same network gives the same bytes,
wherever its files lie. ``reverse`` is the exact inverse of ``convert``.
"""

from __future__ import annotations

import base64
import hashlib
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ssdconv import __version__
from ssdconv.converters.plan import Plan, Request, class_names, completed, specified
from ssdconv.converters.registry import Source, head_of, located, recognise
from ssdconv.converters.registry import source as source_named
from ssdconv.converters.spec import Spec, read_spec, spec_of
from ssdconv.converters.tensors import (
    Array,
    Drop,
    LazyTensor,
    MappedTensor,
    TensorMapping,
    TensorTable,
    apply_all,
    sha256_file,
)
from ssdconv.errors import FormatError, UsageError
from ssdconv.ssd_ref.config import Graph, SSDConfig
from ssdconv.ssd_ref.containers import TensorSource
from ssdconv.ssd_ref.evidence import Claim, to_plain
from ssdconv.ssd_ref.files import CHECKPOINTS
from ssdconv.ssd_ref.gate import read_input, reading


@dataclass(frozen=True)
class ConvertedTensor:
    """One tensor's way.

    ``sha256`` is over the reference tensor's C-order bytes; min, max and mean are NaN where the tensor holds NaN. They are
    left out ("" and None) when the report was made without digests.
    """

    source: str
    target: str
    ops: tuple[str, ...]
    source_shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    dtype: str
    sha256: str = ""
    min: float | None = None
    max: float | None = None
    mean: float | None = None


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """What became of one source file's tensors.

    Attributes:
        rows: one per tensor written.
        drops: source tensors left out, each with its reason.
        outputs: files written.
        source, source_sha256, source_format: the file converted.
        warnings: what the user should know.
        seconds: wall time.
    """

    rows: tuple[ConvertedTensor, ...]
    drops: tuple[Drop, ...]
    outputs: tuple[Path, ...]
    source: Path
    source_format: str
    source_sha256: str
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The whole report as JSON-ready data."""
        return {
            "file": str(self.source),
            "format": self.source_format,
            "sha256": self.source_sha256,
            "outputs": [str(p) for p in self.outputs],
            "tensors": [asdict(row) for row in self.rows],
            "dropped": [asdict(drop) for drop in self.drops],
            "warnings": list(self.warnings),
            "seconds": self.seconds,
        }


@dataclass(frozen=True, kw_only=True)
class ConversionReport(FileReport):
    """A detector's conversion.

    Attributes:
        config: the network written.
        evidence: who says what about it.
    """

    config: SSDConfig
    evidence: tuple[Claim, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    def groups(self) -> Iterator[tuple[str, int, int]]:
        """(part of the network, tensors, numbers) in order: backbone, extras, heads, or graph."""
        counts: dict[str, list[int]] = {}
        for row in self.rows:
            part = ".".join(row.target.split(".")[: 2 if row.target.startswith("heads.") else 1])
            entry = counts.setdefault(part, [0, 0])
            entry[0] += 1
            entry[1] += int(np.prod(row.target_shape, dtype=np.int64))
        for part, (tensors, numbers) in counts.items():
            yield part, tensors, numbers

    def to_json(self) -> dict[str, Any]:
        """The whole report as JSON-ready data."""
        return {
            "network": self.config.name,
            "source": self.config.source,
            "num_classes": self.config.num_classes,
            "input": list(self.config.pixels.size),
            "priors": self.config.num_priors,
            "class_names": list(self.config.class_names),
            "evidence": to_plain(self.evidence),
            **super().to_json(),
            **self.extra,
        }


def describe(entry: MappedTensor, table: Mapping[str, LazyTensor], *, digests: bool = True) -> ConvertedTensor:
    """The report row of one tensor; with ``digests`` its bytes are read for the hash and the statistics."""
    row = ConvertedTensor(
        entry.source,
        entry.target,
        tuple(str(op) for op in entry.ops),
        entry.source_shape,
        entry.target_shape,
        str(table[entry.source].dtype),
    )
    if not digests:
        return row
    flat = np.ascontiguousarray(apply_all(entry.ops, table[entry.source].load())).reshape(-1)
    digest = hashlib.sha256(flat.data.cast("B")).hexdigest()
    if not flat.size:
        return replace(row, sha256=digest)
    with np.errstate(all="ignore"):
        mean = float(flat.mean())
    return replace(row, sha256=digest, min=float(flat.min()), max=float(flat.max()), mean=mean)


MAX_BYTES = 8 << 20
"""Largest definition that is kept, and unpacked again: the largest published ones have some 60 kB."""
PACKED = 2_000
"""From how many bytes on a definition is packed."""


def remember(request: Request, config: SSDConfig) -> dict[str, Any]:
    """Entries of a checkpoint's provenance for what the user asked for.

    Args:
        request: what the user asked for.
        config: what came of them: a channel order that was found by ``like``, another file, is kept as the order itself.
    """
    options = {k: v for k, v in request.options.items() if k not in ("like", "backbone", "symbol")}
    order = request.channel_order or (config.pixels.order if "like" in request.options else None)
    given = {
        "network": request.network,
        "num_classes": request.num_classes,
        "channel_order": order,
        "options": options,
        "classes": list(request.classes),
        "spec": request.spec.to_plain() if request.spec is not None else None,
    }
    kept: dict[str, Any] = {"request": {k: v for k, v in given.items() if v}}
    if request.prototxt is not None:
        kept["prototxt"] = _packed(request.prototxt)
    return kept


def _packed(path: Path) -> dict[str, str]:
    data = read_input(path, "document", "network definition")
    told = {"name": path.name, "sha256": hashlib.sha256(data).hexdigest()}
    if len(data) > MAX_BYTES:
        return told
    if len(data) > PACKED:
        return told | {"zlib": base64.b85encode(zlib.compress(data, 9)).decode()}
    return told | {"base85": base64.b85encode(data).decode()}


def definition(provenance: Mapping[str, Any], where: str = "") -> bytes | None:
    """The definition that a checkpoint remembers; None where it was converted without one.

    Raises:
        FormatError: it is damaged.
    """
    held = provenance.get("prototxt")
    if not isinstance(held, Mapping):
        return None
    try:
        if "zlib" in held:
            unpacker = zlib.decompressobj()
            data = unpacker.decompress(base64.b85decode(held["zlib"]), MAX_BYTES)
        elif "base85" in held:
            data = base64.b85decode(held["base85"])
        else:
            return None
        if hashlib.sha256(data).hexdigest() != held["sha256"]:
            raise ValueError("its SHA-256 is another one")
    except (ValueError, TypeError, KeyError, zlib.error) as error:
        raise FormatError(
            f"the prototxt that the checkpoint remembers is damaged: {error}", where=where or None
        ) from None
    return data


def request_of(
    provenance: Mapping[str, Any], prototxt: Path | None = None, config: SSDConfig | None = None
) -> Request | None:
    """The request that a checkpoint was converted by; None for one of a version that did not keep it.

    Args:
        provenance: of the checkpoint.
        prototxt: the definition to plan with.
        config: the checkpoint's network; a GluonCV one that holds its symbol is planned by that.

    Raises:
        FormatError: it is damaged.
    """
    held = provenance.get("request")
    if held is None:
        return None
    settings = provenance.get("settings") or {}
    if not isinstance(held, Mapping) or not isinstance(settings, Mapping):
        raise FormatError("what the checkpoint remembers of its conversion is damaged")
    network, count, order = (held.get(key) for key in ("network", "num_classes", "channel_order"))
    options = {str(k): v for k, v in dict(held.get("options") or {}).items() if k != "symbol"}  # it names no files
    if config is not None and config.source == "gluon" and isinstance(config.layers, Graph) and config.layers.origin:
        from ssdconv.converters.gluon.symbol import parse_symbol

        options["symbol"] = parse_symbol(config.layers.origin.text, "the checkpoint's symbol")
    return Request(
        str(network) if network else None,
        int(count) if isinstance(count, int) else None,
        prototxt,
        str(order) if order else None,
        options,
        {str(k): str(v) for k, v in settings.items()},
        tuple(map(str, held.get("classes") or ())),
        spec=spec_of(held["spec"], "the spec that the checkpoint remembers") if held.get("spec") else None,
    )


@contextmanager
def recalled(
    provenance: Mapping[str, Any], given: Path | None, source: Path, where: str = ""
) -> Iterator[tuple[Path | None, tuple[str, ...]]]:
    """The definition to prove a checkpoint with, as a file, and what a reader should know about it.

    Args:
        provenance: of the checkpoint.
        given: what the user named now; wins.
        source: the weight file: a definition of the remembered name beside it is compared.
        where: the checkpoint, for messages.

    Raises:
        FormatError: what the checkpoint remembers is damaged.
    """
    data = definition(provenance, where)
    held = provenance.get("prototxt") or {}
    if given is not None:
        same = not held or hashlib.sha256(read_input(given, "document", "network definition")).hexdigest() == held.get(
            "sha256"
        )
        yield given, () if same else (f"{given.name} is not the prototxt that the checkpoint was converted with",)
        return
    if data is None:
        notes = (
            (f"the checkpoint was converted with {held['name']}, which it does not hold (--prototxt)",) if held else ()
        )
        yield None, notes
        return
    told = [f"the layers are those of {held['name']}, which the checkpoint remembers"]
    beside = Path(source).parent / Path(str(held["name"])).name
    if beside.is_file() and read_input(beside, "document", "network definition") != data:
        told.append(f"{beside.name} beside the source file was changed since the conversion")
    with tempfile.TemporaryDirectory(prefix="ssdconv-") as folder:
        path = Path(folder) / (beside.name or "remembered.prototxt")  # what claims call it
        path.write_bytes(data)
        yield path, tuple(told)


SUFFIXES = {"pth": (".pth",), "safetensors": (".safetensors",), "both": (".pth", ".safetensors")}


@dataclass(frozen=True)
class Opened:
    """A source file with its plan, checked against the reference network but with no tensor read yet."""

    source: Source
    table: TensorTable
    plan: Plan


def open_source(path: Path, source: str | None = None, request: Request | None = None) -> Opened:
    """Recognise a file and check every name and shape against the reference network.

    Raises:
        FormatError: damaged file or not an SSD.
        MappingError: tensors do not fit the network.
    """
    path = located(path)
    head_of(path)
    kind = source_named(source) if source else recognise(path)
    from ssdconv.ssd_ref.model import reference_shapes

    with reading(path):
        table = kind.module.read(path)
    try:
        wish = request or Request()
        with reading(path):
            plan = specified(completed(kind.module.plan(table, wish), wish, kind.title), wish.spec)
        plan.check_settings(wish.settings)
        plan.mapping.check(table, reference_shapes(plan.config), where=str(path))
    except BaseException:
        table.close()
        raise
    return Opened(kind, table, plan)


def convert(
    src: str | Path,
    dst: str | Path | None = None,
    *,
    source: str | None = None,
    network: str | None = None,
    num_classes: int | None = None,
    prototxt: str | Path | None = None,
    channel_order: str | None = None,
    format: str | None = None,
    options: Mapping[str, Any] | None = None,
    settings: Mapping[str, str] | None = None,
    classes: str | Sequence[str] = (),
    spec: str | Path | Spec | None = None,
    digests: bool = True,
) -> ConversionReport:
    """Convert a source file into a checkpoint that ``ssdconv.load`` reads.

    Args:
        src: weight file of a known source.
        dst: checkpoint to write; default: ``src`` with the suffix of the format, in the current folder.
        source: "caffe", …; None recognises it by content.
        network: name of the network; None recognises it.
        num_classes: conf channels per prior, where the file cannot tell.
        prototxt: Caffe net definition; default: the layer list inside the file.
        channel_order: "RGB" or "BGR", where the file cannot tell.
        format: "pth", "safetensors" or "both"; default: by the suffix of ``dst``, else "pth".
        options: further options of one source.
        settings: what the file does not say, by key (``heads.padding``: ``valid``); ``inspect`` lists the keys.
        classes: names of the object classes: "voc", "coco", a file with a name per line, or the names.
        spec: what the file does not say about the network: a YAML or JSON file (docs/spec.md).
        digests: give each row of the report its SHA-256 and statistics (a second pass over the tensors).

    Raises:
        FormatError, MappingError, MissingError: nothing was written.
        OutputError: the checkpoint could not be written; an older file there is untouched.
    """
    from ssdconv.ssd_ref.checkpoint import save

    started = time.perf_counter()
    path = located(Path(src))
    outputs = output_paths(path, Path(dst) if dst else None, format)
    names = class_names(classes) if isinstance(classes, str) else tuple(classes)
    given = Path(prototxt) if prototxt else None
    stated = read_spec(Path(spec)) if isinstance(spec, str | Path) else spec
    wish = Request(network, num_classes, given, channel_order, options or {}, settings or {}, names, spec=stated)
    with ThreadPoolExecutor(1, "sha256") as pool:
        head_of(path)
        digest = pool.submit(sha256_file, path)
        opened = open_source(path, source, wish)
        plan = opened.plan
        with opened.table as table:
            provenance = {
                "ssdconv": __version__,
                "source": opened.source.name,
                "file": path.name,
                "format": table.format,
                "sha256": "",
                "parity": "not measured",
                "evidence": to_plain(plan.evidence),
                "settings": dict(wish.settings),
                **remember(wish, plan.config),
            }
            if plan.stored:
                provenance["stored_shapes"] = {name: list(shape) for name, shape in plan.stored.items()}
            rows, notes = transfer(
                table,
                plan.mapping,
                outputs,
                lambda output, sources: save(output, plan.config, sources, provenance, digest=digest),
                digests=digests,
            )
            return ConversionReport(
                config=plan.config,
                rows=rows,
                drops=plan.mapping.drops,
                outputs=tuple(outputs),
                source=path,
                source_format=table.format,
                source_sha256=digest.result(),
                warnings=(*table.warnings, *plan.warnings, *notes),
                evidence=plan.evidence,
                seconds=time.perf_counter() - started,
            )


def transfer(
    table: TensorTable,
    mapping: TensorMapping,
    outputs: Sequence[Path],
    save: Callable[[Path, Sequence[TensorSource]], object],
    *,
    digests: bool = True,
) -> tuple[tuple[ConvertedTensor, ...], tuple[str, ...]]:
    """Save a file's tensors as the reference's, one in memory at a time; the report's rows, and what to know about the values.

    Raises:
        FormatError: the file was changed meanwhile.
        OutputError: see ``save``.
    """
    odd: dict[str, None] = {}
    sources = [_source(entry, table, odd) for entry in mapping]
    for output in outputs:
        save(output, sources)
    rows = tuple(describe(entry, table, digests=digests) for entry in mapping)
    table.unchanged()
    return rows, tuple(f"tensor {name!r} holds NaN or infinite values" for name in odd)


def _source(entry: MappedTensor, table: TensorTable, odd: dict[str, None]) -> TensorSource:
    """One reference tensor, to be loaded when it is written; source tensors with NaN or infinity are noted in ``odd``."""

    def load() -> Array:
        array = apply_all(entry.ops, table[entry.source].load())
        # A sum is finite only if all terms are; only otherwise is it worth looking at each of them.
        with np.errstate(all="ignore"):
            if not np.isfinite(array.sum()) and not np.isfinite(array).all():
                odd[entry.source] = None
        return array

    return TensorSource(entry.target, entry.target_shape, table[entry.source].dtype, load)


def output_paths(src: Path, dst: Path | None, format: str | None) -> list[Path]:
    """Files to write.

    Raises:
        UsageError: the format is unknown or contradicts the suffix, or the output is the input.
    """
    if format is None:
        format = "safetensors" if dst is not None and dst.suffix == ".safetensors" else "pth"
    if format not in SUFFIXES:
        raise UsageError(f"no format {format!r}", expected=f"one of {', '.join(SUFFIXES)}")
    if dst is not None and dst.exists() and not dst.is_file():
        raise UsageError(
            "the output is a folder or a device, not a file", where=str(dst), expected="the name of a file"
        )
    base = dst if dst is not None else Path(src.name)
    if dst is not None and dst.suffix in CHECKPOINTS:
        if format != "both" and (dst.suffix == ".safetensors") != (format == "safetensors"):
            raise UsageError("the suffix contradicts --format", where=str(dst), expected=SUFFIXES[format][0])
        outputs = [dst] if format != "both" else [dst.with_suffix(s) for s in SUFFIXES[format]]
    elif dst is not None and dst.suffix:
        raise UsageError("a checkpoint ends in .pth or .safetensors", where=str(dst))
    else:
        outputs = [base.with_suffix(s) for s in SUFFIXES[format]]
    for output in outputs:
        if output.exists() and src.exists() and output.samefile(src):
            raise UsageError("the output would overwrite the source file", where=str(output))
    return outputs


@dataclass(frozen=True)
class ReverseReport:
    """What was written back."""

    config: SSDConfig
    source: str
    outputs: tuple[Path, ...]
    tensors: int

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        return {
            "network": self.config.name,
            "source": self.source,
            "outputs": [str(p) for p in self.outputs],
            "tensors": self.tensors,
        }


def reverse(src: str | Path, dst: str | Path, source: str, request: Request | None = None) -> ReverseReport:
    """Write a checkpoint's tensors as a weight file of ``source``.

    Args:
        src: checkpoint written by ssdconv.
        dst: file to write.
        source: "caffe", ….
        request: further options of the source.

    Raises:
        MappingError: that source cannot express the network.
        OutputError: the file could not be written; an older file there is untouched.
    """
    from ssdconv.ssd_ref.checkpoint import build, read

    checkpoint = read(src)
    build(checkpoint, where=str(src))
    tensors = {name: tensor.numpy() for name, tensor in checkpoint.state_dict.items()}
    stored = {} if source != checkpoint.config.source else _stored(checkpoint.provenance, str(src))
    wish = replace(request or Request(), stored=stored)
    outputs = source_named(source).module.write(checkpoint.config, tensors, Path(dst), wish)
    return ReverseReport(checkpoint.config, source, tuple(outputs), len(tensors))


def _stored(provenance: Mapping[str, Any], where: str) -> dict[str, tuple[int, ...]]:
    """The shapes in which the source file kept tensors."""
    held = provenance.get("stored_shapes", {})
    try:
        return {str(name): tuple(int(side) for side in shape) for name, shape in held.items()}
    except (AttributeError, TypeError, ValueError):
        raise FormatError("the shapes that the checkpoint remembers of its source are damaged", where=where) from None
