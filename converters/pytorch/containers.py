"""The three file formats of ``torch.save``: zip (torch 1.6 on), several pickles in a row (0.1.12 to 1.5), tar (before).

Facts: torch/serialization.py. Each format gives one pickled object, whose storages lie elsewhere in the file, and where each storage lies.
Pickles are read by ``machine``, which runs nothing. An allow-list, as torch's ``weights_only``, says which names a pickle of plain weights may
hold: containers, tensors, storages, dtypes, and numbers as NumPy saves them. Everything else stands for code that a normal unpickler would
import and run, and is refused. torch itself reads the tar format only by unpickling it without restraint (``legacy_load``).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ssdconv.converters.opened import Archive
from ssdconv.converters.pytorch.machine import MAX_BYTES, Global, Machine, Persistent, PickledCall, Result
from ssdconv.errors import FormatError, UnsafeFileError

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


MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The first pickle of the middle format, behind its protocol opcode."""
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C


@dataclass(frozen=True)
class Storage:
    """One flat array of the file.

    Attributes:
        dtype: NumPy's word for the elements, or "bfloat16".
        count: number of elements.
        load: its bytes, checked where the format has a checksum.
    """

    dtype: str
    count: int
    load: Callable[[], memoryview] = field(repr=False)


@dataclass(frozen=True)
class TensorView:
    """A tensor of the tar format: part of a storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Content:
    """What a file holds.

    Attributes:
        format: "torch zip", "torch legacy" or "torch tar".
        value: the saved object, as ``machine`` gives it.
        storages: persistent key -> storage, or a whole tensor in the tar format.
    """

    format: str
    value: Any
    storages: Mapping[Any, Storage | TensorView]


def item_size(dtype: str) -> int:
    """Bytes per element."""
    return 2 if dtype == "bfloat16" else int(dtype[2:])


def from_zip(archive: Archive) -> Content:
    """The zip format: ``<name>/data.pkl`` and one stored member ``<name>/data/<key>`` per storage.

    Raises:
        FormatError: not such an archive, or damaged.
        UnsafeFileError: its pickle names code.
    """
    found = [name for name in archive.members if name.endswith("/data.pkl") or name == "data.pkl"]
    if len(found) != 1:
        raise FormatError(
            "a zip archive, but not one of torch's", where=archive.where, expected="one member data.pkl", got=len(found)
        )
    base = found[0].removesuffix("data.pkl")
    member = archive.members[found[0]]
    if member.size > MAX_BYTES:
        raise FormatError(
            "the pickle is larger than any network's", where=archive.where, expected=f"<= {MAX_BYTES}", got=member.size
        )
    where = f"{archive.where}, member {found[0]}"
    result = Machine(archive.read(member), where=where).run()
    refuse_code(result.globals, archive.where)
    big = (
        f"{base}byteorder" in archive.members and archive.head(archive.members[f"{base}byteorder"], 8).strip() == b"big"
    )
    storages: dict[Any, Storage | TensorView] = {}
    for key, dtype, count in _storage_keys(result.value, where):
        data = archive.members.get(f"{base}data/{key}")
        if data is None or data.size != count * item_size(dtype):
            raise FormatError(
                f"storage {key!r} is missing or has another size than its tensors say",
                where=archive.where,
                expected=f"{count * item_size(dtype)} bytes in {base}data/{key}",
                got="no such member" if data is None else data.size,
            )
        storages[key] = Storage(_ordered(dtype, big), count, partial(archive.read, data))
    return Content("torch zip", result.value, storages)


def from_pickles(data: Any, where: str, check: Callable[[], None]) -> Content:
    """The middle format: five pickles (magic number, version, system, object, storage keys), then the storages.

    Raises:
        FormatError: damaged or cut short.
        UnsafeFileError: a pickle names code.
    """
    view = memoryview(data)
    parts: list[Result] = []
    for _ in range(5):
        parts.append(Machine(view, parts[-1].end if parts else 0, where).run())
        refuse_code(parts[-1].globals, where)
    magic, _, system, saved, keys = (part.value for part in parts)
    if magic != _MAGIC_NUMBER or not isinstance(keys, list):
        raise FormatError("not a file of torch.save", where=where)
    big = isinstance(system, dict) and system.get("little_endian") is False
    declared = {key: (dtype, count) for key, dtype, count in _storage_keys(saved, where)}
    storages: dict[Any, Storage | TensorView] = {}
    at = parts[-1].end
    for key in keys:
        count, at = _count(view, at, where)
        # A storage that no tensor uses has no declared type; torch writes none such.
        dtype, wanted = declared.get(str(key), ("", -1))
        end = at + count * item_size(dtype) if dtype else -1
        if count != wanted or end > len(view):
            raise FormatError(
                f"storage {str(key)!r} is cut short or has another size than its tensors say",
                where=f"{where}, offset {at}",
                expected=f"{wanted} elements of {dtype or 'a known type'}",
                got=f"{count} elements and {len(view) - at} bytes left",
            )
        storages[str(key)] = Storage(_ordered(dtype, big), count, partial(_slice, view, at, end, check))
        at = end
    missing = [key for key in declared if key not in storages]
    if missing or at != len(view):
        what = f"storage {missing[0]!r} is missing" if missing else f"{len(view) - at} bytes too many"
        raise FormatError(f"damaged file: {what}", where=f"{where}, offset {at}")
    return Content("torch legacy", saved, storages)


def _slice(view: memoryview, start: int, end: int, check: Callable[[], None]) -> memoryview:
    check()
    return view[start:end]


def _count(view: memoryview, at: int, where: str) -> tuple[int, int]:
    """A storage's element count (int64) and where its elements start."""
    if at + 8 > len(view):
        raise FormatError("the file is cut short: a storage is missing", where=f"{where}, offset {at}")
    count = struct.unpack_from("<q", view, at)[0]
    if count < 0:
        raise FormatError("a storage has a negative size", where=f"{where}, offset {at}", got=count)
    return count, at + 8


def _ordered(dtype: str, big: bool) -> str:
    return dtype.replace("<", ">") if big else dtype


def _storage_keys(root: Any, where: str) -> list[tuple[str, str, int]]:
    """(key, dtype, elements) of every storage that the object refers to; equal keys once."""

    found: dict[str, tuple[str, int]] = {}
    for item in persistent(root):
        key, dtype, count = storage_id(item, where)
        if found.setdefault(key, (dtype, count)) != (dtype, count):
            raise FormatError(f"storage {key!r} is declared in two ways", where=where)
    return [(key, dtype, count) for key, (dtype, count) in found.items()]


def storage_id(item: Persistent, where: str) -> tuple[str, str, int]:
    """(key, dtype, elements) of ``("storage", class, key, location, elements, …)``.

    Raises:
        FormatError: not of this form.
    """
    key = item.key
    if (
        isinstance(key, tuple)
        and len(key) >= 5
        and key[0] in ("storage", b"storage")
        and isinstance(key[1], Global)
        and is_storage(key[1])
        and isinstance(key[2], str | int)
        and isinstance(key[4], int)
        and key[4] >= 0
        and (len(key) == 5 or key[5] is None or view_offset(item) >= 0)
    ):
        return str(key[2]), DTYPES[key[1].name], key[4]
    raise FormatError("a tensor refers to a storage in an unknown way", where=where, got=repr(type(key)))


def view_offset(item: Persistent) -> int:
    """Elements of the storage before the part that a reference means (torch before 0.4), -1 where that is damaged."""
    part = item.key[5] if isinstance(item.key, tuple) and len(item.key) > 5 else None
    if part is None:
        return 0
    fits = isinstance(part, tuple) and len(part) == 3 and isinstance(part[1], int)
    return part[1] if fits else -1


def persistent(root: Any) -> Iterator[Persistent]:
    """Every reference to a storage, each object visited once, in the order met."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, str | bytes | int | float | bool | None | Global) or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Persistent):
            yield node
        elif isinstance(node, PickledCall):
            waiting += [node.values, node.items, node.state, node.args]
        elif isinstance(node, dict):
            waiting += list(node.values())[::-1]
        elif isinstance(node, list | tuple | set | frozenset):
            waiting += list(node)[::-1]


def as_dict(node: Any) -> dict[Any, Any] | None:
    """A saved dict or OrderedDict as a dict, None for anything else."""
    if isinstance(node, dict):
        return node
    if isinstance(node, PickledCall) and isinstance(node.target, Global) and node.target.module == "collections":
        items = dict(node.items)
        # Python 2 saved an OrderedDict as a list of its pairs.
        pairs = node.args[0] if isinstance(node.args, tuple) and node.args else []
        for pair in pairs if isinstance(pairs, list) else []:
            if isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str):
                items[pair[0]] = pair[1]
        return items
    return None


def tensor_parts(node: Any) -> tuple[Persistent, int, tuple[int, ...], tuple[int, ...]] | Persistent | None:
    """(storage, offset, size, stride) of a saved tensor or parameter; a bare reference (tar format); None for anything else."""
    for _ in range(4):  # a parameter holds a tensor
        if not (
            isinstance(node, PickledCall)
            and isinstance(node.target, Global)
            and isinstance(node.args, tuple)
            and node.args
        ):
            break
        if node.target == Global("torch._utils", PARAMETER) or node.target == Global("torch.nn.parameter", "Parameter"):
            node = node.args[0]
            continue
        if node.target.module == "torch._utils" and node.target.name in REBUILD and len(node.args) >= 4:
            storage, offset, size, stride = node.args[:4]
            sides, steps = _sides(size), _sides(stride)
            if isinstance(storage, Persistent) and isinstance(offset, int) and sides is not None and steps is not None:
                return storage, offset, sides, steps
        return None
    return node if isinstance(node, Persistent) else None


def _sides(node: Any) -> tuple[int, ...] | None:
    if (
        isinstance(node, PickledCall)
        and node.target == Global("torch", "Size")
        and isinstance(node.args, tuple)
        and node.args
    ):
        node = node.args[0]
    if isinstance(node, list | tuple) and all(type(n) is int and 0 <= n < 1 << 62 for n in node) and len(node) <= 32:
        return tuple(node)
    return None


PARTS = ("pickle", "storages", "tensors")
_BLOCK = 512
MAX_PARTS = 10_000


def from_tar(data: Any, where: str, check: Callable[[], None]) -> Content:
    """Read the tar format.

    Raises:
        FormatError: not of this format, damaged, or cut short.
        UnsafeFileError: a pickle names code.
    """
    parts = tar_members(memoryview(data), where)
    missing = [name for name in PARTS if name not in parts]
    if missing:
        raise FormatError(
            "a tar archive, but not one of torch's",
            where=where,
            expected=f"members {', '.join(PARTS)}",
            got=", ".join(list(parts)[:5]) or "none",
            hint="unpack it first, if a weight file is in it",
        )
    storages = _Reader(parts["storages"], f"{where}, member storages").storages(check)
    views = _Reader(parts["tensors"], f"{where}, member tensors").tensors(storages)
    saved = Machine(parts["pickle"], where=f"{where}, member pickle").run()
    refuse_code(saved.globals, where)
    return Content("torch tar", saved.value, {**storages, **views})


def tar_members(data: memoryview, where: str) -> dict[str, memoryview]:
    """Regular files of a tar archive by name, without a leading ``./``.

    Raises:
        FormatError: damaged.
    """
    found: dict[str, memoryview] = {}
    at = 0
    while at + _BLOCK <= len(data) and any(data[at : at + _BLOCK]):
        head = bytes(data[at : at + _BLOCK])
        digits = head[124:136].rstrip(b"\0 ").lstrip(b" ")
        total = sum(head[:148]) + sum(head[156:]) + 8 * 32
        if not digits.isdigit() or head[148:156].strip(b"\0 ") != b"%06o" % total or len(found) > MAX_PARTS:
            raise FormatError("the tar archive is damaged", where=f"{where}, offset {at}")
        size = int(digits, 8) if not set(digits) & set(b"89") else -1
        start = at + _BLOCK
        if size < 0 or start + size > len(data):
            raise FormatError(
                "the tar archive is cut short", where=f"{where}, offset {at}", got=f"a member of {size} bytes"
            )
        if head[156:157] in (b"0", b"\0"):
            name = head[:100].split(b"\0")[0].decode("utf-8", "backslashreplace").removeprefix("./")
            if name in found:
                raise FormatError(f"two members are called {name!r}", where=f"{where}, offset {at}")
            found[name] = data[start : start + size]
        at = start + -(-size // _BLOCK) * _BLOCK
    return found


class _Reader:
    """Pickles and numbers one behind the other."""

    def __init__(self, data: memoryview, where: str) -> None:
        self.data = data
        self.where = where
        self.at = 0

    def pickle(self) -> Any:
        """The next pickle's value."""
        result = Machine(self.data, self.at, self.where).run()
        refuse_code(result.globals, self.where)
        self.at = result.end
        return result.value

    def count(self) -> int:
        """The next pickle, a number of things."""
        value = self.pickle()
        if type(value) is not int or not 0 <= value <= MAX_PARTS * 10:
            raise self.damaged()
        return value

    def numbers(self, form: str) -> tuple[int, ...]:
        """Fixed-size integers."""
        size = struct.calcsize(form)
        if self.at + size > len(self.data):
            raise self.damaged()
        self.at += size
        return struct.unpack_from(form, self.data, self.at - size)

    def damaged(self) -> FormatError:
        """An error that names the place."""
        return FormatError("damaged or cut short", where=f"{self.where}, offset {self.at}")

    def storages(self, check: Callable[[], None]) -> dict[str, Storage]:
        """Every storage by key, and the parts of storages that have keys of their own."""
        found: dict[str, Storage] = {}
        for _ in range(self.count()):
            about = self.pickle()
            if (
                not isinstance(about, tuple)
                or len(about) != 3
                or not isinstance(about[2], Global)
                or not is_storage(about[2])
            ):
                raise self.damaged()
            dtype = DTYPES[about[2].name]
            (count,) = self.numbers("<q")
            end = self.at + count * item_size(dtype)
            if count < 0 or end > len(self.data):
                raise self.damaged()
            found[str(about[0])] = Storage(dtype, count, partial(_part, self.data, self.at, end, check))
            self.at = end
        views = self.pickle()
        for view in views if isinstance(views, list) else []:
            if not isinstance(view, tuple) or len(view) != 4 or str(view[1]) not in found:
                raise self.damaged()
            root, offset, count = found[str(view[1])], view[2], view[3]
            if type(offset) is not int or type(count) is not int or not 0 <= offset <= offset + count <= root.count:
                raise self.damaged()
            size = item_size(root.dtype)
            found[str(view[0])] = Storage(
                root.dtype, count, partial(_within, root, offset * size, (offset + count) * size)
            )
        return found

    def tensors(self, storages: dict[str, Storage]) -> dict[str, TensorView]:
        """Every tensor by key."""
        found: dict[str, TensorView] = {}
        for _ in range(self.count()):
            about = self.pickle()
            if not isinstance(about, tuple) or len(about) != 3 or str(about[1]) not in storages:
                raise self.damaged()
            (sides, _) = self.numbers("<ii")
            if not 0 <= sides <= 32:
                raise self.damaged()
            size, stride, (offset,) = self.numbers(f"<{sides}q"), self.numbers(f"<{sides}q"), self.numbers("<q")
            if min((*size, *stride, offset)) < 0:
                raise self.damaged()
            found[str(about[0])] = TensorView(storages[str(about[1])], offset, size, stride)
        return found


def _part(data: memoryview, start: int, end: int, check: Callable[[], None]) -> memoryview:
    check()
    return data[start:end]


def _within(root: Storage, start: int, end: int) -> memoryview:
    return root.load()[start:end]
