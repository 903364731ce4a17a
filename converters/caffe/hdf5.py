"""Read ``.caffemodel.h5``: the weights of a Caffe net in HDF5, without the net itself.

Caffe writes ``/data/<layer>/<i>``, a group for every layer and a dataset for every blob, float32 or float64 in C order; a layer
whose name holds slashes lies in groups within groups. Of parameters that layers share only the first holder's are stored. ``/diff``
(gradients, on demand) is left alone. Source: ``Net::ToHDF5`` of BVLC Caffe.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import h5py

from ssdconv.converters import h5
from ssdconv.converters.caffe.net import CaffeLayer, CaffeNet
from ssdconv.converters.opened import OpenedFile
from ssdconv.converters.tensors import Array, LazyTensor, TensorTable
from ssdconv.errors import FormatError

FORMAT = "caffemodel.h5"
_STATE = ("iter", "learned_net")


def kind_of(path: Path) -> str:
    """What Caffe would call an HDF5 file: "weights", "state" (of a training run), or "" where Caffe wrote no such file."""
    try:
        with h5.naming(str(path)), h5py.File(path, "r", locking=False) as file:
            names = set(file)
            if names >= set(_STATE):
                return "state"
            return "weights" if "data" in names and names <= {"data", "diff"} else ""
    except FormatError:
        return ""


def read_hdf5(path: Path) -> TensorTable:
    """Open a ``.caffemodel.h5``.

    Returns:
        Tensors ``<layer>/<index>``, layers by name. Found is a ``CaffeNet`` of the layers with the shapes of their blobs; types and
        connections are not in such a file.

    Raises:
        MissingError: no such file.
        FormatError: damaged, no blobs, or numbers that do not count the blobs of a layer.
        UnsafeFileError: something leads out of the file.
    """
    file = OpenedFile(path)
    opened: Any = None
    try:
        with h5.naming(str(path)):
            opened = h5py.File(path, "r", locking=False)
        tensors: dict[str, LazyTensor] = {}
        for name, found in h5.walk(opened, str(path)):
            if not isinstance(found, h5py.h5g.GroupID) and name.startswith("data/"):
                tensors[name.removeprefix("data/")] = _tensor(name, found, path, file)
        layers = _layers(tensors, str(path))
    except BaseException:
        _close(opened, file)
        raise
    net, close = CaffeNet("", {}, layers), partial(_close, opened, file)
    return TensorTable(path, FORMAT, tensors, found=net, unchanged=file.unchanged, close=close)


def _tensor(name: str, dataset: Any, path: Path, file: OpenedFile) -> LazyTensor:
    place = f"{path}, /{name}"
    with h5.naming(place):
        shape, dtype = tuple(int(side) for side in dataset.shape), h5.dtype_of(dataset).newbyteorder("=")
    return LazyTensor(name.removeprefix("data/"), shape, dtype, partial(_load_dataset, dataset, file, place), place)


def _layers(tensors: dict[str, LazyTensor], where: str) -> tuple[CaffeLayer, ...]:
    """Layers with the shapes of their blobs, and ``tensors`` put into the blobs' order."""
    blobs: dict[str, dict[int, LazyTensor]] = {}
    for name, tensor in tensors.items():
        layer, _, index = name.rpartition("/")
        if not layer or not index.isdecimal() or str(int(index)) != index:
            raise FormatError(
                "a dataset is no blob of a layer", where=f"{where}, /data/{name}", expected="/data/<layer>/<number>"
            )
        blobs.setdefault(layer, {})[int(index)] = tensor
    if not blobs:
        raise FormatError("the file holds no blobs", where=where, expected="/data/<layer>/<number>")
    tensors.clear()
    layers = []
    for layer, held in blobs.items():
        if sorted(held) != list(range(len(held))):
            # The others are shared with an earlier layer, which holds them; the mapping knows which those are.
            tensors.update((t.name, t) for _, t in sorted(held.items()))
            continue
        tensors.update((held[i].name, held[i]) for i in range(len(held)))
        layers.append(CaffeLayer(layer, "", blobs=tuple(held[i].shape for i in range(len(held)))))
    return tuple(layers)


def _load_dataset(dataset: Any, file: OpenedFile, where: str) -> Array:
    file.unchanged()
    return h5.load(dataset, where)


def _close(opened: Any, file: OpenedFile) -> None:
    if opened is not None:
        opened.close()
    file.close()
