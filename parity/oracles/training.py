"""ChainerCV's and GluonCV's training steps, run live, in the reference's names and layout.

The framework is given a weight file of its own kind, written from the reference's tensors, the prepared pixels and the
objects; it makes its own targets, loss, gradients and updates.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ssdconv.converters.convert import open_source
from ssdconv.converters.plan import Request
from ssdconv.converters.registry import source as source_named
from ssdconv.converters.tensors import Array, Entry, apply_all
from ssdconv.errors import UsageError
from ssdconv.parity.oracles.process import Answer, ask
from ssdconv.parity.steps.reference import StepBatch, StepPlan, Trace
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.train.recipe import Recipe

FRAMEWORKS = {"chainer": "Chainer 7.8.1, ChainerCV 0.13.1", "gluon": "MXNet 1.9.1, GluonCV 0.10.5.post0"}
"""Source -> what runs its training step."""

_SUFFIX = {"chainer": ".npz", "gluon": ".params"}


def framework_trace(
    config: SSDConfig,
    tensors: Mapping[str, Array],
    batch: StepBatch,
    recipe: Recipe,
    plan: StepPlan,
    *,
    offsets: Array | None = None,
    timeout: float = 1800.0,
) -> Trace:
    """Some training steps of the network's source framework.

    Args:
        config: a network of ChainerCV or GluonCV.
        tensors: the reference's, as it starts.
        batch, plan: what to do.
        recipe: momentum, decay and negatives per positive are told to the framework; what belongs to its own code
            (multipliers, matching, normalisers) is not.
        offsets: (N, P, 4) float64 encoded boxes: the framework then computes in float64, with these instead of its own, which
            are float32 always (and are in the result).
        timeout: seconds.

    Raises:
        UsageError: no such framework.
        MissingError: it is not installed, or failed.
    """
    if config.source not in FRAMEWORKS:
        raise UsageError(
            f"no training step of {config.source!r} to compare with", expected=f"one of {', '.join(FRAMEWORKS)}"
        )
    with tempfile.TemporaryDirectory(prefix="ssdconv-steps-") as folder:
        path = Path(folder) / f"start{_SUFFIX[config.source]}"
        source_named(config.source).module.write(config, tensors, path, Request(options={"foreign_priors": True}))
        job: dict[str, Any] = {
            "do": "train",
            "lr": plan.lr,
            "drop": list(plan.drop),
            "keep": list(plan.keep),
            "momentum": recipe.optimizer.momentum,
            "decay": recipe.optimizer.weight_decay,
            "ratio": recipe.loss.mining.ratio,
            "double": offsets is not None,
        }
        run = _chainer if config.source == "chainer" else _gluon
        answer, turn = run(config, path, batch, job, offsets, timeout)
        opened = open_source(path, config.source, Request(config.name, config.num_classes))
        with opened.table:
            entries = tuple(opened.plan.mapping)
    return _trace(answer, entries, plan, turn)


Turn = Callable[[Array], Array]


def _chainer(
    config: SSDConfig, path: Path, batch: StepBatch, job: dict[str, Any], offsets: Array | None, timeout: float
) -> tuple[Answer, Turn]:
    staged = config.staged
    width = staged.backbone.options.get("width", 64) if staged else 64
    job |= {
        "npz": str(path),
        "size": config.pixels.size[0],
        "classes": config.num_classes,
        "width": width,
        "scaling": 2,
    }
    arrays, scale = {"0/input": batch.pixels}, np.float32(config.pixels.size[0])
    for index, (boxes, labels) in enumerate(zip(batch.boxes, batch.labels, strict=True)):
        arrays |= {f"0/boxes{index}": boxes[:, [1, 0, 3, 2]] * scale, f"0/labels{index}": (labels - 1).astype(np.int32)}
    if offsets is not None:
        arrays["0/locs"] = offsets[..., [1, 0, 3, 2]]
    answer = ask("chainer", "chainer_training", {"jobs": [job]}, arrays, timeout=timeout)
    return answer, lambda found: found[..., [1, 0, 3, 2]]


def _gluon(
    config: SSDConfig, path: Path, batch: StepBatch, job: dict[str, Any], offsets: Array | None, timeout: float
) -> tuple[Answer, Turn]:
    from ssdconv.parity.oracles.gluon import class_names

    height, width = config.pixels.size
    scale = np.array([width, height, width, height], np.float32)
    job |= {"params": str(path), "network": config.name, "classes": class_names(config)}
    arrays = {"0/input": batch.pixels}
    for index, (boxes, labels) in enumerate(zip(batch.boxes, batch.labels, strict=True)):
        arrays |= {f"0/boxes{index}": boxes * scale, f"0/labels{index}": (labels - 1).astype(np.float32)}
    if offsets is not None:
        arrays["0/locs"] = offsets
    return ask("gluon", "gluon_training", {"jobs": [job]}, arrays, timeout=timeout), lambda found: found


def _trace(answer: Answer, entries: tuple[Entry, ...], plan: StepPlan, turn: Turn) -> Trace:
    arrays = {name[2:]: array for name, array in answer.arrays.items()}
    labels = np.asarray(arrays["target/labels"]).astype(np.int64)
    offsets = np.where(labels[..., None] > 0, turn(arrays["target/locs"]), 0)
    trace = Trace(labels, offsets, arrays["losses"])
    trace.gradients = _named(arrays, "gradient/", entries)
    trace.weights = {k: _named(arrays, f"weight/{k}/", entries) for k in plan.keep}
    return trace


def _named(arrays: Mapping[str, Array], head: str, entries: tuple[Entry, ...]) -> dict[str, Array]:
    """Arrays of the framework's parameters under the reference's names."""
    found = {}
    for entry in entries:
        if head + entry.source in arrays:
            found[entry.target] = np.ascontiguousarray(apply_all(entry.ops, arrays[head + entry.source]))
    return found
