"""Which file stands for a checkpoint, given any of its names. Imports nothing but the standard library."""

from __future__ import annotations

import re
from pathlib import Path

_PART = re.compile(r"(.+)\.(?:index|meta|data-\d{5}-of-\d{5})")


def index_of(path: Path) -> Path:
    """The file to open for a path as users give it: a prefix, ``.index``, ``.meta``, one ``.data`` shard, or a file itself."""
    path = Path(path)
    match = _PART.fullmatch(path.name)
    if match or not path.is_file():
        prefix = path.with_name(match[1]) if match else path
        index = prefix.with_name(f"{prefix.name}.index")
        return index if prefix.name and index.is_file() else path
    return path
