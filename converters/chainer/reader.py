"""Read .npz files as ``chainer.serializers.save_npz`` writes them, without Chainer and without NumPy's loader.

Each tensor is a member ``<name>.npy`` of a zip archive. Only the members' headers are read on opening; a stored member is
a view of the mapped file, a deflated one is unpacked when it is loaded, never beyond what its header declares.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from ssdconv.converters.chainer.npy import MAX_HEADER, Header, parse_header
from ssdconv.converters.opened import Archive, Member, open_archive
from ssdconv.converters.tensors import Array, LazyTensor, TensorTable
from ssdconv.errors import FormatError, UnsafeFileError

FIRST = "extractor/conv1_1/W"
"""The tensor that tells under which prefix the model lies."""


def read_npz(path: Path) -> TensorTable:
    """Open a .npz file.

    Returns:
        Tensors in file order, named without ``.npy``. ``meta["prefix"]`` is what stands before ``extractor/…``: "" for a
        saved model, such as "updater/model:main/" for a trainer's snapshot; None where there is no such tensor.

    Raises:
        MissingError: no such file.
        FormatError: damaged, or not an archive of .npy files.
        UnsafeFileError: hostile archive, or object arrays among the model's tensors.
    """
    file, archive = open_archive(path)
    try:
        table = parse(archive, Path(path), file.close)
        table.meta["unchanged"] = file.unchanged
        return table
    except BaseException:
        file.close()
        raise


def parse(archive: Archive, path: Path, close: Callable[[], None] | None = None) -> TensorTable:
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
    return TensorTable(path, "npz", tensors, meta={"prefix": prefix}, close=close)


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
