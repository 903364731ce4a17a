"""The training steps of ChainerCV, GluonCV and the original Caffe, run live, in the reference's names and layout.

The framework is given a weight file of its own kind, written from the reference's tensors, the prepared pixels and the objects; it makes its own
targets, loss, gradients and updates. Caffe is given the network's own deploy layers with the loss layer and the multipliers that ``examples/ssd/ssd_pascal.py`` writes, and
a solver prototxt; priors, matching, mining, loss, gradients, weight decay, update and the drops of the rate are its own, in float32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ssdconv.converters.caffe.net import CaffeLayer, CaffeNet
from ssdconv.converters.caffe.prototxt import write_prototxt
from ssdconv.converters.caffe.source import blobs_of, net_of, write
from ssdconv.converters.convert import open_source
from ssdconv.converters.plan import Request
from ssdconv.converters.registry import source as source_named
from ssdconv.converters.tensors import Array, MappedTensor, apply_all
from ssdconv.errors import UsageError
from ssdconv.parity.oracles import caffe, chainer, gluon
from ssdconv.parity.oracles.worker import Arrays
from ssdconv.parity.steps.reference import StepBatch, StepPlan, Trace
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.train.recipe import OptimizerSpec, Recipe

FRAMEWORKS = {"chainer": chainer.WORKER, "gluon": gluon.WORKER}
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
        told, arrays, turn = (_chainer if config.source == "chainer" else _gluon)(config, path, batch)
        arrays |= {"0/input": batch.pixels} | ({} if offsets is None else {"0/locs": turn(offsets)})
        answer = FRAMEWORKS[config.source].ask([{**job, **told}], arrays, timeout=timeout)
        opened = open_source(path, config.source, Request(config.name, config.num_classes))
        with opened.table:
            entries = tuple(opened.plan.mapping)
    return _trace(answer.arrays.under("0/"), entries, plan, turn)


Told = tuple[dict[str, Any], dict[str, Array], Callable[[Array], Array]]
"""What belongs to a framework's job, its objects, and coordinates (N, P, 4) in its order <-> in the reference's."""


def _chainer(config: SSDConfig, path: Path, batch: StepBatch) -> Told:
    told = {**chainer.ChainerOracle(path, config).job("train"), "scaling": 2}
    scale = np.float32(config.pixels.size[0])
    arrays: dict[str, Array] = {}
    for index, (boxes, labels) in enumerate(zip(batch.boxes, batch.labels, strict=True)):
        arrays |= {f"0/boxes{index}": boxes[:, [1, 0, 3, 2]] * scale, f"0/labels{index}": (labels - 1).astype(np.int32)}
    return told, arrays, lambda found: found[..., [1, 0, 3, 2]]


def _gluon(config: SSDConfig, path: Path, batch: StepBatch) -> Told:
    height, width = config.pixels.size
    scale = np.array([width, height, width, height], np.float32)
    arrays: dict[str, Array] = {}
    for index, (boxes, labels) in enumerate(zip(batch.boxes, batch.labels, strict=True)):
        arrays |= {f"0/boxes{index}": boxes * scale, f"0/labels{index}": (labels - 1).astype(np.float32)}
    return {**gluon.GluonOracle(path, config).job(), "do": "train"}, arrays, lambda found: found


def _trace(arrays: Arrays, entries: tuple[MappedTensor, ...], plan: StepPlan, turn: Callable[[Array], Array]) -> Trace:
    labels = arrays["target/labels"].astype(np.int64)
    offsets = np.where(labels[..., None] > 0, turn(arrays["target/locs"]), 0)
    trace = Trace(labels, offsets, arrays["losses"])
    trace.gradients = _named(arrays.under("gradient/"), entries)
    trace.weights = {k: _named(arrays.under(f"weight/{k}/"), entries) for k in plan.keep}
    return trace


def _named(arrays: Arrays, entries: tuple[MappedTensor, ...]) -> dict[str, Array]:
    """Arrays of the framework's parameters under the reference's names."""
    there = [entry for entry in entries if entry.source in arrays]
    return {e.target: np.ascontiguousarray(apply_all(e.ops, arrays[e.source])) for e in there}


LEARNED = [{"lr_mult": 1.0, "decay_mult": 1.0}, {"lr_mult": 2.0, "decay_mult": 0.0}]
"""``param`` of every convolution; the Normalize layer has none."""

LOSS: dict[str, Any] = {
    "loc_loss_type": "SMOOTH_L1",
    "conf_loss_type": "SOFTMAX",
    "loc_weight": 1.0,
    "share_location": True,
    "match_type": "PER_PREDICTION",
    "overlap_threshold": 0.5,
    "use_prior_for_matching": True,
    "background_label_id": 0,
    "use_difficult_gt": True,
    "neg_pos_ratio": 3.0,
    "neg_overlap": 0.5,
    "code_type": "CENTER_SIZE",
    "ignore_cross_boundary_bbox": False,
    "mining_type": "MAX_NEGATIVE",
}
"""``multibox_loss_param``, but for ``num_classes``."""


def caffe_trace(
    config: SSDConfig,
    tensors: Mapping[str, Array],
    batch: StepBatch,
    optimizer: OptimizerSpec,
    plan: StepPlan,
    timeout: float = 1800.0,
) -> Trace:
    """Some updates by Caffe's solver.

    Args:
        config: a network that Caffe can express.
        tensors: the reference's, as it starts.
        batch, plan: what to do; ``drop`` becomes ``stepvalue`` of the policy "multistep".
        optimizer: kind, momentum, weight decay and RMSProp's numbers go into the solver prototxt; multipliers do not.
        timeout: seconds.

    Returns:
        A trace without targets, which Caffe's layer does not show, whose ``losses`` are (steps, 1) sums of both terms.

    Raises:
        MissingError: Caffe is not installed, or refuses the net.
    """
    rows = [
        (item, label, index, *box, 0.0)
        for item, (boxes, labels) in enumerate(zip(batch.boxes, batch.labels, strict=True))
        for index, (label, box) in enumerate(zip(labels, boxes, strict=True))
    ]
    label = np.array(rows, np.float32)[None, None]
    with tempfile.TemporaryDirectory(prefix="ssdconv-steps-") as folder:
        weights, net, solver = (
            Path(folder) / name for name in ("start.caffemodel", "train.prototxt", "solver.prototxt")
        )
        write(config, tensors, weights, Request())
        write_prototxt(train_net(config, batch.pixels.shape, label.shape), net)
        solver.write_text(solver_text(optimizer, plan, net))
        job = {"do": "train", "solver": str(solver), "caffemodel": str(weights), "keep": list(plan.keep)}
        given = {"0/data": batch.pixels, "0/label": label}
        answer = caffe.WORKER.ask([{**job, "library": caffe.library()}], given, timeout=timeout)
    arrays = answer.arrays.under("0/")

    def named(head: str) -> dict[str, Array]:
        given = {b.tensor: arrays[f"{head}/{b.name}"] for b in blobs_of(config)}
        return {name: array.reshape(tensors[name].shape) for name, array in given.items()}

    trace = Trace(np.empty(0, np.int64), np.empty(0), arrays["losses"])
    trace.gradients = named("gradient")
    trace.weights = {k: named(f"weight/{k}") for k in plan.keep}
    return trace


def train_net(config: SSDConfig, pixels: tuple[int, ...], label: tuple[int, ...]) -> CaffeNet:
    """The deploy net up to its heads, with multipliers and a MultiBoxLoss; both inputs are fed from outside."""
    deploy = net_of(config)
    heads = ("mbox_loc", "mbox_conf", "mbox_priorbox")
    wanted, layers = set(heads), list[CaffeLayer]()
    for layer in reversed(deploy.layers):
        if wanted & set(layer.tops):
            wanted |= set(layer.bottoms)
            learned = {"param": LEARNED} if layer.type == "Convolution" else {}
            layers.insert(0, replace(layer, params={**layer.params, **learned}))
    param = {
        "multibox_loss_param": {**LOSS, "num_classes": config.num_classes},
        "loss_param": {"normalization": "VALID"},
        "propagate_down": [True, True, False, False],
    }
    layers.append(CaffeLayer("mbox_loss", "MultiBoxLoss", (*heads, "label"), ("mbox_loss",), param))
    return CaffeNet(config.name, {"data": pixels, "label": label}, tuple(layers))


def solver_text(optimizer: OptimizerSpec, plan: StepPlan, net: Path) -> str:
    """A solver prototxt."""
    lines = [
        f'train_net: "{net}"',
        f"base_lr: {plan.lr!r}",
        f"weight_decay: {optimizer.weight_decay!r}",
        'lr_policy: "multistep"',
        "gamma: 0.1",
        *(f"stepvalue: {step}" for step in plan.drop),
        f"max_iter: {max(plan.keep)}",
        "solver_mode: CPU",
    ]
    if optimizer.kind == "rmsprop":
        lines += ['type: "RMSProp"', f"rms_decay: {optimizer.rho!r}", f"delta: {optimizer.eps!r}"]
    else:
        lines += ['type: "SGD"', f"momentum: {optimizer.momentum!r}"]
    return "\n".join([*lines, ""])
