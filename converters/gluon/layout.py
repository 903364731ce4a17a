"""What reader and writer share about MXNet's ``.params`` list files (src/ndarray/ndarray.cc and dmlc's stream).

All integers are little-endian::

    u64 0x112, u64 reserved, u64 number of arrays, the arrays, u64 number of names (0 or as many), then u64 length + bytes each

An array is one of these; data is in C order::

    V2, V3:  u32 magic, i32 storage, i32 ndim, i64 x ndim, i32 device type, i32 device id, i32 dtype, data
    V1:      u32 magic,              u32 ndim, i64 x ndim, i32 device type, i32 device id, i32 dtype, data
    oldest:                          u32 ndim, u32 x ndim, i32 device type, i32 device id, i32 dtype, data

Sparse storage, which is refused, has more shapes in between.
V3 is V2 under numpy shape semantics: no dimensions then means a scalar.
"""

from __future__ import annotations

import numpy as np

LIST_MAGIC = 0x112
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
VERSIONS = {V1: "V1", V2: "V2", V3: "V3"}

DTYPES: dict[int, np.dtype[np.generic]] = {
    0: np.dtype("<f4"),
    1: np.dtype("<f8"),
    2: np.dtype("<f2"),
    3: np.dtype("u1"),
    4: np.dtype("<i4"),
    5: np.dtype("i1"),
    6: np.dtype("<i8"),
    7: np.dtype("?"),
}
"""mshadow's type codes that have a numpy dtype and occur in files."""

OTHER_DTYPES = {8: ("int16", 2), 9: ("uint16", 2), 10: ("uint32", 4), 11: ("uint64", 8), 12: ("bfloat16", 2)}
"""Codes that are refused, with name and size in bytes."""

STORAGE = {0: "dense", 1: "row_sparse", 2: "csr"}
"""Storage code -> name."""

MAX_DIMS = 32
MAX_TENSORS = 20_000
"""Far above the largest known network (806), far below what would make the tensor table itself a burden."""
MAX_NAME = 1024
