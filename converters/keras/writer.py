"""Write HDF5 files as ``save_weights(path, save_format="h5")`` of Keras 2 writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from ssdconv.converters.tensors import Array
from ssdconv.errors import UsageError
from ssdconv.ssd_ref.files import atomic_path

KERAS_VERSION = "2.15.0"
"""The version whose form this is; Keras reads it to choose conversions, of which this one needs none."""


def write_weights(dst: Path, layers: Mapping[str, Mapping[str, Array]]) -> None:
    """Write layers with their weights, atomically; the same bytes for the same tensors.

    Args:
        dst: the file.
        layers: layer name -> weight name (``conv1_1/kernel:0``) -> array, in the order of the file.

    Raises:
        UsageError: nothing to write.
        OutputError: the file could not be written.
    """
    if not layers:
        raise UsageError("no tensor to write", where=str(dst))
    with atomic_path(dst) as temporary, h5py.File(temporary, "w", track_order=False) as file:
        file.attrs["layer_names"] = np.array([name.encode() for name in layers])
        file.attrs["backend"] = np.bytes_(b"tensorflow")
        file.attrs["keras_version"] = np.bytes_(KERAS_VERSION.encode())
        for layer, weights in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = np.array([name.encode() for name in weights])
            for name, array in weights.items():
                group.create_dataset(name, data=np.ascontiguousarray(array), track_times=False)
