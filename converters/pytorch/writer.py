"""Write a state dict as ``torch.save`` does: an OrderedDict of tensors, loadable with ``weights_only=True``."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ssdconv.converters.tensors import Array
from ssdconv.errors import OutputError
from ssdconv.ssd_ref.files import atomic_path


def write_state_dict(dst: Path, arrays: Mapping[str, Array]) -> None:
    """Write named arrays, in the order given, atomically.

    Raises:
        OutputError: the file could not be written; what stood there before is untouched.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of arrays that may not be written to; these are only read
        state = OrderedDict((name, torch.from_numpy(np.asarray(a, order="C"))) for name, a in arrays.items())
    with atomic_path(dst) as temporary:
        try:
            with temporary.open("wb") as stream:
                torch.save(state, stream)
        except RuntimeError as error:
            raise OutputError(f"cannot write: {error}", where=str(dst)) from error
