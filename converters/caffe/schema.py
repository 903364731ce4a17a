"""Caffe's NetParameter family as protobuf message classes, built at run time from ``schema_table``.

No protoc and no generated code: the classes live in a descriptor pool of their own and so cannot clash with another
Caffe schema in the same process. Text fields are declared as bytes, because Caffe never checked their encoding.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from ssdconv.converters.caffe.schema_table import ENUMS, MESSAGES
from ssdconv.converters.caffe.v1_types import V1_TYPES

_PACKAGE = "ssdconv.caffe"
_SCALARS = {"d": 1, "f": 2, "i64": 3, "i32": 5, "b": 8, "s": 12, "u32": 13}  # FieldDescriptorProto.Type
_MESSAGE, _ENUM = 11, 14
_OPTIONAL, _REPEATED = 1, 3


@cache
def messages() -> dict[str, Any]:
    """Message classes by table name: ``messages()["Net"]``, ``["Layer"]``, ``["V1Layer"]``, ``["Convolution"]`` …"""
    file = descriptor_pb2.FileDescriptorProto(name="ssdconv_caffe.proto", package=_PACKAGE, syntax="proto2")
    enums = {**ENUMS, "V1Type": "NONE=0 " + " ".join(f"{name}={number}" for name, (number, _) in V1_TYPES.items())}
    for name, values in enums.items():
        holder = file.message_type.add(name=f"{name}Enum")  # proto2 enum values share the scope around the enum
        enum = holder.enum_type.add(name=name)
        for value in values.split():
            label, number = value.split("=")
            enum.value.add(name=label, number=int(number))
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for text in fields.split():
            _add_field(message, text, enums)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in MESSAGES
    }


def _add_field(message: Any, text: str, enums: dict[str, str]) -> None:
    left, number = text.split("=")
    name, kind = left.split(":")
    base = kind.rstrip("*+")
    field = message.field.add(name=name, number=int(number), label=_OPTIONAL if base == kind else _REPEATED)
    if kind.endswith("+"):
        field.options.packed = True
    if base in _SCALARS:
        field.type = _SCALARS[base]
    elif base in enums:
        field.type, field.type_name = _ENUM, f".{_PACKAGE}.{base}Enum.{base}"
    else:
        field.type, field.type_name = _MESSAGE, f".{_PACKAGE}.{base}"
