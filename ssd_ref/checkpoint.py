"""Checkpoints that describe themselves: tensors, config and provenance in one ``.pth`` or ``.safetensors`` file.

``.pth`` is ``torch.save`` of a plain dict of strings and tensors, so that it loads with ``weights_only=True``:
``{"ssdconv": JSON, "state_dict": {name: tensor}}`` with the JSON object ``{"version": 1, "config": …, "provenance": …}``.
A ``.safetensors`` file has the same string in its metadata. Nothing else is ever unpickled. The same network gives the
same bytes, whatever the file is called.

A file with a backbone alone, from which training starts, has the JSON ``{"version": 1, "backbone": …, "provenance": …}``; its tensors
have the reference's names without ``backbone.`` in front.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from ssdconv.errors import FormatError, MappingError, SsdconvError, UnsafeFileError
from ssdconv.ssd_ref.backbones import build_backbone
from ssdconv.ssd_ref.config import Backbone, Graph, SSDConfig, backbone_from_plain, backbone_to_plain
from ssdconv.ssd_ref.containers import (
    CONFIG,
    WEIGHTS,
    TensorSource,
    agreed,
    check_provenance,
    described,
    write_pth,
    write_safetensors,
)
from ssdconv.ssd_ref.files import atomic_path
from ssdconv.ssd_ref.gate import open_input, reading
from ssdconv.ssd_ref.model import SSD

VERSION = 1
"""Version of the layout described above."""
KEY = "ssdconv"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        config: the network.
        state_dict: its tensors; memory-mapped where the file allows it.
        provenance: where the tensors come from: source file, sha256, converter version, parity summary.
    """

    config: SSDConfig
    state_dict: dict[str, Tensor]
    provenance: dict[str, Any] = field(default_factory=dict)


Tensors = Mapping[str, "np.ndarray[Any, Any] | Tensor"] | Sequence[TensorSource]


def tensor_sources(tensors: Tensors) -> list[TensorSource]:
    """Arrays or torch tensors by name, as sources to be written one by one."""
    if not isinstance(tensors, Mapping):
        return list(tensors)
    arrays = {n: t.detach().cpu().numpy() if isinstance(t, Tensor) else t for n, t in tensors.items()}
    return [TensorSource(name, a.shape, a.dtype, partial(_same, a)) for name, a in arrays.items()]


def _same(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array


def save(
    path: str | Path,
    config: SSDConfig,
    tensors: Tensors,
    provenance: Mapping[str, Any] | None = None,
    *,
    digest: Future[str] | None = None,
) -> Path:
    """Write a checkpoint atomically; the suffix (.pth, .pt or .safetensors) decides the format.

    Args:
        path: file to write.
        config: the network.
        tensors: its tensors by name, or sources that are loaded one by one while writing.
        provenance: where the tensors come from, JSON-ready.
        digest: the source file's SHA-256 where it is still being computed; waited for at the end and stored as
            ``provenance["sha256"]``.

    Raises:
        OutputError: the file cannot be written; what stood there before is untouched.
    """
    return write_described(Path(path), {"config": json.loads(config.to_json())}, tensors, provenance, digest=digest)


def write_described(
    path: Path,
    about: Mapping[str, Any],
    tensors: Tensors,
    provenance: Mapping[str, Any] | None = None,
    *,
    digest: Future[str] | None = None,
) -> Path:
    """Write tensors with a description, ``about`` as JSON-ready data; the rest as in ``save``."""
    sources = tensor_sources(tensors)

    def text(sha256: str) -> str:
        origin = dict(provenance or {}) | ({"sha256": sha256} if digest is not None else {})
        return json.dumps({"version": VERSION, **about, "provenance": origin})

    def final() -> str:
        return text(digest.result() if digest is not None else "")

    with atomic_path(path) as temporary:
        if path.suffix == ".safetensors":
            write_safetensors(temporary, sources, KEY, final, text("0" * 64))
        else:
            write_pth(temporary, sources, KEY, final)
    return path


def read(path: str | Path) -> Checkpoint:
    """Read a checkpoint without building the network.

    Raises:
        MissingError: no such file.
        UnsafeFileError: a pickle that wants to build more than tensors and plain data.
        FormatError: not one of our checkpoints, or damaged.
    """
    with reading(path):
        about, state = read_described(Path(path))
    if "config" not in about and "backbone" in about:
        raise FormatError(
            "this file holds a backbone alone, not a detector", where=str(path), hint="it is for training to start from"
        )
    try:
        config = SSDConfig.from_json(json.dumps(about["config"]))
    except (FormatError, KeyError) as error:
        raise FormatError(f"damaged checkpoint: {error}", where=str(path)) from None
    return _under_new_names(Checkpoint(config, state, about["provenance"]))


def _under_new_names(checkpoint: Checkpoint) -> Checkpoint:
    """Tensors of a layer graph stand under ``layers.``; older checkpoints have ``graph.``."""
    config, layers = checkpoint.config, checkpoint.config.layers
    if not isinstance(layers, Graph) or not any(name.startswith("graph.") for name in checkpoint.state_dict):
        return checkpoint

    def new(name: str) -> str:
        return f"layers.{name.removeprefix('graph.')}" if name.startswith("graph.") else name

    if layers.origin is not None:
        origin = replace(layers.origin, stored={new(name): source for name, source in layers.origin.stored.items()})
        config = replace(config, layers=replace(layers, origin=origin))
    state = {new(name): tensor for name, tensor in checkpoint.state_dict.items()}
    return Checkpoint(config, state, checkpoint.provenance)


def read_described(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description and the tensors of any file of ours, or of a hub folder; errors as in ``read``."""
    folder = path if path.is_dir() else path.parent if described(path) else None
    if path.is_dir():
        path = path / WEIGHTS
    try:
        with open_input(path, "weights") as stream:
            head = stream.read(16)
    except OSError as error:
        raise FormatError(f"cannot read: {error.strerror}", where=str(path)) from None
    is_safetensors = path.suffix == ".safetensors" or head[8:9] == b"{"
    text, state = _read_safetensors(path) if is_safetensors else _read_pickle(path)
    if folder is not None:
        text = agreed(text, folder / CONFIG)
    if text is None:
        raise FormatError(
            "these weights carry no ssdconv config",
            where=str(path),
            hint="convert the original file first: `ssdconv convert SRC DST`",
        )
    try:
        about = json.loads(text)
        version, _ = about["version"], about["provenance"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(f"damaged checkpoint: {error}", where=str(path)) from None
    check_provenance(about["provenance"], path)
    if version != VERSION:
        raise FormatError(
            "this checkpoint was written by another version of ssdconv",
            where=str(path),
            expected=f"layout {VERSION}",
            got=f"layout {version}",
            hint="convert the original file again, or upgrade ssdconv",
        )
    return about, state


def _read_safetensors(path: Path) -> tuple[str | None, dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get(KEY), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise FormatError(f"damaged safetensors file: {error}", where=str(path)) from None


def _read_pickle(path: Path) -> tuple[str | None, dict[str, Tensor]]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise UnsafeFileError(
            f"refused: it wants to run {wanted[1]}" if wanted else "refused: it is more than tensors and plain data",
            where=str(path),
            hint="only tensors and plain data are loaded; `ssdconv inspect` lists what the file wants to run",
        ) from None
    except Exception as error:  # noqa: BLE001 - torch's reader lets whatever its input provokes through
        raise FormatError(f"not a readable checkpoint: {str(error).partition(chr(10))[0]}", where=str(path)) from None
    if not isinstance(loaded, dict) or not isinstance(loaded.get("state_dict"), dict):
        return None, {}
    state = {k: v for k, v in loaded["state_dict"].items() if isinstance(v, Tensor)}
    text = loaded.get(KEY)
    return text if isinstance(text, str) else None, state


def build(checkpoint: Checkpoint, *, where: str = "", heads: bool = True) -> SSD:
    """The network of a checkpoint, in eval mode, on the CPU.

    Args:
        checkpoint: what ``read`` gave.
        where: for messages.
        heads: refuse a network whose outputs do not fit its priors and classes.

    Raises:
        FormatError: the tensors are not the ones that the config describes.
    """
    try:
        with torch.device("meta"):
            model = SSD(checkpoint.config)
    except SsdconvError:
        raise
    except (ValueError, TypeError, RuntimeError) as error:
        raise FormatError(f"the config does not describe a network: {error}", where=where or None) from None
    wanted = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    held = {name: tuple(t.shape) for name, t in checkpoint.state_dict.items()}
    for name in sorted(wanted.keys() | held.keys()):
        if wanted.get(name) != held.get(name):
            raise FormatError(
                f"tensor {name!r} does not fit the config",
                where=where or None,
                expected=wanted.get(name, "no such tensor"),
                got=held.get(name, "no such tensor"),
            )
    state = {n: t.float() if t.is_floating_point() else t for n, t in checkpoint.state_dict.items()}
    if heads:
        _check_heads(model, where)
    model.load_state_dict(state, assign=True)
    return model.eval()


def _check_heads(model: SSD, where: str) -> None:
    """Run the network without numbers: what its heads give has to fit classes and priors.

    Raises:
        FormatError: names what does not fit.
    """
    config = model.config
    channels = config.pixels.channels
    try:
        with torch.device("meta"), torch.inference_mode():
            loc, conf = model.eval()(torch.empty(1, channels, *config.pixels.size))
    except SsdconvError:
        raise
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        text = str(error).partition("\n")[0]
        raise FormatError(f"the config does not describe a network: {text}", where=where or None) from None
    for what, expected, got in (
        ("priors", config.num_priors if config.priors else loc.shape[1], loc.shape[1]),
        ("priors of the class scores", loc.shape[1], conf.shape[1]),
        ("classes", config.num_classes, conf.shape[2]),
    ):
        if expected != got:
            raise FormatError(
                f"the heads give another number of {what} than the config has",
                where=where or None,
                expected=expected,
                got=got,
            )


def load(path: str | Path, device: str | torch.device = "cpu") -> SSD:
    """Load a converted network: ``ssdconv.load("out.pth").detect(["photo.jpg"])``.

    Args:
        path: a checkpoint written by ssdconv.
        device: where the network shall run.

    Raises:
        MissingError, UnsafeFileError, FormatError: see ``read``.
    """
    return build(read(path), where=str(path)).to(device)


Shape = tuple[int, ...]


@dataclass(frozen=True)
class BackboneFile:
    """What a backbone file holds.

    Attributes:
        backbone: its kind, options and outputs; these reach as far as the tensors do.
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
    about = {"backbone": backbone_to_plain(backbone)}
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
        described = backbone_from_plain(about["backbone"])
        shapes = backbone_shapes(described)
    except (msgspec.ValidationError, ValueError, TypeError, RuntimeError) as error:
        raise FormatError(f"damaged backbone file: {error}", where=str(path)) from None
    _require_same(
        shapes, {name: tuple(t.shape) for name, t in state.items()}, FormatError, f"{path}: the file's backbone"
    )
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
    if isinstance(model.config.layers, Graph):
        raise MappingError("a network read from a layer graph has no backbone of its own", where=model.config.name)
    wanted = {name: tuple(t.shape) for name, t in model.backbone.state_dict().items()}
    if held.backbone.kind != model.config.layers.backbone.kind:
        raise MappingError(
            "the file holds another backbone than the network has",
            where=str(path),
            expected=model.config.layers.backbone.kind,
            got=held.backbone.kind,
        )
    cut = dataclasses.replace(held.backbone, out_indices=model.config.layers.backbone.out_indices)
    _require_same(wanted, backbone_shapes(cut), MappingError, f"{path}: the backbone of {model.config.name}")
    model.backbone.load_state_dict({name: held.state_dict[name] for name in wanted})
    return held


def backbone_shapes(backbone: Backbone) -> dict[str, Shape]:
    """Names and shapes of a backbone's tensors; allocates none."""
    with torch.device("meta"):
        built = build_backbone(backbone)
    return {name: tuple(tensor.shape) for name, tensor in built.state_dict().items()}


def _require_same(
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
