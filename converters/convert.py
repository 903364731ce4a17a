"""Source file in, self-describing PyTorch checkpoint out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssdconv import __version__
from ssdconv.converters.claims import class_names, completed
from ssdconv.converters.mapping import Entry
from ssdconv.converters.ops import apply_all
from ssdconv.converters.plan import Plan, Request
from ssdconv.converters.registry import Source, head_of, located, recognise
from ssdconv.converters.registry import source as source_named
from ssdconv.converters.remembered import remember
from ssdconv.converters.report import ConversionReport, describe
from ssdconv.converters.spec import Spec, read_spec
from ssdconv.converters.specified import specified
from ssdconv.converters.tensors import Array, TensorTable, sha256_file
from ssdconv.errors import UsageError
from ssdconv.ssd_ref.containers import TensorSource
from ssdconv.ssd_ref.evidence import to_plain
from ssdconv.ssd_ref.files import CHECKPOINTS
from ssdconv.ssd_ref.gate import reading

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
        options: further wishes of one source.
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
        with opened.table as table:
            odd: dict[str, None] = {}
            sources = [_source(entry, table, odd) for entry in opened.plan.mapping]
            provenance = {
                "ssdconv": __version__,
                "source": opened.source.name,
                "file": path.name,
                "format": table.format,
                "sha256": "",
                "parity": "not measured",
                "evidence": to_plain(opened.plan.evidence),
                "settings": dict(wish.settings),
                **remember(wish, opened.plan.config),
            }
            if opened.plan.stored:
                provenance["stored_shapes"] = {name: list(shape) for name, shape in opened.plan.stored.items()}
            for output in outputs:
                save(output, opened.plan.config, sources, provenance, digest=digest)
            rows = tuple(describe(e, table, digests=digests) for e in opened.plan.mapping)
            table.meta.get("unchanged", lambda: None)()
            finite = tuple(f"tensor {name!r} holds NaN or infinite values" for name in odd)
            return ConversionReport(
                config=opened.plan.config,
                rows=rows,
                drops=opened.plan.mapping.drops,
                outputs=tuple(outputs),
                source=path,
                source_format=table.format,
                source_sha256=digest.result(),
                warnings=(*table.warnings, *opened.plan.warnings, *finite),
                evidence=opened.plan.evidence,
                seconds=time.perf_counter() - started,
            )


def _source(entry: Entry, table: TensorTable, odd: dict[str, None]) -> TensorSource:
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
