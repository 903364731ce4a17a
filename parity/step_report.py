"""What a comparison of training steps found: rows, and their worst."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Precision = Literal["float32", "float64"]
What = Literal["targets", "loss", "gradient", "weights"]


@dataclass(frozen=True)
class StepRow:
    """One compared array.

    Attributes:
        what: kind of value.
        step: number of updates done before it was taken (gradients: 0).
        name: parameter, loss term, or ``labels`` and ``offsets`` of the targets.
        size: number of elements.
        magnitude: largest exact value; of weights, of their change.
        error: largest difference to the exact value.
        floor: error that rounding explains.
        limit: largest ratio that passes.
        problem: why there is nothing to measure, "" where there is.
    """

    what: What
    step: int
    name: str
    size: int
    magnitude: float
    error: float
    floor: float
    limit: float
    problem: str = ""

    @property
    def ratio(self) -> float:
        """Error over floor."""
        return 0.0 if self.error == 0 else self.error / self.floor if self.floor else math.inf

    @property
    def passed(self) -> bool:
        """Whether rounding explains the error."""
        return not self.problem and self.ratio <= self.limit


@dataclass(frozen=True)
class StepReport:
    """Result of a comparison.

    Attributes:
        framework: what it was compared with.
        network, recipe, precision: what was compared.
        positives: matched priors in the batch.
        rows: everything compared.
        growth: float32 only: median relative error of the reference's own weight changes after each number of updates.
    """

    framework: str
    network: str
    recipe: str
    precision: Precision
    positives: int
    rows: tuple[StepRow, ...]
    growth: Mapping[int, float]

    @property
    def passed(self) -> bool:
        """Whether every row passed, and there was something to compare."""
        return bool(self.rows) and self.positives > 0 and all(row.passed for row in self.rows)

    def worst(self, what: What, step: int | None = None) -> StepRow:
        """The row with the largest ratio of a kind."""
        rows = [r for r in self.rows if r.what == what and step in (None, r.step)]
        return max(rows, key=lambda r: (bool(r.problem), r.ratio))

    def failures(self) -> list[StepRow]:
        """Rows that did not pass, worst first."""
        return sorted((r for r in self.rows if not r.passed), key=lambda r: (bool(r.problem), r.ratio), reverse=True)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-ready data; ratios are null where the floor is 0."""
        rows = [
            {**asdict(r), "ratio": r.ratio if math.isfinite(r.ratio) else None, "passed": r.passed} for r in self.rows
        ]
        growth = {str(step): value for step, value in self.growth.items()}
        return {**asdict(self), "passed": self.passed, "growth": growth, "rows": rows}
