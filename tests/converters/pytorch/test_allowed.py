"""The allow-list, name by name: what is not plain data is refused, wherever it comes from."""

from __future__ import annotations

import builtins
import importlib
import pickle

import pytest

from ssdconv.converters.pytorch.containers import is_allowed, refuse_code
from ssdconv.converters.pytorch.machine import Global, Machine
from ssdconv.errors import UnsafeFileError

PLAIN = {"set", "frozenset", "dict", "list", "tuple", "int", "float", "complex", "bool", "bytearray"}
DATA = {
    "torch": {
        "Size", "device", "dtype", "Tensor",
        "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
        "FloatStorage", "DoubleStorage", "HalfStorage", "BFloat16Storage", "LongStorage", "IntStorage", "ShortStorage",
        "CharStorage", "ByteStorage", "BoolStorage",
        "FloatTensor", "DoubleTensor", "HalfTensor", "LongTensor", "IntTensor", "ShortTensor", "CharTensor", "ByteTensor",
        "BoolTensor",
    },
    "torch._utils": {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"},
    "torch.nn.parameter": {"Parameter"},
    "collections": {"OrderedDict", "defaultdict", "Counter"},
    "_codecs": {"encode"},
    "numpy": {"dtype", "ndarray"},
}  # fmt: skip
"""Module -> names that are data."""
CODE = (
    "os",
    "posix",
    "subprocess",
    "sys",
    "shutil",
    "importlib",
    "runpy",
    "ctypes",
    "pickle",
    "socket",
    "operator",
    "functools",
)
CODE += (
    "torch.hub",
    "torch.serialization",
    "torch.storage",
    "torch.nn",
    "torch.jit",
    "numpy.core.multiarray",
    "copyreg",
)


@pytest.mark.parametrize("module", ["builtins", "__builtin__"])
def test_builtins(module: str) -> None:
    allowed = {
        name
        for name in {*dir(builtins), "long", "file", "execfile", "reduce", "apply"}
        if is_allowed(Global(module, name))
    }
    assert allowed == PLAIN | {"long"}


@pytest.mark.parametrize("module", DATA)
def test_names_of_data(module: str) -> None:
    found = {name for name in dir(importlib.import_module(module)) if is_allowed(Global(module, name))}
    assert found == {name for name in DATA[module] if hasattr(importlib.import_module(module), name)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("module", CODE)
def test_modules_with_code(module: str) -> None:
    names = set(dir(importlib.import_module(module))) if module != "posix" else {"system", "popen", "fork"}
    allowed = {name for name in names if is_allowed(Global(module, name))}
    assert {name for name in allowed if not name.endswith("Storage")} <= {"scalar", "_reconstruct"}


@pytest.mark.parametrize(
    "name", ["eval", "exec", "compile", "__import__", "getattr", "open", "print", "type", "object"]
)
def test_a_pickle_that_calls_a_builtin_is_refused(name: str) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return getattr(builtins, name), ("1",)

    for protocol in (0, 2, 4):
        result = Machine(pickle.dumps(Evil(), protocol)).run()
        with pytest.raises(UnsafeFileError, match=rf"\.{name}"):
            refuse_code(result.globals, "x")
