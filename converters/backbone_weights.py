"""Backbone weights for training in the files that people have: our own, VGG16's .caffemodel, ssd.pytorch's .pth.

Caffe's ``VGG_ILSVRC_16_layers_fc_reduced.caffemodel`` names its blobs by layer, which are the reference's names too. ``vgg16_reducedfc.pth``
holds VGG16's convolutions alone: a copy of Caffe's weights of unclear history, so which channel order its first layer reads is not known.
For training that hardly matters; ``pytorch.source.order_like`` decides it against a file of known order.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssdconv.converters.caffe.reader import read_caffemodel
from ssdconv.converters.inspect import inspect
from ssdconv.converters.pytorch.reader import read_pth
from ssdconv.converters.pytorch.source import entries
from ssdconv.converters.tensors import Array, TensorMapping
from ssdconv.errors import MappingError, UsageError
from ssdconv.ssd_ref import checkpoint
from ssdconv.ssd_ref.checkpoint import load_backbone
from ssdconv.ssd_ref.config import Graph
from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.networks.pytorch import pytorch


def read_backbone(path: str | Path) -> dict[str, Array]:
    """The 30 tensors of a backbone file under the reference's names (``backbone.conv1_1.conv.weight`` …).

    Raises:
        MissingError: no such file.
        FormatError, UnsafeFileError: damaged, or more than tensors.
        MappingError: not VGG16's fifteen convolutions, names and shapes.
    """
    with read_pth(Path(path)) as table:
        bias = table["0.bias"].shape if "0.bias" in table else ()
        width = bias[0] if len(bias) == 1 and 0 < bias[0] <= 64 else 64
        mapping = TensorMapping(tuple(entries(pytorch("ssd_pytorch_ssd300_voc", width=width), "vgg16_reducedfc")))
        mapping.check(table, {e.target: e.target_shape for e in mapping}, where=str(path))
        return {entry.target: array for entry, array in mapping.forward(table)}


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
    if isinstance(model.config.layers, Graph):
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
