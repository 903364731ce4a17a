"""Read the tensors of a ``.pth`` file of any torch, without torch and without unpickling.

The pickle is read as data (``machine``), code in it is refused with the list of what it names, and tensors are views of the mapped file
(``containers``). Wrappers that training scripts put around a state dict are taken off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ssdconv.converters.opened import Archive, OpenedFile
from ssdconv.converters.pytorch.containers import (
    MAGIC,
    Content,
    Storage,
    TensorView,
    as_dict,
    from_pickles,
    from_tar,
    from_zip,
    refuse_code,
    tensor_parts,
    view_offset,
)
from ssdconv.converters.pytorch.machine import Machine, Persistent
from ssdconv.converters.tensors import Array, LazyTensor, TensorTable
from ssdconv.errors import FormatError

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "module")
"""Keys under which training scripts save the state dict, in the order that they are looked for."""
MAX_TENSORS = 20_000
MAX_ELEMENTS = 1 << 40
"""Product of the sides that are not 0."""


@dataclass(frozen=True)
class PthFile:
    """What opening found: the keys that led to the state dict, and the file's own text values by key."""

    wrappers: tuple[str, ...]
    strings: Mapping[str, str]


def read_pth(path: Path) -> TensorTable:
    """Open a file written by ``torch.save``.

    Returns:
        Tensors in the file's order, under the names of the state dict, and a ``PthFile``.

    Raises:
        MissingError: no such file.
        FormatError: damaged, or no state dict in it.
        UnsafeFileError: loading it normally would run code; the message lists what.
    """
    file = OpenedFile(Path(path))
    try:
        return parse(file.data, Path(path), file.unchanged, file.close)
    except BaseException:
        file.close()
        raise


def parse(
    data: Any, path: Path, check: Callable[[], None] = lambda: None, close: Callable[[], None] | None = None
) -> TensorTable:
    """The tensors of a whole file's bytes; see ``read_pth``. ``check`` raises when the file was changed meanwhile."""
    where = str(path)
    content = content_of(data, where, check)
    state, wrappers, beside = state_dict(content.value, where)
    tensors, skipped = _tensors(content, state, where)
    warnings = []
    if beside:
        warnings.append(f"the file also holds {', '.join(sorted(beside)[:8])}: not read")
    if skipped:
        warnings.append(f"{len(skipped)} entries are no tensors and were not read, first {skipped[0]!r}")
    root = as_dict(content.value) or {}
    strings = {k: v for k, v in root.items() if isinstance(k, str) and isinstance(v, str)}
    found, told = PthFile(wrappers, strings), tuple(warnings)
    return TensorTable(path, content.format, tensors, found=found, warnings=told, unchanged=check, close=close)


def content_of(data: Any, where: str, check: Callable[[], None]) -> Content:
    """What the file holds, by its format.

    Raises:
        FormatError, UnsafeFileError: see ``read_pth``.
    """
    head = bytes(data[:512])
    if head[:4] == b"PK\x03\x04":
        return from_zip(Archive(data, where, check))
    if head[257:262] == b"ustar":
        return from_tar(data, where, check)
    if head[:1] == b"\x80" and MAGIC in head[:40]:
        return from_pickles(data, where, check)
    if head[:1] == b"\x80" or head[:1] in b"(c}]":
        refuse_code(Machine(data, where=where).run().globals, where)
        raise FormatError(
            "a plain pickle, not a file of torch.save",
            where=where,
            hint="save a state dict with torch.save, and convert that",
        )
    raise FormatError("not a file of torch.save", where=where, got=f"first bytes {head[:8].hex(' ')}")


def state_dict(root: Any, where: str) -> tuple[dict[Any, Any], tuple[str, ...], tuple[str, ...]]:
    """The dict of tensors in what was saved, the keys that led to it, and the keys beside it.

    Raises:
        FormatError: there is none.
    """
    wrappers: list[str] = []
    beside: list[str] = []
    node = root
    for _ in range(4):
        found = as_dict(node)
        if found is None:
            break
        if any(tensor_parts(value) is not None for value in found.values()):
            return found, tuple(wrappers), tuple(beside)
        inner = [key for key in WRAPPERS if as_dict(found.get(key)) is not None]
        if not inner:
            break
        wrappers.append(inner[0])
        beside += [str(key) for key in found if key != inner[0]]
        node = found[inner[0]]
    keys = ", ".join(repr(key) for key in list(as_dict(node) or {})[:8])
    raise FormatError(
        "no tensors by name in this file",
        where=where,
        expected=f"a state dict, bare or under one of {', '.join(WRAPPERS)}",
        got=f"keys {keys}" if keys else type(node).__name__,
    )


def _tensors(content: Content, state: Mapping[Any, Any], where: str) -> tuple[dict[str, LazyTensor], list[str]]:
    """Lazy tensors by name, and the names of other entries."""
    if len(state) > MAX_TENSORS:
        raise FormatError(
            "more tensors than any network has", where=where, expected=f"<= {MAX_TENSORS}", got=len(state)
        )
    tensors: dict[str, LazyTensor] = {}
    skipped: list[str] = []
    for name, node in state.items():
        parts = tensor_parts(node)
        if parts is None or not isinstance(name, str):
            skipped.append(str(name))
        else:
            tensors[name] = _tensor(
                name, _view(parts, content, f"{where}, tensor {name!r}"), f"{where}, tensor {name!r}"
            )
    return tensors, skipped


def _view(parts: Any, content: Content, where: str) -> TensorView:
    """Which part of which storage a tensor is."""
    reference = parts if isinstance(parts, Persistent) else parts[0]
    key = reference.key
    key = str(key[2]) if isinstance(key, tuple) and len(key) > 2 else str(key)
    found = content.storages.get(key)
    if isinstance(parts, Persistent) and isinstance(found, TensorView):
        return found
    if isinstance(parts, Persistent) or not isinstance(found, Storage):
        raise FormatError("refers to data that the file does not hold", where=where)
    _, offset, size, stride = parts
    return TensorView(found, offset + view_offset(reference), size, stride)


def _tensor(name: str, view: TensorView, where: str) -> LazyTensor:
    if len(view.size) != len(view.stride) or view.offset < 0:
        raise FormatError("size and stride do not fit each other", where=where, got=f"{view.size} and {view.stride}")
    if math.prod(max(side, 1) for side in view.size) > MAX_ELEMENTS:  # an empty tensor may have sides beyond any memory
        raise FormatError("a shape beyond any network's", where=where, got=view.size)
    last = view.offset + sum((side - 1) * step for side, step in zip(view.size, view.stride, strict=True))
    if 0 not in view.size and last >= view.storage.count:
        raise FormatError(
            "reaches beyond its storage", where=where, expected=f"<= {view.storage.count} elements", got=last + 1
        )
    dtype = np.dtype("<f4" if view.storage.dtype == "bfloat16" else view.storage.dtype)
    return LazyTensor(name, view.size, dtype.newbyteorder("="), partial(_load, view), where)


def _load(view: TensorView) -> Array:
    """The tensor: a view of the file where it lies in C order. bfloat16 becomes float32, which holds it exactly."""
    data = view.storage.load()
    if view.storage.dtype in ("bfloat16", ">bfloat16"):
        flat = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    else:
        flat = np.frombuffer(data, view.storage.dtype)
        if not flat.dtype.isnative:
            flat = flat.astype(flat.dtype.newbyteorder("="))
    if 0 in view.size:
        return np.empty(view.size, flat.dtype)
    strides = [step * flat.itemsize for step in view.stride]
    part = np.lib.stride_tricks.as_strided(flat[view.offset :], view.size, strides, writeable=False)
    return np.asarray(part, order="C")
