"""The shape of a hypothesis: one known mistake as data, with a function that proposes how to undo it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ssdconv.parity.diagnose.net import Array, Net, Role, TensorSpec
from ssdconv.parity.diagnose.result import Cause, Kind
from ssdconv.ssd_ref.config import SSDConfig

THREADS = "https://github.com/"


@dataclass(frozen=True)
class Mistake:
    """One known mistake.

    Attributes:
        name: stable name.
        title, explanation, where, fix: for the user; see ``result.Cause``.
        kind: what undoing it changes.
        touches: roles of the layers at which it can be the first to show.
    """

    name: str
    title: str
    explanation: str
    where: str
    kind: Kind
    touches: frozenset[Role]
    fix: str = ""

    def cause(self, detail: str = "", probe: str = "") -> Cause:
        """The mistake as found in a network."""
        return Cause(self.name, self.title, self.explanation, self.where, self.kind, detail, probe, self.fix)


Undone = Iterator[tuple[str, Array]]


@dataclass(frozen=True)
class WeightHypothesis(Mistake):
    """A mistake that changes stored tensors.

    ``undo(mine, target, spec)`` yields (detail, array) for each way in which the mistake could have made ``mine`` of
    ``target``; the array equals ``target`` bit for bit where that is so. Mistakes that lose information yield ``target`` itself
    where what is left is unmistakable (all zero, all 20).

    Attributes:
        first: it may be the first of two mistakes on one tensor: its ``undo`` does not need ``target``.
        permutes: it moves values only.
    """

    undo: Callable[[Array, Array, TensorSpec], Undone] = lambda mine, target, spec: iter(())
    first: bool = False
    permutes: bool = False


@dataclass(frozen=True)
class Proposal:
    """One way to undo a mistake in the network at hand: ``change`` gives the network without it."""

    mistake: Mistake
    detail: str
    change: Callable[[Net], Net]

    @property
    def label(self) -> str:
        """Name and detail, for reports."""
        return f"{self.mistake.name}: {self.detail}" if self.detail else self.mistake.name


@dataclass(frozen=True)
class ConfigHypothesis(Mistake):
    """A mistake in the config (layers, priors, detection rule) or in the pixels.

    ``propose(net, truth)`` yields (detail, change) for each way to undo it; ``truth`` is the other side's config where it is known,
    whose values come first.
    """

    propose: Callable[[Net, SSDConfig | None], Iterator[tuple[str, Callable[[Net], Net]]]] = lambda net, truth: iter(())

    def proposals(self, net: Net, truth: SSDConfig | None) -> Iterator[Proposal]:
        """All ways to undo the mistake that would change anything."""
        for detail, change in self.propose(net, truth):
            yield Proposal(self, detail, change)
