"""What a run is asked to do, whom it tells, and what it came to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ssdconv.ssd_ref.model import SSD
from ssdconv.train.step import Terms


@dataclass(frozen=True)
class Score:
    """An evaluation: the number that decides which checkpoint is best, its name, and others to be logged."""

    value: float | None
    name: str = "mAP"
    others: dict[str, float | None] = field(default_factory=dict)


Evaluate = Callable[[SSD], Score]
"""Scores the network, which is in eval mode."""


class Listener(Protocol):
    """Hears how a run goes on."""

    def step(self, epoch: int, done: int, total: int, terms: Terms) -> None:
        """After every update; ``done`` and ``total`` count updates of the run."""

    def epoch(self, values: dict[str, Any]) -> None:
        """After every epoch: what the log gets."""

    def note(self, text: str) -> None:
        """Something that the user should know."""


@dataclass(frozen=True)
class Settings:
    """How a run is carried out; nothing here changes the recipe.

    Attributes:
        seed: of initial values, order and augmentation.
        amp: bfloat16 in the network (``Step``).
        device: of this process.
        workers: threads that make samples.
        eval_every: epochs between evaluations; there is always one at the end.
        keep: states that are kept.
        save_every: updates between states, beside the one after every epoch.
        log_every: updates between lines of the log.
        tensorboard: whether TensorBoard's files are written too.
    """

    seed: int = 0
    amp: bool = False
    device: str = "cpu"
    workers: int = 2
    eval_every: int = 5
    keep: int = 3
    save_every: int = 1000
    log_every: int = 10
    tensorboard: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        steps, epochs: done over the whole run.
        loss: mean of the last epoch; None where nothing was left to do.
        best, best_epoch, metric: best score, its epoch, its name; None and 0 without evaluation.
        seconds, images_per_s, waiting: of this process: time in the loop, rate without evaluations and saving, share of the
            time in which the network waited for images.
        last, best_path: checkpoints.
    """

    steps: int
    epochs: int
    loss: float | None
    best: float | None
    best_epoch: int
    metric: str
    seconds: float
    images_per_s: float
    waiting: float
    last: Path
    best_path: Path | None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}
