"""``chainer.serializers.save_npz``'s files, read and written without Chainer.

Each tensor is a member ``<name>.npy`` of a zip archive. Only the members' headers are read on opening, by NumPy's parser within limits; a
stored member is a view of the mapped file, a deflated one is unpacked when it is loaded, never beyond what its header declares: ``numpy.load``
would do neither. Object arrays (pickles) and structured dtypes are refused. What shapes may be is the mapping's business. Written are stored
members in the order given, the same bytes for the same tensors.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from ssdconv.converters.opened import Archive, Member, OpenedFile, open_archive
from ssdconv.converters.tensors import Array, LazyTensor, TensorTable
from ssdconv.errors import FormatError, UnsafeFileError
from ssdconv.ssd_ref.files import atomic_path

MAX_HEADER = 4096
"""Bytes of a .npy header that are read; NumPy's own are 118 for any array of a network."""
MAX_DIMS = 32
MAX_ELEMENTS = 1 << 40
"""Product of an empty array's other sides; NumPy cannot hold more, though nothing is in it."""
PLAIN = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")


@dataclass(frozen=True)
class NpyHeader:
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


def parse_header(head: bytes, where: str) -> NpyHeader:
    """Parse the start of a .npy file.

    Args:
        head: the first ``MAX_HEADER`` bytes, or all where it is shorter.
        where: for messages.

    Raises:
        FormatError: not such a file, or a header that NumPy would not write.
        UnsafeFileError: an object array: its elements are a pickle.
    """
    stream = io.BytesIO(head)
    try:
        version = npy.read_magic(stream)
        if version not in ((1, 0), (2, 0), (3, 0)):
            raise ValueError(f"unknown version {version}")
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0  # 3 has other field names
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python 2's long integers
            shape, fortran, dtype = read(stream, max_header_size=MAX_HEADER)
    except Exception as error:  # noqa: BLE001 - damage ends in whatever ast and tokenize raise
        raise FormatError(f"not a .npy array: {str(error)[:100]}", where=where, got=repr(head[:80])) from None
    if dtype.hasobject:
        raise UnsafeFileError(
            "an object array: reading it would run whatever its pickle says; refused",
            where=where,
            hint="where the file came from, save the model's own arrays: chainer.serializers.save_npz('model.npz', model)",
        )
    if dtype.str[1:] not in PLAIN:
        raise FormatError(
            "no dtype of a network's tensors", where=where, expected="floats, integers or bool", got=dtype
        )
    sides = tuple(int(side) for side in shape)
    if len(sides) > MAX_DIMS or any(not 0 <= side < 1 << 63 for side in sides):
        raise FormatError("the shape in the .npy header is damaged", where=where, got=str(sides)[:80])
    if 0 in sides and prod(max(side, 1) for side in sides) > MAX_ELEMENTS:
        raise FormatError("an empty array with sides beyond any network's", where=where, got=sides)
    return NpyHeader(dtype, fortran, sides, stream.tell())


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


def _load(archive: Archive, member: Member, header: NpyHeader) -> Array:
    data = archive.read(member)[header.length :]
    flat = np.frombuffer(data, header.dtype)
    array = flat.reshape(header.shape, order="F" if header.fortran else "C")
    return array if header.dtype.isnative else array.astype(header.dtype.newbyteorder("="))


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
