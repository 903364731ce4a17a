"""Which names a pickle of plain weights may hold, and the refusal of all others.

An allow-list, as torch's ``weights_only``: containers, tensors, storages, dtypes, and numbers as NumPy saves them. Everything
else stands for code that a normal unpickler would import and run.
"""

from __future__ import annotations

from collections.abc import Iterable

from ssdconv.converters.pytorch.machine import Global
from ssdconv.errors import UnsafeFileError

DTYPES: dict[str, str] = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}
"""torch's storage classes and the dtype of their elements (little-endian; bfloat16 has none in NumPy)."""

REBUILD = frozenset(("_rebuild_tensor", "_rebuild_tensor_v2"))
"""``torch._utils`` functions that make a tensor of (storage, offset, size, stride, …)."""
PARAMETER = "_rebuild_parameter"

_PYTHON = frozenset(
    ("set", "frozenset", "dict", "list", "tuple", "int", "float", "complex", "bool", "bytearray", "long")
)
_NUMBERS = "float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool"
_KINDS = ("Float", "Double", "Half", "Long", "Int", "Short", "Char", "Byte", "Bool")
_TORCH = frozenset(("Size", "device", "dtype", "Tensor", *_NUMBERS.split(), *(f"{kind}Tensor" for kind in _KINDS)))
_OTHERS = frozenset(
    (
        ("_codecs", "encode"),
        ("collections", "OrderedDict"),
        ("collections", "defaultdict"),
        ("collections", "Counter"),
        ("torch.nn.parameter", "Parameter"),
        ("torch._utils", PARAMETER),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy._core.multiarray", "_reconstruct"),
    )
)

WAY_OUT = (
    "this file holds a program, not just weights. On a machine that you trust with it and that has the model's own code, load "
    "it there and save the tensors alone: torch.save(model.state_dict(), 'weights.pth'); then convert weights.pth"
)


def is_storage(name: Global) -> bool:
    """Whether a global is one of torch's storage classes (``torch.cuda`` ones count as their plain form)."""
    return name.module in ("torch", "torch.cuda", "torch.storage") and name.name in DTYPES


def is_allowed(name: Global) -> bool:
    """Whether a pickle of plain weights may name it."""
    module, attribute = name.module, name.name
    return (
        (module, attribute) in _OTHERS
        or is_storage(name)
        or (module in ("builtins", "__builtin__") and attribute in _PYTHON)
        or (module in ("torch", "torch.cuda") and attribute in _TORCH)
        or (module == "torch._utils" and attribute in REBUILD)
    )


def refuse_code(names: Iterable[Global], where: str) -> None:
    """Raise unless every name is allowed.

    Raises:
        UnsafeFileError: the message lists what the file would import and run.
    """
    unsafe = sorted({str(name) for name in names if not is_allowed(name)})
    if unsafe:
        shown = ", ".join(unsafe[:24]) + (f" and {len(unsafe) - 24} more" if len(unsafe) > 24 else "")
        raise UnsafeFileError(
            f"refused: loading this file would import and run {len(unsafe)} things that it names: {shown}",
            where=where,
            expected="tensors and plain containers",
            hint=WAY_OUT,
        )
