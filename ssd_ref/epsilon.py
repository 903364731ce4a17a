"""Adding a tiny number so that it survives the export to ONNX."""

from __future__ import annotations

from torch import Tensor

_SCALE = 2.0**40
_TINY = 1e-6


def plus(x: Tensor, eps: float) -> Tensor:
    """``x + eps``, bit for bit, for magnitudes up to 1e26.

    The optimizer of torch's ONNX exporter takes what is within 1e-8 of zero for zero and leaves the addition out; a normalisation
    of a pixel whose channels are all zero then divides zero by zero. So tiny numbers are added 2**40 times as large, which
    changes no digit.
    """
    if abs(eps) >= _TINY:
        return x + eps
    return (x * _SCALE + eps * _SCALE) * (1 / _SCALE)
