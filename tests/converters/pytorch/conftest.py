"""Narrow PyTorch networks with seeded weights, and files of every format of torch.save."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssdconv.converters.pytorch.source import entries
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.model import seeded_tensors
from ssdconv.ssd_ref.networks.pytorch import KINDS, pytorch

State = OrderedDict[str, torch.Tensor]


def state_of(name: str, classes: int | None = None, seed: int = 3, **options: Any) -> tuple[SSDConfig, State]:
    """A network with an eighth of the channels, and its state dict under the project's names."""
    config = pytorch(name, classes, width=8, **options)
    tensors = seeded_tensors(config, seed)
    rows = entries(config, KINDS[name].style)
    return config, OrderedDict((row.source, torch.from_numpy(tensors[row.target])) for row in rows)


def tar_bytes(state: Mapping[str, torch.Tensor], shared: bool = False) -> bytes:
    """The format of torch before 0.1.12, put together from its description (torch/serialization.py, legacy_load).

    With ``shared`` all tensors lie in one storage, each in a part of it that has a key of its own.
    """
    storages, tensors = io.BytesIO(), io.BytesIO()
    pickle.dump(1 if shared else len(state), storages, 2)
    pickle.dump(len(state), tensors, 2)
    arrays = [np.ascontiguousarray(tensor.detach().numpy()) for tensor in state.values()]
    parts, start = [], 3  # three numbers that belong to no tensor come first
    if shared:
        joined = np.concatenate([np.zeros(start, "f4"), *(array.ravel() for array in arrays)])
        pickle.dump((7, "cpu", torch.FloatStorage), storages, 2)
        storages.write(struct.pack("<q", joined.size) + joined.tobytes())
    for index, array in enumerate(arrays):
        if shared:
            parts.append((1000 + index, 7, start, array.size))
            start += array.size
        else:
            pickle.dump((1000 + index, "cpu", torch.FloatStorage), storages, 2)
            storages.write(struct.pack("<q", array.size) + array.tobytes())
        pickle.dump((index, 1000 + index, torch.FloatTensor), tensors, 2)
        stride = [s // 4 for s in array.strides]
        tensors.write(struct.pack(f"<ii{array.ndim}q{array.ndim}qq", array.ndim, 0, *array.shape, *stride, 0))
    pickle.dump(parts, storages, 2)

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return str(value.key) if isinstance(value, _Key) else None

    saved = io.BytesIO()
    Pickler(saved, 2).dump(OrderedDict((name, _Key(i)) for i, name in enumerate(state)))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:", format=tarfile.PAX_FORMAT) as tar:
        members = {"sys_info": pickle.dumps({}, 2), "pickle": saved.getvalue()}
        for name, data in {**members, "storages": storages.getvalue(), "tensors": tensors.getvalue()}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


class _Key:
    def __init__(self, key: int) -> None:
        self.key = key


@pytest.fixture(scope="session")
def make() -> Callable[..., tuple[SSDConfig, State]]:
    """See ``state_of``."""
    return state_of


@pytest.fixture(scope="session")
def tar() -> Callable[..., bytes]:
    """See ``tar_bytes``."""
    return tar_bytes


@pytest.fixture(scope="session")
def narrow() -> tuple[SSDConfig, State]:
    """ssd.pytorch's SSD300 for VOC with an eighth of the channels."""
    return state_of("ssd_pytorch_ssd300_voc")


@pytest.fixture
def pth(tmp_path: Path, narrow: tuple[SSDConfig, State]) -> Callable[..., Path]:
    """Save the narrow network with some tensors changed (None: left out)."""

    def save(name: str = "x.pth", **changes: Any) -> Path:
        torch.save(OrderedDict((k, v) for k, v in {**narrow[1], **changes}.items() if v is not None), tmp_path / name)
        return tmp_path / name

    return save
