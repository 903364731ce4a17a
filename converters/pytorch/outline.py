"""The outline of a ``torch.save`` zip – strings, tensor names, shapes, dtypes – without torch and without running anything.

The pickle inside is walked by the standard library's unpickler with every global replaced: tensors become their shapes,
and whatever is not a tensor or a plain container is refused by name.
"""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from ssdconv.errors import FormatError, UnsafeFileError

MAX_PICKLE = 16 * 1024 * 1024
"""Bytes of pickle that are looked at; an SSD's is about 10 kB."""

DTYPES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


@dataclass(frozen=True)
class Outline:
    """Strings and tensors of a checkpoint; nested names are joined with "/" only where they are not a state dict."""

    strings: dict[str, str] = field(default_factory=dict)
    tensors: tuple[tuple[str, tuple[int, ...], str], ...] = ()


@dataclass(frozen=True)
class _Shape:
    shape: tuple[int, ...]
    dtype: str


def _tensor(storage: Any, offset: Any, size: Any, *_: Any) -> _Shape:
    dtype = storage[1] if isinstance(storage, tuple) and len(storage) > 1 else "unknown"
    return _Shape(tuple(int(n) for n in size), str(dtype))


def _parameter(data: Any, *_: Any) -> Any:
    return data


class _Walker(pickle._Unpickler):
    # The pure-Python unpickler: its memo is a dict, so that a hostile memo index costs nothing.

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if (module, name) in (("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor")):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _parameter
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        raise UnsafeFileError(f"the file wants to call {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        return pid


def outline(path: Path) -> Outline | None:
    """Read the outline of a zip written by ``torch.save``; None for a zip of another kind.

    Raises:
        FormatError: damaged, or too large to be a checkpoint.
        UnsafeFileError: the pickle wants more than tensors and plain data.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info for info in archive.infolist() if info.filename.endswith("/data.pkl")]
            if len(names) != 1:
                return None
            if names[0].file_size > MAX_PICKLE:
                raise FormatError("the pickle is too large for a checkpoint", where=str(path), got=names[0].file_size)
            with archive.open(names[0]) as stream:
                data = stream.read(MAX_PICKLE + 1)
        root = _Walker(BytesIO(data)).load()
    except UnsafeFileError as error:
        raise UnsafeFileError(
            error.what, where=str(path), hint="save the model's state_dict() where it can be loaded, and convert that"
        ) from None
    except FormatError:
        raise
    except Exception as error:  # noqa: BLE001 - any damage ends in one of a dozen exception types of zipfile and pickle
        raise FormatError(f"damaged checkpoint: {error}", where=str(path)) from None
    if not isinstance(root, dict):
        return None
    strings = {k: v for k, v in root.items() if isinstance(k, str) and isinstance(v, str)}
    inner = root.get("state_dict")
    state = inner if isinstance(inner, dict) else root
    tensors = [(str(k), v.shape, v.dtype) for k, v in state.items() if isinstance(v, _Shape)]
    return Outline(strings, tuple(tensors))
