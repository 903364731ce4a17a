"""``diagnose``: why a weight file does not compute what its source, or another file, computes.

The search goes from the first divergent probe to the mistake behind it, undoes it, and on to the next one. At each probe, in this order:

1. stored tensors of the layers that can reach the probe, where known mistakes explain their difference bit for bit;
2. mistakes in pixels, layers or boxes whose role fits: each tried alone at that probe, then two together;
3. at most two tensors that differ in no known way ("one damaged tensor").

What helps at the probe is confirmed by a run of the whole network: the first divergence must have moved on, or vanished.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import combinations
from pathlib import Path

from ssdconv.converters.convert import Opened, open_source, recalled
from ssdconv.converters.plan import Request
from ssdconv.errors import FormatError, SsdconvError, UsageError
from ssdconv.parity.diagnose.configs import CONFIGS
from ssdconv.parity.diagnose.evidence import Evidence
from ssdconv.parity.diagnose.hypothesis import Net, Proposal, Role
from ssdconv.parity.diagnose.judge import Tape, WholeRun, excess_of, local, missed, reach, whole
from ssdconv.parity.diagnose.result import Agreement, Cause, Diagnosis, Trial, Verdict
from ssdconv.parity.diagnose.sides import BelievedSide, ExpectedRun, WeightFile, load, of_network, of_source, own, pair
from ssdconv.parity.diagnose.weights import CORRUPTED
from ssdconv.parity.layers.activations import Progress
from ssdconv.parity.source_side import PIXELS_UNTOLD, adopted, open_as
from ssdconv.ssd_ref.checkpoint import Checkpoint
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.files import CHECKPOINTS
from ssdconv.ssd_ref.model import reference_shapes

SECONDS = 55.0
MOST_CAUSES = 12
PAIRS = 400
TOGETHER = 25
"""The most promising single proposals that are tried in pairs."""


def diagnose(
    weights: Path,
    *,
    source: Path | None = None,
    reference: Path | None = None,
    prototxt: Path | None = None,
    images: Sequence[Path] = (),
    seed: int = 0,
    seconds: float = SECONDS,
    progress: Progress | None = None,
) -> Diagnosis:
    """Find out why ``weights`` differ, by undoing known mistakes in them.

    Args:
        weights: the suspect: a checkpoint of ssdconv, a state dict of somebody else, or a source file.
        source: the original weight file, run by its own framework (the oracle); or
        reference: a converted file that is believed.
        prototxt: network definition of a Caffe source.
        images: photos to compare on; none for a generated picture.
        seed: of picture and noise.
        seconds: after which no new trial begins.
        progress: called with a text, steps done and steps in all.

    Raises:
        UsageError: neither or both of ``source`` and ``reference``.
        MissingError: a file is missing, or the oracle cannot run here.
        FormatError, UnsafeFileError: a file is damaged or refused.
        MappingError: the files hold different networks.
    """
    if (source is None) == (reference is None):
        raise UsageError(
            "a diagnosis needs one thing to hold the weights against",
            hint="--source FILE is the original weight file, --reference FILE a converted one that is right",
        )
    if reference is not None:
        suspect, right = pair(weights, reference, prototxt)
        if not right.pixels_told:
            pixels = suspect.net.config.pixels
            right = replace(right, net=right.net.with_pixels(pixels), notes=(*right.notes, PIXELS_UNTOLD))
        truth = of_network(right.net, suspect.net, Path(reference).name, images, seed)
        return _search(suspect, replace(truth, notes=(*right.notes, *suspect.notes)), seconds, progress)
    assert source is not None
    path = Path(weights)
    held = own(path) if path.suffix in CHECKPOINTS else None
    with recalled(held.provenance if held else {}, prototxt, Path(source), str(path)) as (definition, notes):
        suspect, opened = _pair(path, held, Path(source), definition)
        with opened.table:
            truth = of_source(opened, suspect.net, definition, images, seed)
            every = (*truth.notes, *suspect.notes, *notes)
            return _search(suspect, replace(truth, notes=every), seconds, progress)


def _search(suspect: WeightFile, truth: BelievedSide, seconds: float, progress: Progress | None) -> Diagnosis:
    return Search(suspect.net, truth, suspect.path.name, seconds, progress).run()


def _pair(weights: Path, held: Checkpoint | None, source: Path, prototxt: Path | None) -> tuple[WeightFile, Opened]:
    """The suspect and the opened source file, its mapping paired to the suspect's tensors."""
    if held is not None:
        return WeightFile(weights, Net.of(held)), open_as(source, prototxt, held)
    opened = open_source(source, None, Request(prototxt=prototxt))
    try:
        suspect = load(weights, opened.plan.config)
    except BaseException:
        opened.table.close()
        raise
    return suspect, adopted(opened, suspect.net.config, reference_shapes(suspect.net.config))


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
    truth: BelievedSide
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
        before = state_of(outcome, self.evidence)
        while outcome.first is not None and len(self.causes) < MOST_CAUSES:
            self._tell(f"{outcome.name} differs")
            after = self._undo(view, outcome)
            if after is None:
                break
            outcome = after
            if outcome.first is None:
                view, outcome = self._others(view, outcome)
        self._harmless()
        return self._conclude(before, state_of(outcome, self.evidence))

    def _start(self) -> tuple[ExpectedRun, WholeRun]:
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

    def _others(self, view: ExpectedRun, outcome: WholeRun) -> tuple[ExpectedRun, WholeRun]:
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

    def _undo(self, view: ExpectedRun, outcome: WholeRun) -> WholeRun | None:
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

    def _conclude(self, before: Agreement, after: Agreement) -> Diagnosis:
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


def state_of(outcome: WholeRun, evidence: Evidence) -> Agreement:
    """How far the suspect agrees: layers, stored tensors, detections."""
    probes, found = outcome.probes, outcome.found
    return Agreement(
        outcome.name or evidence.first,
        len(probes),
        sum(not p for p in probes),
        max((excess_of(p) for p in probes), default=0.0),
        len(evidence.truth),
        len(evidence.different),
        None if found is None else found.oracle,
        None if found is None else found.matched,
    )


def excess_at(outcome: WholeRun, place: int) -> float:
    """Error over the limit at a place of the outcome; behind the last probe stand the detections."""
    return missed(outcome.found) if place >= len(outcome.probes) else excess_of(outcome.probes[place])


def verdict_of(before: Agreement, after: Agreement, causes: int) -> Verdict:
    """The verdict, from both states and the number of causes."""
    if before.first_divergent is None:
        return "no difference"
    if after.first_divergent is None:
        return "explained"
    return "partly explained" if causes else "unexplained"


def unseen(net: Net, truth: SSDConfig) -> Iterator[str]:
    """Settings of pixels and detection rule that differ from the truth's."""
    for part in ("pixels", "detect"):
        mine, theirs = getattr(net.config, part), getattr(truth, part)
        for one in fields(mine):
            own, other = getattr(mine, one.name), getattr(theirs, one.name)
            if own != other:
                yield f"{part}.{one.name} is {own}, the truth has {other}"
