"""The search for causes: from the first divergent probe to the mistake behind it, undo it, and on to the next one.

At each probe, in this order:

1. stored tensors of the layers that can reach the probe, where known mistakes explain their difference bit for bit;
2. mistakes in pixels, layers or boxes whose role fits: each tried alone at that probe, then two together;
3. at most two tensors that differ in no known way ("one damaged tensor").

What helps at the probe is confirmed by a run of the whole network: the first divergence must have moved on, or vanished.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from ssdconv.errors import FormatError, SsdconvError
from ssdconv.parity.diagnose.evidence import Evidence
from ssdconv.parity.diagnose.hypotheses import CONFIGS
from ssdconv.parity.diagnose.hypothesis import Proposal
from ssdconv.parity.diagnose.judge import Outcome, local, whole
from ssdconv.parity.diagnose.net import Net, Role
from ssdconv.parity.diagnose.reach import reach
from ssdconv.parity.diagnose.replay import Tape
from ssdconv.parity.diagnose.result import Cause, Diagnosis, State, Trial
from ssdconv.parity.diagnose.summary import excess_at, state, unseen, verdict_of
from ssdconv.parity.diagnose.truth import Truth, View
from ssdconv.parity.diagnose.weights import CORRUPTED

SECONDS = 55.0
MOST_CAUSES = 12
PAIRS = 400
TOGETHER = 25
"""The most promising single proposals that are tried in pairs."""
Progress = Callable[[str, int, int], None]


@dataclass
class Search:
    """One diagnosis under way.

    Args:
        net: the suspect, as far as it has been put right.
        truth: the other side.
        name: of the suspect, for the report.
        seconds: time after which no new search at a layer begins.
        progress: called with a text, steps done and steps in all.
    """

    net: Net
    truth: Truth
    name: str
    seconds: float = SECONDS
    progress: Progress | None = None
    causes: list[Cause] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.started = time.perf_counter()
        self.evidence = Evidence(self.net, self.truth.tensors)

    def run(self) -> Diagnosis:
        """Look for causes until everything agrees or nothing helps."""
        view, outcome = self._start()
        before = state(outcome, self.evidence)
        while outcome.first is not None and len(self.causes) < MOST_CAUSES:
            self._tell(f"{outcome.name} differs")
            after = self._undo(view, outcome)
            if after is None:
                break
            outcome = after
            if outcome.first is None:
                view, outcome = self._others(view, outcome)
        self._harmless()
        return self._conclude(before, state(outcome, self.evidence))

    def _start(self) -> tuple[View, Outcome]:
        """The first input on which the suspect differs, or the last one."""
        for index in range(len(self.truth.images)):
            self._tell(f"comparing on {self.truth.images[index][0]}")
            view = self.truth.view(index)
            try:
                outcome = whole(self.net, view, self.truth.probes)
            except (RuntimeError, ValueError) as error:
                first = str(error).splitlines()[0]
                raise FormatError(f"the network cannot be run: {first}", where=self.name) from None
            if outcome.first is not None:
                break
        return view, outcome

    def _others(self, view: View, outcome: Outcome) -> tuple[View, Outcome]:
        """The next input that still differs; what is at hand where all agree or time is over."""
        for index, (name, _) in enumerate(self.truth.images):
            if name != view.name:
                if self._late():
                    self.notes.append(f"time was over before {name!r} was compared again")
                    break
                other = self.truth.view(index)
                found = whole(self.net, other, self.truth.probes)
                if found.first is not None:
                    return other, found
        return view, outcome

    def _undo(self, view: View, outcome: Outcome) -> Outcome | None:
        """Put right what makes the first divergent probe differ; None where nothing does."""
        place = outcome.first
        assert place is not None
        self._place, self._view, self._outcome = place, view, outcome
        probe = outcome.name or ""
        before = excess_at(outcome, place)
        paths, roles, tape = reach(self.net, outcome, place)
        net, left = self.net, before
        found: list[Proposal] = []
        for step in (self._stored, self._settings, self._damaged):
            net, more, left = step(net, left, tape, paths, roles)
            found += more
            if left <= 1.0:
                break
        if not found:
            return None
        try:
            after = whole(net, view, self.truth.probes, always=False)
        except (SsdconvError, RuntimeError):
            return None
        moved = after.first is None or after.first > place
        now = after.name
        names = tuple(p.label for p in found)
        self.trials.append(Trial(names, probe, before, excess_at(after, place), now, moved))
        if not moved:
            self._keep(found, probe)
            return None
        self.net = net
        self.evidence.refresh(net)
        self.causes += [p.mistake.cause(p.detail, probe) for p in found]
        return after

    def _keep(self, found: Sequence[Proposal], probe: str) -> None:
        """What the stored bits prove is a cause, though not the only one here."""
        for proposal in found:
            if proposal.mistake.kind == "weights" and proposal.mistake.name != CORRUPTED.name:
                self.net = proposal.change(self.net)
                self.causes.append(proposal.mistake.cause(proposal.detail, probe))
        self.evidence.refresh(self.net)

    Found = tuple[Net, list[Proposal], float]

    def _local(self, net: Net, tape: Tape | None) -> float:
        return local(net, self._view, self._outcome, self._place, tape)

    def _try(self, net: Net, proposals: Sequence[Proposal], left: float, tape: Tape | None) -> tuple[Net, float]:
        changed = net
        for proposal in proposals:
            changed = proposal.change(changed)
        value = self._local(changed, tape)
        names = tuple(p.label for p in proposals)
        probe = self._outcome.name or ""
        self.trials.append(Trial(names, probe, left, value, None, value <= 1.0, "layer"))
        return changed, value

    def _stored(self, net: Net, left: float, tape: Tape | None, paths: list[str], roles: set[Role]) -> Found:
        """Known mistakes in stored tensors within reach."""
        if roles == {"input"}:
            both = self.evidence.turned(net)
            if both is not None:
                changed, value = self._try(net, [both], left, tape)
                if value <= 1.0:
                    return changed, [both], value
        found = self.evidence.proposals(net, paths)
        if not found:
            return net, [], left
        changed, value = self._try(net, found, left, tape)
        return changed, found, value

    def _damaged(self, net: Net, left: float, tape: Tape | None, paths: list[str], roles: set[Role]) -> Found:
        """One or two tensors that differ in no known way; settings once more on top where that is not all."""
        found = self.evidence.damaged(net, paths)
        if not found:
            return net, [], left
        changed, value = self._try(net, found, left, tape)
        if value > 1.0:
            changed, more, value = self._settings(changed, value, tape, paths, roles)
            found = [*found, *more]
        return (changed, found, value) if value <= 1.0 else (net, [], left)

    def _settings(self, net: Net, left: float, tape: Tape | None, paths: list[str], roles: set[Role]) -> Found:
        """Mistakes in pixels, layers and boxes: alone, then in pairs."""
        if self.evidence.odd(net, paths):
            return net, [], left  # no setting makes up for foreign weights
        singles: list[tuple[float, Proposal]] = []
        for proposal in self._proposals(net, roles):
            if self._late():
                self.notes.append("time was over before every known mistake was tried")
                break
            changed, value = self._try(net, [proposal], left, tape)
            if value <= 1.0:
                return changed, [proposal], value
            singles.append((value, proposal))
        promising = [p for _, p in sorted(singles, key=lambda s: s[0])[:TOGETHER]]
        for count, (a, b) in enumerate(combinations(promising, 2)):
            if (a.mistake.name == b.mistake.name and a.detail == b.detail) or count >= PAIRS or self._late():
                continue
            changed, value = self._try(net, [a, b], left, tape)
            if value <= 1.0:
                return changed, [a, b], value
        return net, [], left

    def _proposals(self, net: Net, roles: set[Role]) -> Iterator[Proposal]:
        for hypothesis in CONFIGS:
            if hypothesis.touches & roles:
                yield from hypothesis.proposals(net, self.truth.config)

    def _harmless(self) -> None:
        """Stored tensors that differ where no layer does: below rounding, or not used."""
        found = self.evidence.proposals(self.net, None) + self.evidence.damaged(self.net, None)
        for proposal in found:
            self.net = proposal.change(self.net)
            self.causes.append(proposal.mistake.cause(proposal.detail))
            self.notes.append(f"{proposal.label}: no layer differs by more than rounding because of it")
        self.evidence.refresh(self.net)

    def _conclude(self, before: State, after: State) -> Diagnosis:
        verdict = verdict_of(before, after, len(self.causes))
        if after.first_divergent is None:
            self.notes += [
                f"{text}, which shows on none of these inputs" for text in unseen(self.net, self.truth.config)
            ]
        else:
            self.notes += self.evidence.story()
        return Diagnosis(
            verdict,
            self.name,
            self.truth.name,
            before.first_divergent,
            tuple(self.causes),
            tuple(self.trials),
            before,
            after,
            time.perf_counter() - self.started,
            (*self.truth.notes, *dict.fromkeys(self.notes)),
        )

    def _late(self) -> bool:
        return time.perf_counter() - self.started > self.seconds

    def _tell(self, text: str) -> None:
        if self.progress is not None:
            self.progress(text, len(self.causes), len(self.causes) + 1)
