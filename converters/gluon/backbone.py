"""A GluonCV classification network's .params file to a backbone file for training; the classifier is left out by rule."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssdconv import __version__
from ssdconv.converters.convert import FileReport, output_paths, transfer
from ssdconv.converters.gluon.mapping import ParamName, backbone_parts, bare, resolve
from ssdconv.converters.gluon.params import read_params
from ssdconv.converters.tensors import Drop, MappedTensor, TensorMapping, TensorTable, sha256_file
from ssdconv.ssd_ref.config import Backbone, backbone_to_plain
from ssdconv.ssd_ref.networks.gluon import backbone

_STATISTICS = "(gamma|beta|running_mean|running_var)"
RULES: tuple[tuple[str, str, str], ...] = (
    ("", r"(output|fc)\.(weight|bias)|.*_dense0_(weight|bias)", "the classifier's last layer"),
    ("v2", rf"features\.9\.{_STATISTICS}|.*resnetv2\d+_batchnorm2_{_STATISTICS}", "normalisation before the classifier"),
    ("vgg16", r"norm4\.scale|.*_normalize\d+_normalize_scale", "scale of the detector's L2 normalisation, before its heads"),
    ("vgg16", r"extras\..*|vggatrous\w+?_extra\d+_.*", "the detector's extra layers"),
)  # fmt: skip
"""(backbone kind or ResNet version, or "" for all; pattern of whole names; why such tensors are left out)."""


@dataclass(frozen=True, kw_only=True)
class BackboneReport(FileReport):
    """A classification network's conversion.

    Attributes:
        name: GluonCV's.
        backbone: what was written.
    """

    name: str
    backbone: Backbone

    def to_json(self) -> dict[str, Any]:
        """The whole report as JSON-ready data."""
        return {
            "backbone": {"name": self.name, **backbone_to_plain(self.backbone)},
            "source": "gluon",
            **super().to_json(),
        }


def backbone_mapping(spec: Backbone, table: TensorTable) -> TensorMapping:
    """Pair a classification network's tensors with the reference backbone's by name, checked.

    Raises:
        MappingError: a tensor is missing, left over, or of another shape.
    """
    from ssdconv.ssd_ref.checkpoint import backbone_shapes

    shapes = backbone_shapes(spec)
    rows = [
        (target.removeprefix("backbone."), ParamName(dotted, legacy))
        for part in backbone_parts(spec)
        for target, legacy, dotted in part.tensors()
    ]
    rows = [(target, name) for target, name in rows if target in shapes]
    found = resolve(table, [name for _, name in rows], where=str(table.path))
    entries = tuple(MappedTensor(found[name.structural], target, shapes[target]) for target, name in rows)
    words = ("", spec.kind, spec.options.get("version"))
    rules = [(re.compile(pattern), reason) for word, pattern, reason in RULES if word in words]
    left = [name for name in table if name not in set(found.values())]
    drops = tuple(
        Drop(name, f"{reason}; no part of the backbone")
        for name in left
        for pattern, reason in rules
        if pattern.fullmatch(bare(name))
    )
    mapping = TensorMapping(entries, drops)
    mapping.check(table, shapes, where=str(table.path))
    return mapping


def convert_backbone(
    src: str | Path, name: str, dst: str | Path | None = None, *, format: str | None = None
) -> BackboneReport:
    """Convert a classification network's weights into a backbone file (``ssd_ref.checkpoint``).

    Args:
        src: .params file, in any naming dialect.
        name: GluonCV's name: "resnet50_v1s", "mobilenet1.0", "vgg16_atrous" …
        dst, format: as in ``convert.convert``.

    Raises:
        UsageError: no such backbone.
        FormatError, MappingError: nothing was written.
    """
    from ssdconv.ssd_ref.checkpoint import save_backbone

    started, src, spec = time.perf_counter(), Path(src), backbone(name)
    outputs = output_paths(src, Path(dst) if dst else None, format)
    with ThreadPoolExecutor(1, "sha256") as pool, read_params(src) as table:
        digest = pool.submit(sha256_file, src)
        mapping = backbone_mapping(spec, table)
        about = {"ssdconv": __version__, "source": "gluon", "name": name, "file": src.name, "format": table.format}
        about["sha256"] = ""
        rows, notes = transfer(
            table, mapping, outputs, lambda output, sources: save_backbone(output, spec, sources, about, digest=digest)
        )
        seconds = time.perf_counter() - started
        return BackboneReport(
            name=name,
            backbone=spec,
            rows=rows,
            drops=mapping.drops,
            outputs=tuple(outputs),
            source=src,
            source_format=table.format,
            source_sha256=digest.result(),
            warnings=(*table.warnings, *notes),
            seconds=seconds,
        )
