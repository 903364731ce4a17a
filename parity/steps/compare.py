"""Step parity: is a training step of the reference the same computation as the source framework's?

Both sides start from the same float32 weights and are given the same batch; each makes its own targets, loss terms,
gradients of every parameter, and weights after some updates. Two comparisons:

``float64``
    Both compute in double precision. Nothing amplifies a rounding error then (a ReLU, a max-pool or the choice of hard
    negatives that falls the other way), so that errors must stay below float32's own resolution: 2**-24 of a tensor's
    largest value. This is the sharp one: a decay on biases, or a rate off by a millionth, is seen after the first update.
    Encoded boxes are float32 in ChainerCV and GluonCV always, so the reference's are given to them, and theirs are
    compared with float32's rounding.
``float32``
    Both compute as one trains. The reference in float64 is the exact value, and the framework's error is divided by the
    reference's own float32 error, as ``parity.layers.tolerance`` does for activations. After some updates the floor holds what the
    steps before made of the first rounding errors; ``StepReport.growth`` says how much. MXNet's batch normalisation sums
    in float32, torch's in float64, so that networks with it lie above this floor there, and are compared in float64.

What is compared of the weights is their change since the start. Caffe computes in float32 only, and shows neither its targets nor
the terms of its loss one by one: its loss is compared as their sum, and its gradients tell the targets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any, Literal

import numpy as np
import torch

from ssdconv.errors import UsageError
from ssdconv.parity.layers.tolerance import FEW, HALF_ULP, MAX_RATIO, TINY, Array, Measurement, measure
from ssdconv.parity.oracles.caffe import WORKER as CAFFE
from ssdconv.parity.steps.frameworks import FRAMEWORKS, caffe_trace, framework_trace
from ssdconv.parity.steps.reference import LossFunction, StepBatch, StepPlan, Trace, reference_trace
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.train.loss import multibox_loss
from ssdconv.train.recipe import Recipe
from ssdconv.train.recipes import default_recipe

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


DOUBLE_ULP = 2.0**-48
RUN_BY = {source: worker.title for source, worker in {**FRAMEWORKS, "caffe": CAFFE}.items()}
"""Source -> what runs its training step."""


def step_parity(
    config: SSDConfig,
    tensors: Mapping[str, Array],
    batch: StepBatch,
    *,
    recipe: Recipe | None = None,
    plan: StepPlan | None = None,
    precision: Precision = "float64",
    theirs: Trace | None = None,
    loss_function: LossFunction = multibox_loss,
) -> StepReport:
    """Compare training steps with the network's source framework.

    Args:
        config: a network of Caffe, ChainerCV or GluonCV.
        tensors: float32 weights to start from, by the reference's names.
        batch: of every step.
        recipe: default: the source's.
        plan: numbers of updates and rate.
        precision: see the module's docstring.
        theirs: the framework's trace, where it was made before with the same arguments.
        loss_function: stands in for the reference's loss, to try faults.

    Raises:
        UsageError: no training step of that source can be run, or not in that precision.
        MissingError: the framework is not installed.
    """
    recipe, plan = recipe or default_recipe(config), plan or StepPlan()
    if config.source not in RUN_BY:
        raise UsageError(
            f"no training step of {config.source!r} to compare with", expected=f"one of {', '.join(RUN_BY)}"
        )
    if config.source == "caffe" and precision != "float32":
        raise UsageError("Caffe's training step is run in float32 only", got=precision, hint='precision="float32"')

    def mine(dtype: torch.dtype) -> Trace:
        return reference_trace(config, tensors, batch, recipe, plan, dtype, loss_function)

    exact = mine(torch.float64)
    rounded = mine(torch.float32) if precision == "float32" else None
    theirs = theirs or oracle_trace(config, tensors, batch, recipe, plan, precision)
    rows = tuple(_rows(theirs, exact, rounded, tensors, plan))
    growth = {k: _growth(exact, rounded, tensors, k) for k in plan.keep} if rounded else {}
    return StepReport(RUN_BY[config.source], config.name, recipe.name, precision, exact.positives, rows, growth)


def oracle_trace(
    config: SSDConfig,
    tensors: Mapping[str, Array],
    batch: StepBatch,
    recipe: Recipe,
    plan: StepPlan,
    precision: Precision = "float64",
) -> Trace:
    """The framework's side alone; see ``step_parity``."""
    if config.source == "caffe":
        return caffe_trace(config, tensors, batch, recipe.optimizer, plan)
    offsets = None
    if precision == "float64":
        short = StepPlan((0,), plan.lr)
        offsets = reference_trace(config, tensors, batch, recipe, short, torch.float64).offsets
    return framework_trace(config, tensors, batch, recipe, plan, offsets=offsets)


def _rows(
    theirs: Trace, exact: Trace, rounded: Trace | None, start: Mapping[str, Array], plan: StepPlan
) -> Iterator[StepRow]:
    if theirs.labels.size:
        yield from _targets(theirs, exact)
    yield from _losses(theirs, exact, rounded)
    own = None if rounded is None else rounded.gradients
    yield from _tensors("gradient", 0, theirs.gradients, exact.gradients, own, {})
    for k in plan.keep:
        own = None if rounded is None else _changes(rounded, start, k)
        yield from _tensors("weights", k, _changes(theirs, start, k), _changes(exact, start, k), own, start)


def _targets(theirs: Trace, exact: Trace) -> Iterator[StepRow]:
    different = int((theirs.labels != exact.labels).sum()) if theirs.labels.shape == exact.labels.shape else -1
    problem = f"{different} priors are matched otherwise" if different else ""
    yield StepRow("targets", 0, "labels", exact.labels.size, 1.0, 0.0, 0.0, 0.0, problem)
    if not problem:
        yield _offsets(theirs, exact)


def _offsets(theirs: Trace, exact: Trace) -> StepRow:
    """Encoded boxes: sizes near 1 are subtracted and divided by the variance, so float32 leaves a few units of 1e-6."""
    error = np.abs(theirs.offsets.astype(np.float64) - exact.offsets)
    magnitude = float(np.abs(exact.offsets).max(initial=1.0))
    floor = HALF_ULP / 0.1 * magnitude
    return StepRow("targets", 0, "offsets", error.size, magnitude, float(error.max(initial=0.0)), floor, MAX_RATIO)


def _losses(theirs: Trace, exact: Trace, rounded: Trace | None) -> Iterator[StepRow]:
    """Both terms before each update. A single number's own rounding error is no measure, so the floor is the largest
    relative one of both terms up to that step, and one unit of float32 at least."""
    names: tuple[str, ...] = ("loc", "conf")
    if theirs.losses.shape[-1] == 1:
        names = ("sum",)
        exact = replace(exact, losses=exact.losses.sum(1, keepdims=True))
        rounded = rounded and replace(rounded, losses=rounded.losses.sum(1, keepdims=True))
    floor = 2 * HALF_ULP if rounded else HALF_ULP
    for step, values in enumerate(exact.losses.tolist()):
        if rounded is not None:
            floor = max(floor, *np.abs(rounded.losses[step] / exact.losses[step] - 1).tolist())
        for name, mine, other in zip(names, values, theirs.losses[step].tolist(), strict=True):
            limit = MAX_RATIO if rounded else 1.0
            yield StepRow("loss", step, name, 1, abs(mine), abs(other - mine), floor * abs(mine), limit)


def _changes(trace: Trace, start: Mapping[str, Array], k: int) -> dict[str, Array]:
    return {n: v.astype(np.float64) - start[n] for n, v in trace.weights[k].items() if n in start}


def _tensors(
    what: What,
    step: int,
    theirs: Mapping[str, Array],
    exact: Mapping[str, Array],
    rounded: Mapping[str, Array] | None,
    start: Mapping[str, Array],
) -> Iterator[StepRow]:
    measured: dict[str, Measurement] = {}
    for name, value in exact.items():
        if name not in theirs:
            yield StepRow(what, step, name, value.size, 0.0, 0.0, 0.0, 0.0, "the framework has no such tensor")
        elif not np.isfinite(theirs[name]).all() or theirs[name].shape != value.shape:
            problem = f"not finite, or of shape {theirs[name].shape} instead of {value.shape}"
            yield StepRow(what, step, name, value.size, 0.0, 0.0, 0.0, 0.0, problem)
        else:
            measured[name] = measure(theirs[name], value, value if rounded is None else rounded[name])
    usual = median([m.floor / m.magnitude for m in measured.values() if m.size >= FEW and m.magnitude] or [0.0])
    for name, m in measured.items():
        held = float(np.abs(start[name]).max(initial=0.0)) if start else 0.0
        if rounded is None:
            floor, limit = max(HALF_ULP * m.magnitude, DOUBLE_ULP * held, TINY), 1.0
        else:  # a tensor of few elements may have a small error by luck: then the usual one of the large tensors counts
            few = usual if m.size < FEW else 0.0
            floor, limit = max(m.floor, max(HALF_ULP, few) * m.magnitude, HALF_ULP * held, TINY), MAX_RATIO
        yield StepRow(what, step, name, m.size, m.magnitude, m.error, floor, limit)


def _growth(exact: Trace, rounded: Trace, start: Mapping[str, Array], k: int) -> float:
    mine, other = _changes(exact, start, k), _changes(rounded, start, k)
    relative = [np.abs(other[n] - v).max() / np.abs(v).max() for n, v in mine.items() if np.abs(v).max(initial=0.0) > 0]
    return float(median(relative)) if relative else 0.0
