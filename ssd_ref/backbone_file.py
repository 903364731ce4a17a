"""Files with a backbone alone, from which training starts: the containers of ``checkpoint``, with another description.

The JSON is ``{"version": 1, "backbone": config.Backbone, "provenance": …}``; the tensors have the reference's names without
``backbone.`` in front. ``.pth`` loads with ``weights_only=True``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from ssdconv.errors import FormatError, MappingError
from ssdconv.ssd_ref.backbones import build_backbone
from ssdconv.ssd_ref.checkpoint import Tensors, read_described, write_described
from ssdconv.ssd_ref.config import Backbone
from ssdconv.ssd_ref.model import SSD

Shape = tuple[int, ...]


@dataclass(frozen=True)
class BackboneFile:
    """What a backbone file holds.

    Attributes:
        backbone: its kind, options and taps; the taps reach as far as the tensors do.
        state_dict: its tensors; memory-mapped where the file allows it.
        provenance: where the tensors come from: GluonCV's name, source file, sha256, converter version.
    """

    backbone: Backbone
    state_dict: dict[str, Tensor]
    provenance: dict[str, Any] = field(default_factory=dict)


def save_backbone(
    path: str | Path,
    backbone: Backbone,
    tensors: Tensors,
    provenance: Mapping[str, Any] | None = None,
    *,
    digest: Future[str] | None = None,
) -> Path:
    """Write a backbone file atomically; arguments and errors as in ``checkpoint.save``."""
    about = {"backbone": json.loads(msgspec.json.encode(backbone))}
    return write_described(Path(path), about, tensors, provenance, digest=digest)


def read_backbone(path: str | Path) -> BackboneFile:
    """Read a backbone file and check that its tensors are those of its description.

    Raises:
        MissingError, UnsafeFileError: see ``checkpoint.read``.
        FormatError: not one of our backbone files, or damaged.
    """
    about, state = read_described(Path(path))
    if "backbone" not in about:
        raise FormatError("this file holds a whole detector, not a backbone alone", where=str(path))
    try:
        described = msgspec.convert(about["backbone"], Backbone)
        shapes = backbone_shapes(described)
    except (msgspec.ValidationError, ValueError, TypeError, RuntimeError) as error:
        raise FormatError(f"damaged backbone file: {error}", where=str(path)) from None
    _same(shapes, {name: tuple(t.shape) for name, t in state.items()}, FormatError, f"{path}: the file's backbone")
    return BackboneFile(described, state, about["provenance"])


def load_backbone(model: SSD, path: str | Path) -> BackboneFile:
    """Fill ``model.backbone`` in place from a backbone file, by name and shape; extras and heads stay as they are.

    The file's layers behind the last one that the model taps are not needed and not loaded; anything else has to fit.

    Args:
        model: the network to train.
        path: a file of ``save_backbone``.

    Returns:
        What the file holds.

    Raises:
        MappingError: another backbone; nothing was changed.
        MissingError, UnsafeFileError, FormatError: see ``read_backbone``.
    """
    held = read_backbone(path)
    if model.config.staged is None:
        raise MappingError("a network read from a layer graph has no backbone of its own", where=model.config.name)
    wanted = {name: tuple(t.shape) for name, t in model.backbone.state_dict().items()}
    if held.backbone.kind != model.config.staged.backbone.kind:
        raise MappingError(
            "the file holds another backbone than the network has",
            where=str(path),
            expected=model.config.staged.backbone.kind,
            got=held.backbone.kind,
        )
    cut = dataclasses.replace(held.backbone, taps=model.config.staged.backbone.taps)
    _same(wanted, backbone_shapes(cut), MappingError, f"{path}: the backbone of {model.config.name}")
    model.backbone.load_state_dict({name: held.state_dict[name] for name in wanted})
    return held


def backbone_shapes(backbone: Backbone) -> dict[str, Shape]:
    """Names and shapes of a backbone's tensors; allocates none."""
    with torch.device("meta"):
        built = build_backbone(backbone)
    return {name: tuple(tensor.shape) for name, tensor in built.state_dict().items()}


def _same(
    wanted: Mapping[str, Shape], held: Mapping[str, Shape], kind: type[FormatError | MappingError], where: str
) -> None:
    for name in sorted(wanted.keys() | held.keys()):
        if wanted.get(name) != held.get(name):
            raise kind(
                f"tensor {name!r} does not fit",
                where=where,
                expected=wanted.get(name, "no such tensor"),
                got=held.get(name, "no such tensor"),
            )
