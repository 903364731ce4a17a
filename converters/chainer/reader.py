"""Read .npz files as ``chainer.serializers.save_npz`` writes them, without Chainer and without NumPy's loader.

Each tensor is a member ``<name>.npy`` of a zip archive. Only the members' headers are read on opening; a stored member is
a view of the mapped file, a deflated one is unpacked when it is loaded, never beyond what its header declares.

The header of NumPy's .npy format, parsed without ``eval`` and with Python integers.

Format: numpy.lib.format, versions 1.0 to 3.0: magic, version, header length, then one Python dict literal with ``descr``,
``fortran_order`` and ``shape``. Only that dict in that form is accepted, with a plain dtype; object arrays (pickles) and
structured dtypes are refused. Shapes are only read here; what they may be is the mapping's business.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ssdconv.converters.opened import Archive, Member, OpenedFile, open_archive
from ssdconv.converters.tensors import Array, LazyTensor, TensorTable
from ssdconv.errors import FormatError, UnsafeFileError

MAGIC = b"\x93NUMPY"
MAX_HEADER = 4096
"""Bytes of a .npy header that are read; NumPy's own are 118 for any array of a network."""
MAX_DIMS = 32
MAX_ELEMENTS = 1 << 40
"""Product of an empty array's other sides; NumPy cannot hold more, though nothing is in it."""

_DESCR = re.compile(r"([<>|=])([fiubcUSOVmM?])(\d{0,9})")
_PLAIN = frozenset(("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"))
_SHAPE = re.compile(r"\(\s*(?:(\d{1,20})L?\s*(?:,\s*\d{1,20}L?\s*)*,?)?\s*\)")
_ITEM = re.compile(
    r"\s*'(?P<key>descr|fortran_order|shape)'\s*:\s*"
    r"(?:'(?P<text>[^'\\]{1,64})'|(?P<flag>True|False)|(?P<shape>\([0-9L,\s]{0,1000}\))|(?P<list>\[))\s*(?P<end>,\s*}|,|})"
)


@dataclass(frozen=True)
class Header:
    """What a .npy header says.

    Attributes:
        dtype: of the elements, with their byte order.
        fortran: elements lie column by column.
        shape: sides as declared.
        length: bytes before the first element.
    """

    dtype: np.dtype[Any]
    fortran: bool
    shape: tuple[int, ...]
    length: int

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, computed with Python integers."""
        return self.dtype.itemsize * prod(self.shape)


def parse_header(head: bytes, where: str) -> Header:
    """Parse the start of a .npy file.

    Args:
        head: the first ``MAX_HEADER`` bytes, or all where it is shorter.
        where: for messages.

    Raises:
        FormatError: not such a file, or a header that NumPy would not write.
        UnsafeFileError: an object array: its elements are a pickle.
    """
    if head[:6] != MAGIC or len(head) < 10:
        raise FormatError("not a .npy array", where=where, expected=repr(MAGIC), got=repr(head[:6]))
    if head[6] == 1:
        (size,), start = struct.unpack_from("<H", head, 8), 10
    elif head[6] in (2, 3) and len(head) >= 12:
        (size,), start = struct.unpack_from("<L", head, 8), 12
    else:
        raise FormatError("unknown version of the .npy format", where=where, expected="1, 2 or 3", got=head[6])
    if start + size > len(head):
        raise FormatError(
            "the .npy header is cut short, or longer than any array's",
            where=where,
            expected=f"<= {MAX_HEADER}",
            got=start + size,
        )
    fields = _fields(head[start : start + size], where)
    return Header(
        _dtype(fields["descr"], where), fields["fortran_order"] == "True", _shape(fields["shape"], where), start + size
    )


def _fields(raw: bytes, where: str) -> dict[str, str]:
    """The three values of the header's dict, as text."""
    text = raw.decode("latin-1").strip()
    found: dict[str, str] = {}
    at = 1
    closed = False
    while text.startswith("{") and not closed and (match := _ITEM.match(text, at)):
        if match["list"]:
            raise FormatError("structured dtypes have no place in a network", where=where, got=text[:80])
        kind = {"descr": "text", "fortran_order": "flag", "shape": "shape"}[match["key"]]
        if match["key"] in found or match[kind] is None:
            break
        found[match["key"]] = match[kind]
        at, closed = match.end(), match["end"].endswith("}")
    if len(found) != 3 or not closed or text[at:].strip():
        raise FormatError("the .npy header is damaged", where=where, got=repr(text[:80]))
    return found


def _dtype(descr: str, where: str) -> np.dtype[Any]:
    match = _DESCR.fullmatch(descr)
    if match is None:
        raise FormatError("unknown dtype in the .npy header", where=where, got=repr(descr))
    order, kind, size = match.groups()
    if kind == "O":
        raise UnsafeFileError(
            "an object array: reading it would run whatever its pickle says; refused",
            where=where,
            hint="where the file came from, save the model's own arrays: chainer.serializers.save_npz('model.npz', model)",
        )
    if kind == "?":
        kind, size = "b", "1"
    if kind + size not in _PLAIN:
        raise FormatError(
            "no dtype of a network's tensors", where=where, expected="floats, integers or bool", got=repr(descr)
        )
    return np.dtype(order.replace("|", "=") + kind + size)


def _shape(text: str, where: str) -> tuple[int, ...]:
    sides = tuple(int(part) for part in re.findall(r"\d+", text))
    if _SHAPE.fullmatch(text) is None or len(sides) > MAX_DIMS or (len(sides) == 1 and "," not in text):
        raise FormatError("the shape in the .npy header is damaged", where=where, got=text[:80])
    if 0 in sides and math.prod(max(side, 1) for side in sides) > MAX_ELEMENTS:
        raise FormatError("an empty array with sides beyond any network's", where=where, got=text[:80])
    return sides


FIRST = "extractor/conv1_1/W"
"""The tensor that tells under which prefix the model lies."""


@dataclass(frozen=True)
class NpzFile:
    """What opening found: what stands before ``extractor/…``, None where there is no such tensor."""

    prefix: str | None


def read_npz(path: Path) -> TensorTable:
    """Open a .npz file.

    Returns:
        Tensors in file order, named without ``.npy``, and a ``NpzFile``. Its prefix is what stands before ``extractor/…``: "" for a
        saved model, such as "updater/model:main/" for a trainer's snapshot; None where there is no such tensor.

    Raises:
        MissingError: no such file.
        FormatError: damaged, or not an archive of .npy files.
        UnsafeFileError: hostile archive, or object arrays among the model's tensors.
    """
    file, archive = open_archive(path)
    try:
        return parse(archive, Path(path), file)
    except BaseException:
        file.close()
        raise


def parse(archive: Archive, path: Path, file: OpenedFile | None = None) -> TensorTable:
    """The tensors of an open archive; see ``read_npz``."""
    odd = [name for name in archive.members if not name.endswith(".npy")]
    if odd or not archive.members:
        raise FormatError(
            "a zip archive, but not of NumPy arrays",
            where=str(path),
            expected="members NAME.npy",
            got=odd[0] if odd else "no members",
            hint="a .pth file is a zip archive too: `ssdconv torch2pt`" if odd and odd[0].endswith(".pkl") else None,
        )
    names = {name.removesuffix(".npy"): member for name, member in archive.members.items()}
    prefix = model_prefix(names)
    tensors = {}
    for name, member in names.items():
        tensors[name] = _tensor(archive, name, member, outside=not name.startswith(prefix or ""))
    found = NpzFile(prefix)
    if file is None:
        return TensorTable(path, "npz", tensors, found=found)
    return TensorTable(path, "npz", tensors, found=found, unchanged=file.unchanged, close=file.close)


def model_prefix(names: dict[str, Member]) -> str | None:
    """What stands before ``extractor/conv1_1/W``, where exactly one name ends so.

    A trainer's snapshot holds the optimizer's state under the same names with one more part behind, so it does not count.
    """
    found = [n for n in names if n == FIRST or n.endswith("/" + FIRST)]
    return found[0].removesuffix(FIRST) if len(found) == 1 else None


def _tensor(archive: Archive, name: str, member: Member, outside: bool) -> LazyTensor:
    where = f"{archive.where}, array {name!r}"
    try:
        header = parse_header(archive.head(member, MAX_HEADER), where)
    except UnsafeFileError:
        if not outside:
            raise
        return LazyTensor(name, (), np.dtype(object), partial(_refuse, where), where)
    if header.length + header.nbytes != member.size:
        raise FormatError(
            "the array has another size than its header says",
            where=where,
            expected=f"{header.length + header.nbytes} bytes for {header.shape} {header.dtype}",
            got=member.size,
        )
    return LazyTensor(
        name, header.shape, header.dtype.newbyteorder("="), partial(_load, archive, member, header), where
    )


def _refuse(where: str) -> Array:
    raise UnsafeFileError("an object array is never loaded", where=where)


def _load(archive: Archive, member: Member, header: Header) -> Array:
    data = archive.read(member)[header.length :]
    flat = np.frombuffer(data, header.dtype)
    array = flat.reshape(header.shape, order="F" if header.fortran else "C")
    return array if header.dtype.isnative else array.astype(header.dtype.newbyteorder("="))
