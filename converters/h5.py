"""Walk an HDF5 file from strangers: nothing outside the file is ever opened, nothing is unpacked, all counts are bounded.

Each link's class is looked at before it is followed: soft and external links are refused, as are virtual datasets and those whose
bytes lie in other files. Compressed datasets are refused too, because HDF5 unpacks a chunk to whatever size it has; Keras writes
none. Shapes are only read; what they may be is the mapping's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np

from ssdconv.converters.tensors import Array
from ssdconv.errors import FormatError, SsdconvError, UnsafeFileError

MAGIC = b"\x89HDF\r\n\x1a\n"
MAX_DEPTH = 12
MAX_LINKS = 50_000
MAX_TEXT = 4096

_HEAP = b"GCOL\1\0\0\0"

_DAMAGE = (OSError, KeyError, RuntimeError, ValueError, TypeError, OverflowError, NotImplementedError, MemoryError)


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Turn whatever h5py raises into a FormatError that names the place."""
    try:
        yield
    except SsdconvError:
        raise
    except _DAMAGE as error:
        what = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise FormatError(
            f"HDF5 cannot read this: {what}",
            where=where,
            hint="the file is damaged or cut short; copy or download it again",
        ) from None


def walk(file: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Every group and dataset below the root as (path without leading slash, h5py's low-level identifier).

    Groups come before what is in them. Identifiers of datasets were checked to hold their own, uncompressed bytes.

    Raises:
        UnsafeFileError: something leads out of the file.
        FormatError: damaged, compressed, nested too deeply, or too many links.
    """
    left = [MAX_LINKS]
    with naming(where):
        yield from _group(file.id, "", where, left, 0)


def _group(group: Any, path: str, where: str, left: list[int], depth: int) -> Iterator[tuple[str, Any]]:
    if depth > MAX_DEPTH:
        raise FormatError("groups are nested too deeply", where=f"{where}, /{path}", expected=f"<= {MAX_DEPTH} levels")
    left[0] -= group.get_num_objs()
    if left[0] < 0:
        raise FormatError("the file holds more links than any network has", where=where, expected=f"<= {MAX_LINKS}")
    for raw in list(group):
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            raise FormatError("a link's name is not text", where=f"{where}, /{path}", got=repr(raw[:60])) from None
        inner = f"{path}/{name}" if path else name
        place = f"{where}, /{inner}"
        kind = group.links.get_info(raw).type
        if kind != h5py.h5l.TYPE_HARD:
            word = {h5py.h5l.TYPE_SOFT: "a soft link", h5py.h5l.TYPE_EXTERNAL: "a link into another file"}.get(
                kind, "a link"
            )
            raise UnsafeFileError(
                f"this is {word}, which is never followed",
                where=place,
                hint="weight files of Keras hold none; write the file again from the model",
            )
        with naming(place):
            opened = h5py.h5o.open(group, raw)
        if isinstance(opened, h5py.h5g.GroupID):
            yield inner, opened
            yield from _group(opened, inner, where, left, depth + 1)
        elif isinstance(opened, h5py.h5d.DatasetID):
            with naming(place):
                _check(opened, place)
            yield inner, opened
        else:
            raise FormatError("neither a group nor a dataset", where=place)


def _check(dataset: Any, where: str) -> None:
    """Refuse a dataset whose bytes are not plainly its own."""
    plist = dataset.get_create_plist()
    layout = plist.get_layout()
    if layout == h5py.h5d.VIRTUAL:
        raise UnsafeFileError("a virtual dataset takes its values from other places; it is refused", where=where)
    if plist.get_external_count():
        raise UnsafeFileError(
            "the dataset's bytes lie in another file; it is refused", where=where, hint="CVE-2026-1669 works this way"
        )
    if plist.get_nfilters():
        raise FormatError(
            "the dataset is compressed or filtered",
            where=where,
            hint="Keras and Caffe write no such files; unpack it with `h5repack -f NONE` if you trust it",
        )
    if layout == h5py.h5d.CHUNKED:
        chunk = size_of(plist.get_chunk()) * dataset.get_type().get_size()
        whole = size_of(dataset.shape) * dataset.get_type().get_size()
        if chunk > max(2 * whole, 1 << 20):
            raise FormatError("the dataset's chunks are larger than itself", where=where, got=f"{chunk} bytes")


def size_of(shape: tuple[int, ...]) -> int:
    """Number of elements, in Python integers."""
    count = 1
    for side in shape:
        count *= int(side)
    return count


def dtype_of(dataset: Any) -> np.dtype[Any]:
    """The dataset's NumPy dtype; ``object`` where it is no plain number."""
    kind = dataset.get_type().get_class()
    if kind in (h5py.h5t.FLOAT, h5py.h5t.INTEGER):
        found: np.dtype[Any] = dataset.dtype
        return found
    return np.dtype(object)


def load(dataset: Any, where: str) -> Array:
    """All values of a dataset of plain numbers, in native byte order."""
    dtype = dtype_of(dataset)
    if dtype == object:
        raise FormatError("a dataset that holds no plain numbers is never loaded", where=where)
    with naming(where):
        if size_of(dataset.shape) * dtype.itemsize > (1 << 20) and dataset.get_storage_size() == 0:
            raise FormatError("the dataset declares values but stores none", where=where)
        out = np.empty(dataset.shape, dtype.newbyteorder("="))
        dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, out)
    return out


def text(identifier: Any, name: str, where: str, heaps: Callable[[], None], limit: int = MAX_TEXT) -> str | None:
    """A text attribute of a group; None where there is none.

    Args:
        identifier: h5py's low-level identifier of the group.
        name: of the attribute.
        where: the place for messages.
        heaps: called before a text is read that lies in a global heap; see ``check_heaps``.
        limit: bytes that it may have.

    Raises:
        FormatError: it is longer.
    """
    with naming(f"{where}, attribute {name!r}"):
        if not h5py.h5a.exists(identifier, name.encode()):
            return None
        attribute = h5py.h5a.open(identifier, name.encode())
        kind = attribute.get_type()
        if attribute.shape != () or kind.get_class() != h5py.h5t.STRING:
            return None
        if attribute.get_storage_size() > limit:
            raise FormatError("an attribute is too long", where=where, got=f"{attribute.get_storage_size()} bytes")
        if kind.is_variable_str():
            heaps()
        value = h5py.Group(identifier).attrs[name]
        return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def check_heaps(data: Any, where: str) -> None:
    """Walk every global heap of a file, in which texts of variable length lie.

    The HDF5 library (1.14) walks a damaged heap for ever: free space of size 0 does not move it on.
    Layout: HDF5 File Format Specification 3.0, section III.E.

    Raises:
        FormatError: an object of a heap is shorter than its head, or reaches past the heap's end.
    """
    start = data.find(_HEAP)
    while start >= 0:
        size = int.from_bytes(data[start + 8 : start + 16], "little")
        at, end = start + 16, start + size
        if end > len(data):
            raise FormatError("a heap of texts reaches past the end of the file", where=f"{where}, offset {start}")
        while end - at >= 16:
            index, length = (
                int.from_bytes(data[at : at + 2], "little"),
                int.from_bytes(data[at + 8 : at + 16], "little"),
            )
            step = 16 + -(-length // 8) * 8 if index else length
            if step < 16 or at + step > end:
                raise FormatError("a heap of texts is damaged", where=f"{where}, offset {at}", got=f"size {length}")
            at += step
        start = data.find(_HEAP, start + 8)
