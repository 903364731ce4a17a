"""Backbone weights for training in the files that people have: our own, VGG16's .caffemodel, ssd.pytorch's .pth.

Caffe's ``VGG_ILSVRC_16_layers_fc_reduced.caffemodel`` names its blobs by layer, which are the reference's names too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssdconv.converters.caffe.reader import read_caffemodel
from ssdconv.converters.inspect import inspect
from ssdconv.converters.pytorch.backbone import read_backbone
from ssdconv.converters.tensors import Array
from ssdconv.errors import MappingError, UsageError
from ssdconv.ssd_ref import checkpoint
from ssdconv.ssd_ref.checkpoint import load_backbone
from ssdconv.ssd_ref.model import SSD

PREFIX = "backbone."


def backbone_tensors(path: Path, model: SSD) -> dict[str, Tensor]:
    """The tensors of ``model.backbone`` from a file, under the model's names.

    Args:
        path: a backbone file or a detector that ssdconv wrote, a .caffemodel, or a .pth with VGG16's convolutions.
        model: the network to train; its backbone may be filled meanwhile.

    Raises:
        UsageError: a layer graph, or a file that has to be converted first.
        MappingError: another backbone.
        MissingError, FormatError, UnsafeFileError: see the readers.
    """
    if model.config.staged is None:
        raise UsageError("a network read from a layer graph has no backbone of its own", where=model.config.name)
    if path.suffix in (".params", ".h5", ".npz"):
        raise UsageError(
            "a backbone in this format has to be converted first",
            where=str(path),
            hint="`ssdconv gluon2pt FILE.params backbone.pth --backbone NAME` for GluonCV's",
        )
    if path.suffix == ".caffemodel":
        return _checked(_caffe(path), model, path)
    summary = inspect(path)
    if summary.backbone is not None:
        load_backbone(model, path)
        return {f"{PREFIX}{name}": tensor for name, tensor in model.backbone.state_dict().items()}
    if summary.source == "ssdconv":
        held = checkpoint.read(path).state_dict
        return _checked({n: t for n, t in held.items() if n.startswith(PREFIX)}, model, path)
    return _checked({name: _tensor(array) for name, array in read_backbone(path).items()}, model, path)


def _caffe(path: Path) -> dict[str, Tensor]:
    with read_caffemodel(path) as table:
        found = {}
        for name, lazy in table.items():
            layer, _, index = name.rpartition("/")
            if index in ("0", "1") and not layer.startswith("fc8"):
                found[f"{PREFIX}{layer}.conv.{('weight', 'bias')[int(index)]}"] = _tensor(lazy.load())
        return found


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(np.array(array, np.float32))


def _checked(held: dict[str, Tensor], model: SSD, path: Path) -> dict[str, Tensor]:
    """Exactly the backbone's tensors, reshaped where Caffe's old files write four axes for a bias."""
    wanted = {f"{PREFIX}{name}": tensor for name, tensor in model.backbone.state_dict().items()}
    result = {}
    for name, tensor in wanted.items():
        if name not in held or held[name].squeeze().shape != tensor.squeeze().shape:
            raise MappingError(
                f"the file does not hold the backbone of {model.config.name}: tensor {name!r}",
                where=str(path),
                expected=tuple(tensor.shape),
                got=tuple(held[name].shape) if name in held else "no such tensor",
            )
        result[name] = held[name].reshape(tensor.shape)
    return result
