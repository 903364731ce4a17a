"""The two checkpoint containers: writing them tensor by tensor, what stands in their description, and the folders that hubs want.

``write_pth`` makes the zip that ``torch.save`` makes (uncompressed records ``archive/data/<i>`` on 64-byte boundaries
and a protocol-2 pickle), ``write_safetensors`` the format of github.com/huggingface/safetensors. ``torch.save`` and safetensors' own
``save_file`` take all tensors at once; here memory is bounded by the largest tensor, the same input gives the same bytes, and the
text that describes the checkpoint comes last, so that it may hold a digest of bytes that are still being read. Imports no torch.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ssdconv.errors import FormatError, MissingError, OutputError, SsdconvError
from ssdconv.ssd_ref.gate import read_input

Array = npt.NDArray[Any]
ALIGNMENT = 64
"""Bytes; what torch uses too, so that tensors can be used where they lie in a memory map."""


@dataclass(frozen=True)
class TensorSource:
    """A tensor to be written; ``load`` is called once, in order, and its result dropped after writing."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    load: Callable[[], Array]

    @property
    def count(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    def bytes(self) -> memoryview:
        """The tensor's C-order little-endian bytes."""
        array = np.asarray(self.load(), self.dtype.newbyteorder("<"), order="C")  # ascontiguousarray gives () one axis
        if array.shape != self.shape:
            raise OutputError(f"tensor {self.name!r} changed its shape", expected=self.shape, got=array.shape)
        return array.reshape(-1).data.cast("B") if array.size else memoryview(b"")


@dataclass(frozen=True)
class _Storage:
    key: int
    kind: Any
    count: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    shape: tuple[int, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        import torch

        stride, step = [], 1
        for side in reversed(self.shape):
            stride.append(step)
            step *= max(side, 1)
        arguments: tuple[Any, ...] = (self.storage, 0, self.shape, tuple(reversed(stride)), False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, _Storage):
            return ("storage", obj.kind, str(obj.key), "cpu", obj.count)
        return None


def write_pth(path: Path, tensors: Iterable[TensorSource], key: str, text: Callable[[], str]) -> None:
    """Write ``{key: text(), "state_dict": {name: tensor}}`` as ``torch.save`` would; ``text`` is called last."""
    import torch

    kinds = {
        "float32": torch.FloatStorage,
        "float64": torch.DoubleStorage,
        "float16": torch.HalfStorage,
        "int64": torch.LongStorage,
        "int32": torch.IntStorage,
    }
    state: OrderedDict[str, _Tensor] = OrderedDict()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=False) as archive, _EarlySync() as sync:
        for index, tensor in enumerate(tensors):
            _record(archive, f"data/{index}", tensor.bytes())
            sync.wrote(archive.fp, tensor.count * tensor.dtype.itemsize)
            state[tensor.name] = _Tensor(_Storage(index, kinds[tensor.dtype.name], tensor.count), tensor.shape)
        buffer = io.BytesIO()
        _Pickler(buffer, 2).dump({key: text(), "state_dict": state})
        _record(archive, "data.pkl", buffer.getbuffer())
        _record(archive, "byteorder", memoryview(b"little"))
        _record(archive, "version", memoryview(b"3\n"))


class _EarlySync:
    """Flushes what is written to the disk from another thread while the next tensors are prepared.

    The file is synced once more at the end in any case; without this, that last sync would wait for everything.
    """

    STEP = 8 << 20

    def __init__(self) -> None:
        self._pending = 0
        self._pool = ThreadPoolExecutor(1, "sync")

    def wrote(self, stream: Any, count: int) -> None:
        self._pending += count
        if self._pending >= self.STEP:
            self._pending = 0
            stream.flush()
            self._pool.submit(os.fsync, stream.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def _record(archive: zipfile.ZipFile, name: str, data: memoryview) -> None:
    info = zipfile.ZipInfo(f"archive/{name}")
    assert archive.fp is not None
    header = archive.fp.tell() + 30 + len(info.filename) + 4
    padding = -header % ALIGNMENT
    info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
    with archive.open(info, "w") as stream:
        stream.write(data)


_SAFE = {"float32": "F32", "float64": "F64", "float16": "F16", "int64": "I64", "int32": "I32"}


def write_safetensors(
    path: Path, tensors: Sequence[TensorSource], key: str, text: Callable[[], str], draft: str
) -> None:
    """Write tensors with ``text()`` as the metadata ``key``; ``draft`` has the length that the text will have."""
    ordered = sorted(tensors, key=lambda t: (-t.dtype.itemsize, t.name))
    with open(path, "wb", buffering=0) as stream, _EarlySync() as sync:
        head = _header(ordered, key, draft)
        stream.write(head)
        for tensor in ordered:
            data = tensor.bytes()
            while data:
                data = data[stream.write(data) :]
            sync.wrote(stream, tensor.count * tensor.dtype.itemsize)
        final = _header(ordered, key, text())
        if len(final) != len(head):
            raise OutputError("the description of the checkpoint changed its length while it was written")
        stream.seek(0)
        stream.write(final)


def _header(tensors: Sequence[TensorSource], key: str, text: str) -> bytes:
    table: dict[str, Any] = {"__metadata__": {key: text}}
    offset = 0
    for tensor in tensors:
        size = tensor.count * tensor.dtype.itemsize
        table[tensor.name] = {
            "dtype": _SAFE[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    encoded = json.dumps(table, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded


PROVENANCE: dict[str, type] = {
    **dict.fromkeys(("file", "sha256", "source", "format", "ssdconv"), str),
    **dict.fromkeys(("training", "prototxt", "request", "settings", "stored_shapes", "spec"), dict),
    "evidence": list,
}
"""Kinds of the parts of a provenance that are read again."""


def check_provenance(provenance: Any, path: Path) -> None:
    """Refuse a provenance whose parts are not of the kinds that are written.

    Raises:
        FormatError: names the part.
    """
    if not isinstance(provenance, dict):
        raise FormatError("damaged checkpoint: its provenance is no table", where=str(path))
    for name, kind in PROVENANCE.items():
        if not isinstance(provenance.get(name), kind | None):
            got = type(provenance[name]).__name__
            raise FormatError(
                f"damaged checkpoint: provenance {name!r} is no {kind.__name__}", where=str(path), got=got
            )


WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


def described(weights: Path) -> bool:
    """Whether a file is the weights of a hub folder, with a description of ours beside it."""
    if weights.name != WEIGHTS:
        return False
    try:
        found = json.loads(read_input(weights.parent / CONFIG, "document"))
    except (SsdconvError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.keys() >= {"version", "config", "provenance"}


def agreed(text: str | None, beside: Path) -> str | None:
    """The description in a folder's weights, or in its ``config.json`` where the weights lost theirs; two must be one.

    Args:
        text: the description (JSON) inside the weights, None where there is none.
        beside: the folder's ``config.json``; it may be absent.

    Raises:
        FormatError: it holds no description, or another network's.
    """
    try:
        other = json.loads(read_input(beside, "document"))
        told = {key: other[key] for key in ("version", "config", "provenance")}
    except MissingError:
        return text
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(f"no description of a network: {error}", where=str(beside)) from None
    if text is not None and _config_of(text) != told["config"]:
        raise FormatError(
            f"{CONFIG} and {WEIGHTS} describe different networks",
            where=str(beside),
            hint="export the folder again; editing one of the two is not enough",
        )
    return text if text is not None else json.dumps(told)


def _config_of(text: str) -> object:
    try:
        return json.loads(text)["config"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
