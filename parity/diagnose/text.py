"""A diagnosis for a person at a terminal: cause, why, before and after, and what to do."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from ssdconv.parity.diagnose.result import Diagnosis, State
from ssdconv.text import console as safe_console

HEADS = {
    "explained": "the difference is explained",
    "partly explained": "part of the difference is explained",
    "unexplained": "no known mistake explains the difference",
    "no difference": "no difference: both compute the same",
}
Line = tuple[str, str]


def lines(diagnosis: Diagnosis) -> Iterator[Line]:
    """(style, text) of every line."""
    good = diagnosis.verdict in ("explained", "no difference")
    yield (
        "bold green" if good else "bold red",
        f"{diagnosis.suspect} against {diagnosis.truth}: {HEADS[diagnosis.verdict]}",
    )
    if diagnosis.first_divergent is not None:
        yield ("", f"  starts at {diagnosis.first_divergent}")
    for index, cause in enumerate(diagnosis.causes, 1):
        yield ("", "")
        yield ("bold", f"{index}. {cause.title}  [{cause.name}]")
        if cause.detail:
            yield ("", f"   {cause.detail}")
        yield ("", f"   {cause.explanation}")
        yield ("dim", f"   known from: {cause.where}")
        if cause.probe:
            yield ("dim", f"   first shows at: {cause.probe}")
        if cause.fix:
            yield ("", f"   to fix: {cause.fix}")
    if not diagnosis.passed:
        yield ("", "")
        yield ("", f"  as it is          {state(diagnosis.before)}")
        if diagnosis.causes:
            yield ("", f"  with this undone  {state(diagnosis.after)}")
    for note in diagnosis.notes:
        yield ("dim", f"  note: {note}")
    tried = sum(len(t.causes) > 0 for t in diagnosis.trials)
    yield ("dim", f"  {tried} trials in {diagnosis.seconds:.1f} s")


def state(found: State) -> str:
    """How far both sides agree."""
    text = f"{found.probes - found.failed} of {found.probes} layers agree"
    if found.tensors:
        text += f", {found.tensors - found.tensors_different} of {found.tensors} tensors are bit-identical"
    if found.detections is not None:
        text += f", {found.detections_matched} of {found.detections} detections equal"
    if found.first_divergent is not None:
        text += f"; first difference at {found.first_divergent}"
    return text


def show(diagnosis: Diagnosis, console: Console | None = None) -> None:
    """Print the diagnosis on stdout."""
    console = console or safe_console()
    for style, text in lines(diagnosis):
        console.print(Text(text, style), soft_wrap=True)
