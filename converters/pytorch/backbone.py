"""``vgg16_reducedfc.pth``: VGG16's convolutions alone, from which ssd.pytorch and others start training.

The file is a copy of Caffe's VGG weights of unclear history, so which channel order its first layer reads is not known; for
training that hardly matters, and ``order.order_like`` decides it against a file of known order.
"""

from __future__ import annotations

from pathlib import Path

from ssdconv.converters.mapping import TensorMapping
from ssdconv.converters.pytorch.reader import read_pth
from ssdconv.converters.pytorch.styles import entries
from ssdconv.converters.tensors import Array
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
