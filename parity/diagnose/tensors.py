"""How one network's stored tensors differ from another's, and which known mistakes explain it, bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from ssdconv.parity.diagnose.hypothesis import WeightHypothesis
from ssdconv.parity.diagnose.net import Array, TensorSpec
from ssdconv.parity.diagnose.weights import HALF, SWAPPED, WEIGHTS

TOLERANCE = 1e-6
"""Largest relative error where a multiplication is undone (two roundings)."""
LARGE = 1 << 20
"""Tensors with more elements are not searched for two mistakes at once where the first alone has dozens of forms."""


@dataclass(frozen=True)
class Step:
    """One mistake on one tensor."""

    hypothesis: WeightHypothesis
    detail: str


@dataclass(frozen=True)
class Difference:
    """How a tensor differs.

    Attributes:
        name: reference name.
        largest: largest absolute difference.
        relative: it over the truth's largest value.
        fraction: share of the elements that differ.
        correlation: of both sides' elements; 0 where one is constant.
        steps: the mistakes that explain it, () where none do.
    """

    name: str
    largest: float
    relative: float
    fraction: float
    correlation: float
    steps: tuple[Step, ...] = ()


@dataclass
class Truths:
    """The truth's tensors, with an index to find one by its bits."""

    tensors: Mapping[str, Array]
    _by_bits: dict[tuple[tuple[int, ...], bytes], list[str]] = field(default_factory=dict)

    def named(self, array: Array) -> list[str]:
        """Names of the tensors with exactly these bits."""
        if not self._by_bits:
            for name, tensor in self.tensors.items():
                self._by_bits.setdefault((tensor.shape, digest(tensor)), []).append(name)
        return self._by_bits.get((array.shape, digest(array)), [])


def digest(array: Array) -> bytes:
    """A hash of an array's values in C order."""
    return hashlib.blake2b(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, digest_size=16).digest()


def same(mine: Array, truth: Array) -> bool:
    """Equal bits; most unequal tensors are told by a few elements."""
    if mine.shape != truth.shape or mine.dtype != truth.dtype:
        return False
    a, b = mine.reshape(-1), truth.reshape(-1)
    stride = max(1, a.size // 64)
    return a[::stride].tobytes() == b[::stride].tobytes() and a.tobytes() == b.tobytes()


def close(mine: Array, truth: Array) -> bool:
    """Equal within the rounding of one multiplication."""
    error = np.abs(mine.astype(np.float64) - truth.astype(np.float64))
    return bool((error <= TOLERANCE * np.abs(truth.astype(np.float64)) + 1e-38).all())


def halved(array: Array) -> Array:
    """Rounded to half precision and back."""
    with np.errstate(over="ignore"):
        rounded: Array = array.astype(np.float16).astype(np.float32)
    return rounded


def differences(
    mine: Mapping[str, Array], truths: Truths, specs: Mapping[str, TensorSpec], *, explain: bool = True
) -> Iterator[Difference]:
    """Every tensor of both sides whose bits differ, in the order of ``specs``."""
    for name, spec in specs.items():
        own, truth = mine[name], truths.tensors[name]
        if same(own, truth):
            continue
        steps = steps_of(own, truth, spec, truths) if explain else ()
        yield measured(name, own, truth, steps)


def measured(name: str, mine: Array, truth: Array, steps: tuple[Step, ...] = ()) -> Difference:
    """The figures of one difference; arrays of equal shape."""
    a, b = mine.astype(np.float64).reshape(-1), truth.astype(np.float64).reshape(-1)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(a - b)
    error = np.where(np.isnan(error), np.inf, error)
    largest = min(float(error.max(initial=0.0)), 1e300)
    size = float(np.abs(b).max(initial=0.0))
    spread = float(np.sqrt((a - a.mean()) @ (a - a.mean()) * ((b - b.mean()) @ (b - b.mean())))) if a.size else 0.0
    correlation = float((a - a.mean()) @ (b - b.mean())) / spread if np.isfinite(spread) and spread > 0 else 0.0
    relative = min(largest / size, 1e300) if size else largest
    return Difference(name, largest, relative, float((error > 0).mean()) if a.size else 0.0, correlation, steps)


def steps_of(mine: Array, truth: Array, spec: TensorSpec, truths: Truths) -> tuple[Step, ...]:
    """The known mistakes that turn ``truth`` into ``mine``: one, or two, besides half precision; () where none do."""
    if mine.shape != truth.shape:
        return ()
    if mine.dtype == np.float16 and truth.dtype != np.float16:
        mine = mine.astype(np.float32)
    if truth.dtype == np.float16:
        truth = truth.astype(np.float32)
    target: Array = truth
    after: tuple[Step, ...] = ()
    rounded = halved(truth)
    if not same(rounded, truth) and same(halved(mine), mine) and mine.any():
        target, after = rounded, (Step(HALF, "rounded to float16"),)
    if same(mine, target):
        return after or (Step(HALF, "stored as float16"),)
    alike = shape_of_values(mine, target)
    found = _single(mine, target, spec, alike) or _swapped(mine, spec, truths)
    if not found and (alike or spec.role == "loc"):
        found = _pair(mine, target, spec)
    if not found and after:  # constants such as 20 or 0 survive half precision: the rounding is no part of the story
        return _single(mine, truth, spec, alike)
    lost = bool(found) and _replaced(mine, found)
    return found + (() if lost else after) if found else ()


def _replaced(mine: Array, steps: tuple[Step, ...]) -> bool:
    """Whether what is stored is one number or another layer's, so that no rounding of the truth can be in it."""
    return not mine.size or bool((mine == mine.flat[0]).all()) or steps[0].hypothesis is SWAPPED


def shape_of_values(mine: Array, target: Array) -> bool:
    """Whether the values could be the same but for order and one factor: mean fourth power over squared mean square agree."""

    def ratio(array: Array) -> float:
        squares = np.square(array.astype(np.float64).reshape(-1))
        mean = float(squares.mean()) if squares.size else 0.0
        return float(np.square(squares).mean()) / mean**2 if mean > 0 and np.isfinite(mean) else 0.0

    a, b = ratio(mine), ratio(target)
    return abs(a - b) <= 1e-5 * max(a, b)


def _single(mine: Array, target: Array, spec: TensorSpec, alike: bool) -> tuple[Step, ...]:
    for hypothesis in WEIGHTS:
        if hypothesis.permutes and not alike:
            continue
        for detail, undone in hypothesis.undo(mine, target, spec):
            if _hits(undone, target):
                return (Step(hypothesis, detail),)
    return ()


def _hits(undone: Array, target: Array) -> bool:
    if undone is target:
        return True
    if undone.dtype == np.float64:
        return close(undone, target)
    return same(undone, target)


def _swapped(mine: Array, spec: TensorSpec, truths: Truths) -> tuple[Step, ...]:
    if mine.size < 2 or bool((mine == mine.flat[0]).all()):
        return ()
    others = [name for name in truths.named(mine) if name != spec.name]
    return (Step(SWAPPED, f"{spec.name} holds {others[0]}"),) if others else ()


def _pair(mine: Array, target: Array, spec: TensorSpec) -> tuple[Step, ...]:
    """Two mistakes on one tensor: any that can be undone without knowing the truth, then any other."""
    for first in WEIGHTS:
        if not first.first or (first.name == "kernel-layout" and mine.size > LARGE):
            continue
        for detail, undone in first.undo(mine, target, spec):
            half_way = undone.astype(np.float32) if undone.dtype == np.float64 else undone
            if half_way is target or half_way is mine:
                continue
            for second in WEIGHTS:
                if second is first or (second.name == "kernel-layout" and mine.size > LARGE):
                    continue
                for other, result in second.undo(half_way, target, spec):
                    if _hits(result, target) or (undone.dtype == np.float64 and result.ndim and close(result, target)):
                        return (Step(first, detail), Step(second, other))
    return ()
