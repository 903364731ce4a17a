"""What a training shows on stderr: a progress bar on a terminal, one line per epoch everywhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ssdconv.text import console
from ssdconv.train.loop import Terms


class Watcher:
    """A ``Listener``; ``bar`` and ``task`` of rich where stderr is a terminal."""

    def __init__(self, bar: Any = None, task: Any = None) -> None:
        self.bar, self.task = bar, task
        self._started = False

    def step(self, epoch: int, done: int, total: int, terms: Terms) -> None:
        """Move the bar."""
        if self.bar is None:
            return
        if not self._started:  # a resumed run does not begin at 0, and its speed must not count what was done before
            self.bar.reset(self.task, total=total, completed=done, start=True)
            self._started = True
        text = f"epoch {epoch + 1}  loss {terms.total:.3f} (loc {terms.loc:.3f}, conf {terms.conf:.3f})"
        self.bar.update(self.task, completed=done, total=total, description=text)

    def epoch(self, values: dict[str, Any]) -> None:
        """One line."""
        scores = [f"{k} {100 * v:.2f}" for k, v in values.items() if k in ("mAP", "AP") and v is not None]
        parts = [
            f"epoch {values['epochs']}",
            f"mean loss {values['mean_loss']:.4f}",
            *scores,
            f"{values['seconds']:.0f} s",
        ]
        self.note(", ".join(parts))

    def note(self, text: str) -> None:
        """A line, above the bar where there is one."""
        if self.bar is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self.bar.console.print(text, highlight=False, markup=False)


class Silent(Watcher):
    """Of the processes that only compute."""

    def epoch(self, values: dict[str, Any]) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


@contextmanager
def watching(first: bool) -> Iterator[Watcher]:
    """The listener of this process."""
    if not first:
        yield Silent()
        return
    if not sys.stderr.isatty():
        yield Watcher()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        yield Watcher(bar, bar.add_task("", total=None))
