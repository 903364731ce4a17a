"""Write .npz files: stored members, one .npy each, in the order given and the same bytes for the same tensors."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ssdconv.converters.tensors import Array
from ssdconv.ssd_ref.files import atomic_path

_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_npz(dst: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays so that ``numpy.load`` and ``chainer.serializers.load_npz`` read them, atomically.

    Raises:
        OutputError: the file could not be written; what stood there before is untouched.
    """
    with atomic_path(dst) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            info.external_attr = 0o644 << 16
            with archive.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array, order="C"), allow_pickle=False)
