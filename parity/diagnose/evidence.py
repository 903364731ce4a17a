"""What the stored tensors say: which differ, which known mistakes explain them, and which stay unexplained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from ssdconv.parity.diagnose.hypothesis import Mistake, Proposal
from ssdconv.parity.diagnose.net import Array, Net, tensor_specs
from ssdconv.parity.diagnose.tensors import Difference, Step, Truths, differences, same
from ssdconv.parity.diagnose.weights import CORRUPTED

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
        grouped: dict[str, list[tuple[str, Step]]] = {}
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


def described(rows: Sequence[tuple[str, Step]]) -> str:
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
