"""MXNet's cache of downloaded models: where GluonCV's ``pretrained=True`` left its files.

A file is called ``<name>-<first 8 digits of its SHA-1>.params`` and lies in ``$MXNET_HOME/models``, by default
``~/.mxnet/models`` (gluoncv/model_zoo/model_store.py).
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from ssdconv.errors import FormatError, UsageError


def folder() -> Path:
    """The cache folder, whether it exists or not."""
    home = os.environ.get("MXNET_HOME")
    return (Path(home) if home else Path("~/.mxnet")).expanduser() / "models"


def cached_params(name: str) -> Path | None:
    """The file of a network or backbone; None where the cache has none.

    Raises:
        FormatError: there is one, but its bytes are not those that its name promises.
        UsageError: there are several whole ones.
    """
    pattern = re.compile(re.escape(name) + r"-([0-9a-f]{8})\.params")
    places = sorted(folder().iterdir()) if folder().is_dir() else []
    found = [(path, match[1]) for path in places if (match := pattern.fullmatch(path.name)) and path.is_file()]
    damaged = [path for path, digits in found if not _sha1(path).startswith(digits)]
    whole = [path for path, _ in found if path not in damaged]
    if len(whole) > 1:
        raise UsageError(
            f"several files of {name!r}",
            where=str(folder()),
            got=", ".join(path.name for path in whole),
            hint="give the file that you mean",
        )
    if damaged and not whole:
        raise FormatError(
            "the file's SHA-1 does not begin as its name says: the download broke off, or the file was changed",
            where=str(damaged[0]),
            hint="delete it, or give the file by its path if you changed it yourself",
        )
    return whole[0] if whole else None


def _sha1(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.sha1(usedforsecurity=False)).hexdigest()
