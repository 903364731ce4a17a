"""The rounding floor: is the difference between an oracle and the reference no more than float32 rounding explains?

For every probe three arrays of one shape are at hand: the oracle's (float32), the reference's in float32 (``ref32``) and
the reference's in float64 (``ref64``), which counts as the exact value. The *floor* is what float32 costs the reference
itself, ``ref32 - ref64``; the oracle agrees when its own error, ``oracle - ref64``, is of that size. Two ratios say so:

========  ==========================================  =====  =======================================================
ratio     of                                          limit  sees
========  ==========================================  =====  =======================================================
max       max|oracle - ref64| / max|ref32 - ref64|    8      one wrong element, a shifted border, one wrong channel
rms       rms(oracle - ref64) / rms(ref32 - ref64)    5      a small error spread over a whole tensor
========  ==========================================  =====  =======================================================

Measured with OpenCV 4.14 (fusion and Winograd off) and with outputs of the original Caffe, on a narrow SSD300-VGG16, the
res10 face SSD and libfacedetection v1: max 0.42-2.81, rms 0.43-2.04 over all layers. On 24 seeded narrow SSD300s, two inputs
each: max at most 1.87 and rms 1.37 where a layer has 1024 elements or more, 2.3 and 2.5 where it has fewer. With any
single one of the 202 weight tensors of the three nets multiplied by 1.0002 the tensor's own layer is the first to fail
(``tests/parity/test_golden.py``), and at 1.0001 every one is still noticed; but for one, the bias of res10's conv1_h, whose
largest element (5.4e-6) lies under the rounding of its layer's outputs. So do small biases where the activations are a
thousand times larger: such a tensor is caught by the comparison of stored bits only. Errors do not pile up, the ratios of
the deepest layers are those of the first; so layers are compared in one run from the input pixels and need not be fed with
the oracle's own inputs.

What needs care, and how it is judged:

* **Floor of zero or nearly** (input, max-pooling of few values, a layer of exact operations): a float32 result may be off by
  half a unit in the last place, so the floor is at least ``2**-24`` of the largest value (of the rms, for the rms).
* **All-zero probes** (a ReLU behind a dead map): the oracle may see a rounding error where the reference sees exactly 0; the
  floor is then that of the probe before. With that at 0 too, the oracle must be 0.
* **Denormals**: either side may flush them; errors up to ``2**-126`` never count.
* **Few elements** (below 1024: the 1x1 maps and their heads): a few errors are a poor estimate of the floor, and they hang
  together, so the relative floor is at least the largest of the input's other probes, and the limit for rms is 8 as well.
* **Few elements that carry the error** (a softmax that is 0 or 1 nearly everywhere): below an effective number of 100, which is
  (sum of squares)^2 / (sum of fourth powers) of the floor's errors, the rms says no more than the largest error, and its
  limit is 8 too.
* **NaN and infinity**: must stand at the same places with the same sign as in ``ref32``; the rest is judged as always. A
  probe without any finite value fails.
* **Layers that amplify rounding** (normalisation of a small vector, exp): ``ref32`` goes through the same layer with inputs
  that are off by as much as the oracle's, so its error is amplified as much and the ratio stays. Decoded boxes and
  decisions (threshold, NMS) are judged in ``parity.layers.detections``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

MAX_RATIO = 8.0
RMS_RATIO = 5.0
HALF_ULP = 2.0**-24
TINY = 2.0**-126
FEW = 1024
FEW_CARRIERS = 100
BLOCK = 1 << 16


@dataclass(frozen=True)
class Measurement:
    """What one probe's three arrays say, as scalars; nothing is judged yet.

    Attributes:
        shape: of the arrays.
        magnitude, magnitude_rms: max and rms of ref64 over the compared elements.
        error, error_rms: max and rms of ``oracle - ref64``.
        floor, floor_rms: max and rms of ``ref32 - ref64``.
        at: index of the largest error.
        oracle, reference: the oracle's and ref64's value there.
        problem: why the arrays cannot be judged by size, "" where they can.
        carriers: effective number of elements that make up the floor.
    """

    shape: tuple[int, ...]
    magnitude: float = 0.0
    magnitude_rms: float = 0.0
    error: float = 0.0
    error_rms: float = 0.0
    floor: float = 0.0
    floor_rms: float = 0.0
    at: tuple[int, ...] = ()
    oracle: float | None = None
    reference: float | None = None
    problem: str = ""
    carriers: int = FEW

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def rms_limit(self) -> float:
        """Largest rms ratio that passes."""
        return RMS_RATIO if self.size >= FEW and self.carriers >= FEW_CARRIERS else MAX_RATIO


@dataclass(frozen=True)
class Floor:
    """The floor that one probe is judged by, after the rules of the module's docstring (absolute, max and rms)."""

    max: float
    rms: float


def measure(oracle: Array, ref64: Array, ref32: Array) -> Measurement:
    """Measure one probe, a block of elements at a time (nothing of the arrays' own size is allocated).

    Args:
        oracle: the source framework's output.
        ref64: the reference's in float64.
        ref32: the reference's in float32, of ref64's shape.
    """
    shape = tuple(ref64.shape)
    if tuple(oracle.shape) != shape:
        return Measurement(shape, problem=f"oracle's shape is {tuple(oracle.shape)}, the reference's {shape}")
    flat = [np.ascontiguousarray(a).reshape(-1) for a in (oracle, ref64, ref32)]
    total = _Sums()
    for start in range(0, flat[0].size, BLOCK):
        got, exact, rounded = (a[start : start + BLOCK].astype(np.float64) for a in flat)
        total.add(start, got, exact, rounded)
    if total.odd >= 0:
        at = _unravel(total.odd, shape)
        problem = f"oracle {flat[0][total.odd]} where the reference has {flat[2][total.odd]}, at {at}"
    else:
        problem = "" if total.count else "no finite value to compare"
    return Measurement(
        shape,
        magnitude=total.magnitude,
        magnitude_rms=total.rms(total.squares),
        error=total.error,
        error_rms=total.rms(total.error_squares),
        floor=total.floor,
        floor_rms=total.rms(total.floor_squares),
        at=_unravel(total.worst, shape) if total.count else (),
        oracle=float(flat[0][total.worst]) if total.count else None,
        reference=float(flat[1][total.worst]) if total.count else None,
        problem=problem,
        carriers=total.carriers,
    )


class _Sums:
    """Running maxima and sums of squares over the elements that are finite on all sides."""

    def __init__(self) -> None:
        self.count = 0
        self.odd = self.worst = -1
        self.magnitude = self.error = self.floor = 0.0
        self.squares = self.error_squares = self.floor_squares = self.floor_fourths = 0.0

    def add(self, start: int, got: Array, exact: Array, rounded: Array) -> None:
        positions = None
        with np.errstate(invalid="ignore"):
            total = got.sum() + exact.sum() + rounded.sum()
        if not math.isfinite(total):
            finite = np.isfinite(got) & np.isfinite(exact) & np.isfinite(rounded)
            if self.odd < 0:
                same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
                same |= np.isfinite(got) & np.isfinite(rounded)
                self.odd = -1 if same.all() else start + int(np.argmin(same))
            positions = np.flatnonzero(finite)
            got, exact, rounded = got[finite], exact[finite], rounded[finite]
            if not positions.size:
                return
        self.count += got.size
        self.magnitude = max(self.magnitude, float(exact.max()), -float(exact.min()))
        self.squares += _square_sum(exact)
        got -= exact
        rounded -= exact
        self.error_squares += _square_sum(got)
        self.floor_squares += _square_sum(rounded)
        self.floor_fourths += _square_sum(rounded * rounded)
        self.floor = max(self.floor, float(rounded.max()), -float(rounded.min()))
        low, high = int(got.argmin()), int(got.argmax())
        worst = high if got[high] >= -got[low] else low
        if self.worst < 0 or abs(float(got[worst])) > self.error:
            self.error = abs(float(got[worst]))
            self.worst = start + (worst if positions is None else int(positions[worst]))

    @property
    def carriers(self) -> int:
        if self.floor_fourths <= 0.0:  # no error at all, or one whose fourth power is
            return FEW
        return round(self.floor_squares**2 / self.floor_fourths)

    def rms(self, squares: float) -> float:
        return math.sqrt(squares / self.count) if self.count else 0.0


def floors(measurements: list[Measurement]) -> list[Floor]:
    """The floor of each probe of one input, in order of execution; see the module's docstring for the rules."""
    many = [m for m in measurements if m.size >= FEW and m.magnitude > 0]
    usual_max = max((m.floor / m.magnitude for m in many), default=0.0)
    usual_rms = max((m.floor_rms / m.magnitude_rms for m in many), default=0.0)
    result: list[Floor] = []
    for m in measurements:
        few = m.size < FEW
        floor = Floor(
            max(m.floor, TINY, max(HALF_ULP, usual_max if few else 0.0) * m.magnitude),
            max(m.floor_rms, TINY, max(HALF_ULP, usual_rms if few else 0.0) * m.magnitude_rms),
        )
        if m.magnitude == 0.0 and result:
            floor = Floor(max(floor.max, result[-1].max), max(floor.rms, result[-1].max))
        result.append(floor)
    return result


def _square_sum(values: Array) -> float:
    # Not np.dot: BLAS would start threads, which is slow for short vectors while torch's own threads are about.
    return float(np.einsum("i,i->", values, values))


def _unravel(index: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(index, shape))
