"""What the stored tensors say: which differ, which known mistakes explain them bit for bit, and which stay unexplained."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from ssdconv.parity.diagnose.hypothesis import Mistake, Net, Proposal, TensorSpec, WeightHypothesis, tensor_specs
from ssdconv.parity.diagnose.weights import CORRUPTED, HALF, SWAPPED, WEIGHTS
from ssdconv.parity.layers.tolerance import Array

TOLERANCE = 1e-6
"""Largest relative error where a multiplication is undone (two roundings)."""
LARGE = 1 << 20
"""Tensors with more elements are not searched for two mistakes at once where the first alone has dozens of forms."""
FEW = 2
"""Most tensors that may differ in no known way and still count as damaged ones; more are another network's, or training."""
LISTED = 3
TURNED = Mistake(
    "turned-channels",
    "the same network for pixels of the other channel order",
    "First layer and pixels are both turned, so the network computes the same: harmless as long as it is fed accordingly.",
    "https://github.com/amdegroot/ssd.pytorch/issues/44",
    "pixels",
    frozenset({"input"}),
    "nothing to do",
)


@dataclass(frozen=True)
class TensorMistake:
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
    steps: tuple[TensorMistake, ...] = ()


class Evidence:
    """Differences between the suspect's tensors and the truth's.

    Attributes:
        different: reference name -> difference, of the network as last refreshed.
    """

    def __init__(self, net: Net, truth: Mapping[str, Array]) -> None:
        self.truth = truth
        self.truths = Truths(truth)
        self.specs = tensor_specs(net)
        self.all: dict[str, Difference] = {d.name: d for d in differences(net.tensors, self.truths, self.specs)}
        self.different = dict(self.all)

    def refresh(self, net: Net) -> None:
        """Forget the differences that are gone."""
        self.different = {n: d for n, d in self.different.items() if not same(net.tensors[n], self.truth[n])}

    @property
    def first(self) -> str | None:
        """The first tensor that differs."""
        return next(iter(self.different), None)

    def proposals(self, net: Net, paths: Sequence[str] | None) -> list[Proposal]:
        """Known mistakes that explain tensors of these layers (None: of any), each undone wherever it is."""
        explained = {n: d for n, d in self.different.items() if d.steps}
        within = {n for n in explained if paths is None or self.specs[n].layer in paths}
        names = {step.hypothesis.name for n in within for step in explained[n].steps}
        if not names:
            return []
        touched = _touched(explained, names)
        grouped: dict[str, list[tuple[str, TensorMistake]]] = {}
        for name in sorted(touched, key=lambda n: (n not in within, list(self.specs).index(n))):
            for step in touched[name].steps:
                grouped.setdefault(step.hypothesis.name, []).append((name, step))
        restored = {n: self.truth[n] for n in touched}
        return [
            Proposal(rows[0][1].hypothesis, described(rows), partial(Net.with_tensors, changed=restored))
            for rows in grouped.values()
        ]

    def odd(self, net: Net, paths: Sequence[str]) -> list[str]:
        """Tensors of these layers that differ in no known way."""
        odd = [n for n, d in self.different.items() if not d.steps and self.specs[n].layer in paths]
        return [n for n in odd if not same(net.tensors[n], self.truth[n])]

    def damaged(self, net: Net, paths: Sequence[str] | None) -> list[Proposal]:
        """The tensors within reach (None: all) that differ in no known way, where the network has only a few of these."""
        odd = [d for d in self.different.values() if not d.steps]
        reach = [d for d in odd if paths is None or self.specs[d.name].layer in paths]
        if len([d for d in self.all.values() if not d.steps]) > FEW:
            return []
        return [
            Proposal(
                CORRUPTED, f"{d.name}: {share(d)}", partial(Net.with_tensors, changed={d.name: self.truth[d.name]})
            )
            for d in reach
        ]

    def turned(self, net: Net) -> Proposal | None:
        """First layer, mean and order all turned against the truth: the same network."""
        name = next((n for n, s in self.specs.items() if s.role == "first"), None)
        if name is None or name not in self.different:
            return None
        if not same(np.ascontiguousarray(net.tensors[name][:, ::-1]), self.truth[name]):
            return None

        def change(net: Net) -> Net:
            own = net.config.pixels
            turned = replace(own, order="RGB" if own.order == "BGR" else "BGR", mean=own.mean[::-1], std=own.std[::-1])
            return net.with_tensors({name: self.truth[name]}).with_pixels(turned)

        return Proposal(TURNED, f"{net.config.pixels.order} in both places", change)

    def story(self) -> list[str]:
        """What is known about differences that nothing explains."""
        odd = [d for d in self.different.values() if not d.steps]
        if not odd:
            return [
                "the stored tensors are equal: what differs is in how the network is built, and in no way known here"
            ]
        near = float(np.median([d.correlation for d in odd]))
        count = f"{len(odd)} of {len(self.specs)} stored tensors differ in no known way, the first is {odd[0].name}"
        if near > 0.9:
            return [
                f"{count}; they resemble the truth's (correlation {near:.3f}): noise, lossy storage, or further training"
            ]
        return [
            f"{count}; they do not resemble the truth's (correlation {near:.3f}): another training run, or another network"
        ]


def _touched(explained: Mapping[str, Difference], names: set[str]) -> dict[str, Difference]:
    """Differences that mistakes of these names explain, or mistakes that come with them on one tensor, and so on."""
    while True:
        touched = {n: d for n, d in explained.items() if any(s.hypothesis.name in names for s in d.steps)}
        more = {s.hypothesis.name for d in touched.values() for s in d.steps}
        if more <= names:
            return touched
        names = names | more


def described(rows: Sequence[tuple[str, TensorMistake]]) -> str:
    """Details and tensors of one mistake in a line."""
    details = list(dict.fromkeys(step.detail for _, step in rows))
    names = [n for n, _ in rows]
    if len(names) == 1:
        return details[0] if names[0] in details[0] else f"{names[0]}: {details[0]}"
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    text = "; ".join(details[:2]) + (" …" if len(details) > 2 else "")
    return f"{text} ({', '.join(names[:LISTED])}{more})"


def share(difference: Difference) -> str:
    """How much of a tensor differs."""
    what = f"{difference.fraction:.2%} of its numbers" if difference.fraction < 0.995 else "all its numbers"
    return f"{what} differ, by up to {difference.largest:.3g}"


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


def measured(name: str, mine: Array, truth: Array, steps: tuple[TensorMistake, ...] = ()) -> Difference:
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


def steps_of(mine: Array, truth: Array, spec: TensorSpec, truths: Truths) -> tuple[TensorMistake, ...]:
    """The known mistakes that turn ``truth`` into ``mine``: one, or two, besides half precision; () where none do."""
    if mine.shape != truth.shape:
        return ()
    if mine.dtype == np.float16 and truth.dtype != np.float16:
        mine = mine.astype(np.float32)
    if truth.dtype == np.float16:
        truth = truth.astype(np.float32)
    target: Array = truth
    after: tuple[TensorMistake, ...] = ()
    rounded = halved(truth)
    if not same(rounded, truth) and same(halved(mine), mine) and mine.any():
        target, after = rounded, (TensorMistake(HALF, "rounded to float16"),)
    if same(mine, target):
        return after or (TensorMistake(HALF, "stored as float16"),)
    alike = shape_of_values(mine, target)
    found = _single(mine, target, spec, alike) or _swapped(mine, spec, truths)
    if not found and (alike or spec.role == "loc"):
        found = _pair(mine, target, spec)
    if not found and after:  # constants such as 20 or 0 survive half precision: the rounding is no part of the story
        return _single(mine, truth, spec, alike)
    lost = bool(found) and _replaced(mine, found)
    return found + (() if lost else after) if found else ()


def _single(mine: Array, target: Array, spec: TensorSpec, alike: bool) -> tuple[TensorMistake, ...]:
    for hypothesis in WEIGHTS:
        if hypothesis.permutes and not alike:
            continue
        for detail, undone in hypothesis.undo(mine, target, spec):
            if _hits(undone, target):
                return (TensorMistake(hypothesis, detail),)
    return ()


def _hits(undone: Array, target: Array) -> bool:
    if undone is target:
        return True
    if undone.dtype == np.float64:
        return close(undone, target)
    return same(undone, target)


def _swapped(mine: Array, spec: TensorSpec, truths: Truths) -> tuple[TensorMistake, ...]:
    if mine.size < 2 or bool((mine == mine.flat[0]).all()):
        return ()
    others = [name for name in truths.named(mine) if name != spec.name]
    return (TensorMistake(SWAPPED, f"{spec.name} holds {others[0]}"),) if others else ()


def _pair(mine: Array, target: Array, spec: TensorSpec) -> tuple[TensorMistake, ...]:
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
                        return (TensorMistake(first, detail), TensorMistake(second, other))
    return ()


def _replaced(mine: Array, steps: tuple[TensorMistake, ...]) -> bool:
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


def digest(array: Array) -> bytes:
    """A hash of an array's values in C order."""
    return hashlib.blake2b(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, digest_size=16).digest()
