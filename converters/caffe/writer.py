"""Write a .caffemodel: V2 layers, ``BlobShape`` and packed numbers, layer by layer and never the whole file in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ssdconv.converters.caffe.net import CaffeLayer, CaffeNet
from ssdconv.converters.caffe.prototxt import layer_message, net_message
from ssdconv.converters.protobuf_wire import LEN, VARINT, encode_varint
from ssdconv.errors import MappingError, OutputError
from ssdconv.ssd_ref.files import atomic_path

MAX_MESSAGE = 2**31 - 1  # what protobuf can read
_LAYER, _BLOBS = 100, 7
_DATA, _SHAPE, _DOUBLE_DATA = 5, 7, 8


def write_caffemodel(
    net: CaffeNet, blobs: Mapping[str, npt.NDArray[Any]], path: Path, *, legacy: Collection[str] = ()
) -> None:
    """Write ``net`` with its weights.

    Args:
        net: the layers; a layer that lists ``blobs`` shapes must get blobs of just these.
        blobs: ``<layer>/<index>`` -> array, float32 (stored as ``data``) or float64 (``double_data``), bit for bit; indices
            from 0 without gaps. Each is asked for once, so the mapping may load them on demand.
        path: the file to make or replace, whole or not at all.
        legacy: blobs of four axes whose shape is written as ``num``, ``channels``, ``height`` and ``width``: only so does Caffe take
            (1, 1, 1, N) for (N,).

    Raises:
        MappingError: blobs that belong to no layer, have gaps, the wrong shape or another dtype.
        FormatError: a parameter that Caffe's schema does not have.
        OutputError: the file cannot be written, or is beyond the 2 GiB that protobuf can read.
    """
    owners = _owners(net, blobs)
    with atomic_path(Path(path)) as temporary, open(temporary, "wb") as stream:
        stream.write(net_message(net, layers=False).SerializeToString())
        for index, layer in enumerate(net.layers):
            names = owners.get(index, [])
            arrays = [_checked(layer, i, name, blobs[name]) for i, name in enumerate(names)]
            heads = [_blob_head(a, name in legacy and a.ndim == 4) for name, a in zip(names, arrays, strict=True)]
            _write_layer(stream, layer_message(layer).SerializeToString(), heads, arrays)
            if stream.tell() > MAX_MESSAGE:
                raise OutputError("the model is larger than protobuf can read", where=str(path), expected="< 2 GiB")


def _owners(net: CaffeNet, blobs: Mapping[str, Any]) -> dict[int, list[str]]:
    """Blob names of each layer index, all of ``blobs`` accounted for."""
    counts: dict[str, int] = {}
    for name in blobs:
        layer, _, index = name.rpartition("/")
        if not index.isascii() or not index.isdigit() or str(int(index)) != index:
            raise MappingError(f"blob name {name!r} is not of the form <layer>/<index>")
        counts[layer] = counts.get(layer, 0) + 1
    owners: dict[int, list[str]] = {}
    for layer, count in counts.items():
        names = [f"{layer}/{i}" for i in range(count)]
        gaps = [name for name in names if name not in blobs]
        if gaps:
            raise MappingError(f"blob {gaps[0]!r} is missing", got=f"{count} blobs of layer {layer!r}")
        candidates = [i for i, entry in enumerate(net.layers) if entry.name == layer]
        if not candidates:
            raise MappingError(f"blob {names[0]!r} belongs to no layer of the net")
        owners[next((i for i in candidates if net.layers[i].blobs), candidates[0])] = names
    for i, entry in enumerate(net.layers):
        if entry.blobs and len(owners.get(i, [])) != len(entry.blobs):
            raise MappingError(
                f"layer {entry.name!r} does not get its blobs", expected=len(entry.blobs), got=len(owners.get(i, []))
            )
    return owners


def _checked(layer: CaffeLayer, index: int, name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.dtype.kind != "f" or array.dtype.itemsize not in (4, 8):
        raise MappingError(f"blob {name!r} cannot be stored", expected="float32 or float64", got=array.dtype)
    if layer.blobs and tuple(layer.blobs[index]) != array.shape:
        raise MappingError(
            f"blob {name!r} has another shape than its layer says", expected=layer.blobs[index], got=array.shape
        )
    return np.asarray(array, array.dtype.newbyteorder("<"), order="C")


def _write_layer(stream: BinaryIO, parameters: bytes, heads: list[bytes], arrays: list[npt.NDArray[Any]]) -> None:
    sizes = [len(head) + array.nbytes for head, array in zip(heads, arrays, strict=True)]
    prefixes = [_tag(_BLOBS) + encode_varint(size) for size in sizes]
    stream.write(_tag(_LAYER) + encode_varint(len(parameters) + sum(sizes) + sum(map(len, prefixes))) + parameters)
    for prefix, head, array in zip(prefixes, heads, arrays, strict=True):
        stream.write(prefix + head)
        stream.writelines(_pieces(array))


def _blob_head(array: npt.NDArray[Any], legacy: bool) -> bytes:
    """A BlobProto up to its numbers: the shape, then tag and length of the packed data.

    A blob without axes has no shape at all, as Caffe writes it: OpenCV cannot read an empty one.
    """
    data = _tag(_DATA if array.itemsize == 4 else _DOUBLE_DATA) + encode_varint(array.nbytes)
    if legacy:
        sides = (encode_varint(i << 3 | VARINT) + encode_varint(side) for i, side in enumerate(array.shape, 1))
        return b"".join(sides) + data
    if not array.ndim:
        return data
    dims = b"".join(map(encode_varint, array.shape))
    shape = _tag(1) + encode_varint(len(dims)) + dims
    return _tag(_SHAPE) + encode_varint(len(shape)) + shape + data


def _pieces(array: npt.NDArray[Any]) -> Iterator[memoryview[int]]:
    if array.nbytes:
        yield array.reshape(-1).view(np.uint8).data


def _tag(number: int) -> bytes:
    return encode_varint(number << 3 | LEN)
