"""Keras 2.15 on TensorFlow as the oracle of Keras weight files, in an interpreter of its own.

It loads the source file itself, never the converted checkpoint, and every weight must come from there. A whole model is made by Keras
from the file's own ``model_config`` (``workers/keras_whole.py``) and fed with plain pixels. For weights alone the networks are built in
``workers/keras_worker.py`` from what is known of the two projects: their own code needs Keras 2.0 on TensorFlow 1 and cannot run here, so
there this oracle proves reading, layers and arithmetic, not that the description of the originals is complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ssdconv.converters.convert import Opened
from ssdconv.converters.keras.anchors import pairs
from ssdconv.converters.keras.files import KerasFile
from ssdconv.converters.keras.model_config import parse
from ssdconv.converters.keras.rows import probes_of, rows_of
from ssdconv.converters.keras.source import describes_itself, named_mapping
from ssdconv.converters.keras.whole import RULES, anchors_of
from ssdconv.converters.tensors import Array
from ssdconv.errors import UsageError
from ssdconv.parity.oracles import originals
from ssdconv.parity.oracles.base import Column, OracleRun, Outputs, Prepared, in_reference_order, plan_probes, runs
from ssdconv.parity.oracles.worker import Arrays, OracleWorker, Worker, detections_in
from ssdconv.ssd_ref.config import Graph, Preprocess, SSDConfig, Staged

WORKER = Worker("tensorflow", "keras_worker", "Keras 2.15.0, TensorFlow 2.15.1", "2.15.0")
INPUT = "input"
PUBLISHED_WIDTH = {"ssd7": 32}


class WholeOracle(OracleWorker):
    """The model of a file, made by Keras from the file's own text, and fed with plain pixels: 0..255 as the file is fed.

    Args:
        path: ``.h5`` or ``.keras`` with a whole model.
        opened: its plan; only what the file does not store is taken from there (steps and offsets, Lambdas that the user explained, the
            rule of a model without decoding layer), so that both sides stand on the same assumptions.
    """

    worker = WORKER

    def __init__(self, path: Path, opened: Opened) -> None:
        self.path = Path(path)
        self.plan = opened.plan
        model = parse(opened.table.found(KerasFile).model, str(path))
        self.anchors = [call.owner[-1] for call in anchors_of(model, str(path))]
        self.edges = any(call.name == "lambda1" for call in model.calls)

    def job(self) -> dict[str, Any]:
        """The worker's job."""
        said = {claim.key: claim.value for claim in self.plan.evidence if claim.key}
        told = {
            c.key.removeprefix("lambda."): c.value
            for c in self.plan.evidence
            if c.basis == "user" and c.key.startswith("lambda.")
        }
        rule = RULES.get(said.get("rule", ""), RULES["decode_detections"])
        count, steps = len(self.anchors), said["steps"]
        word = "edges" if steps == "integer" and self.edges else steps
        listed: list[Any] = [word] * count if steps in ("file", "integer") else pairs("steps", steps, count)
        offsets: list[Any] = [None] * count if said["offsets"] == "0.5" else pairs("offsets", said["offsets"], count)
        limits = rule.score_threshold, rule.nms_threshold, None, rule.keep_top_k if rule.keep_top_k >= 0 else None
        return {
            "do": "whole",
            "path": str(self.path.resolve()),
            "anchors": self.anchors,
            "readings": [{"steps": s, "offsets": o} for s, o in zip(listed, offsets, strict=True)],
            "lambdas": told,
            "rule": [*limits, rule.nms_scope == "image", rule.score_inclusive],
        }

    def read(self, arrays: Arrays, images: int) -> OracleRun:
        outputs = arrays.under("layers/").later()
        outputs |= {f"@{name}": arrays[name] for name in ("loc", "conf", "scores", "priors")}
        return OracleRun(Outputs(outputs), detections_in(arrays, images))


@dataclass(frozen=True)
class KerasOracle(OracleWorker):
    """A Keras project's network with the weights of a file.

    Attributes:
        path: ``.h5``, ``.weights.h5`` or ``.keras``.
        config: the network: its name, class count and width.
        told: what the user said about the file, see ``told_of``; None where nothing, and the published network is built.
    """

    path: Path
    config: SSDConfig
    told: Mapping[str, Any] | None = None
    worker = WORKER

    def job(self, do: str = "activations") -> dict[str, Any]:
        """A job of the worker on this network."""
        published = PUBLISHED_WIDTH.get(self.config.name, 64)
        return {
            "do": do,
            "network": self.config.name,
            "width": self.config.layers.options.get("width", published),
            "classes": self.config.num_classes,
            "path": str(self.path.resolve()),
            **({} if self.told is None else {"told": dict(self.told)}),
        }

    def read(self, arrays: Arrays, images: int) -> OracleRun:
        outputs = arrays.under("layers/").later()
        kinds = {name: "head" for name in outputs if "_mbox_" in name or name.startswith(("classes", "boxes"))}
        outputs |= {f"@{name}": reorder(arrays[name], self.config) for name in ("loc", "conf")}
        return OracleRun(Outputs(outputs), detections_in(arrays, images), kinds)


def told_of(opened: Opened) -> dict[str, Any] | None:
    """What the user said about a file, as ``workers/keras_worker.network`` takes it; None where nothing."""
    config = opened.plan.config
    said = {
        c.key: c.value
        for c in opened.plan.evidence
        if c.basis == "user" and not c.key.startswith(("classes", "pixels"))
    }
    if not said:
        return None
    rule, maps = config.detect, []
    for entry in config.priors:
        cells = np.array(entry.box_sizes)
        places = np.argsort(_orders(config).get(len(cells), range(len(cells))))
        maps.append({
            "cells": cells[places].tolist(), "step": entry.step, "offset": entry.offset, "clip": entry.clip != "none",
        })  # fmt: skip
    return {
        "size": config.pixels.size,
        "heads": said.get("heads.padding", "same"),
        "extras": said.get("extras.padding", ""),
        "maps": maps,
        "variances": config.priors[0].variances,
        "rule": [
            rule.score_threshold,
            rule.nms_threshold,
            rule.max_per_class,
            rule.keep_top_k if rule.keep_top_k >= 0 else None,
        ],
    }


def reorder(array: Array, config: SSDConfig) -> Array:
    """Rows (N, P, k) of the project's anchors in the reference's order within each cell."""
    return in_reference_order(array, config, _orders(config))


def _orders(config: SSDConfig) -> dict[int, tuple[int, ...]]:
    """By number of anchors in a cell, the place in the project's cell of each of the reference's."""
    if config.name.startswith("jedol"):
        return {6: (0, 1, 2, 4, 3, 5)}
    return {4: (1, 2, 3, 0)} if config.name == "ssd7" else {}


def _original(opened: Opened) -> Prepared:
    """ssd_keras' own builders; its priors' scales, input and pixels are arguments there, so they are told.

    Raises:
        UsageError: another project's network.
    """
    config = opened.plan.config
    kind = next(
        (
            kind
            for kind in ("ssd300", "ssd512", "ssd7")
            if config.name in (kind, f"ssd_keras_{kind}_voc", f"ssd_keras_{kind}_coco")
        ),
        "",
    )
    if not kind:
        raise UsageError(
            "the original code of this network is not run", got=config.name, expected="a network of ssd_keras"
        )
    height, width = config.pixels.size
    turn = -1 if config.pixels.order == "BGR" else 1
    mean, std = list(config.pixels.mean), list(config.pixels.std)
    given = {claim.key: claim.value for claim in opened.plan.evidence if claim.basis == "user"}
    last = config.priors[-1].box_sizes
    scales = [m.box_sizes[0][0] / min(height, width) for m in config.priors]
    arguments: dict[str, Any] = {
        "image_size": [height, width, 3],
        "scales": [round(scale, 6) for scale in (*scales, last[1][0] ** 2 / last[0][0] / min(height, width))],
        "subtract_mean": mean[::turn] if any(mean) else None,
        "divide_by_stddev": std[::turn] if set(std) != {1.0} else None,
        "swap_channels": [2, 1, 0] if turn < 0 else False,
        "clip_boxes": config.priors[0].clip != "none",
        "limit_boxes": config.priors[0].clip != "none",
    }
    if "priors.steps" in given:
        arguments["steps"] = None if given["priors.steps"] == "even" else [m.step[0] for m in config.priors]
    if "priors.offset" in given:
        arguments["offsets"] = [m.offset for m in config.priors]
    if "priors.variances" in given:
        arguments["variances"] = list(config.priors[0].variances)
    job = {
        "kind": kind, "classes": config.num_classes, "h5": str(opened.table.path.resolve()), "arguments": arguments,
        "swap_list": True, "mean": mean, "std": std, "order": config.pixels.order,
        "layers": [layer for layer, _ in opened.plan.probes],
    }  # fmt: skip
    made = originals.prepared("ssd_keras", opened, job, _original_run)
    keys = {
        "priors.scales",
        "priors.clip",
        "input.size",
        *({"priors.steps", "priors.offset", "priors.variances"} & set(given)),
    }
    told = tuple(claim for claim in opened.plan.evidence if claim.key in keys)
    return replace(made, evidence=(*made.evidence, *told))


def _original_run(arrays: Arrays, config: SSDConfig, images: int) -> OracleRun:
    outputs = arrays.under("modules/").later()
    boxes = arrays["boxes"]
    corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1).astype(np.float32)
    corners, variances = (reorder(a[None], config)[0] for a in (corners, arrays["variances"]))
    outputs["priors"] = np.stack([corners.ravel(), variances.ravel()])[None]
    outputs |= {name: reorder(arrays[name], config) for name in ("loc", "conf")}
    return OracleRun(Outputs(outputs), detections_in(arrays, images))


class KerasColumn(Column):
    """Keras'."""

    title = "Keras"
    oracles = ("keras", "original")

    def made(self, opened: Opened, prototxt: Path | None, oracle: str, symbol: Path | None) -> Prepared:
        if oracle == "original":
            return _original(opened)
        if not describes_itself(opened.table):
            return Prepared(
                KerasOracle(opened.table.path, opened.plan.config, told_of(opened)),
                plan_probes(opened.plan.probes, INPUT, loc="@loc", conf="@conf"),
                INPUT,
                runs(
                    "rebuilt",
                    "built again in Keras 2.15 from what is known of the project: its own code cannot run here",
                ),
            )
        graph = opened.plan.config.layers
        entry = graph.input if isinstance(graph, Graph) else INPUT
        heads = {"loc": "@loc", "conf": "@conf", "scores": "@scores", "priors": "@priors"}
        said = "made by Keras 2.15 from the file's own model_config"
        rebuilt = "ssd_keras' own layers, written from their definition, with the numbers of the file's model_config"
        return Prepared(
            WholeOracle(opened.table.path, opened),
            plan_probes(opened.plan.probes, entry, **heads),
            entry,
            (*runs("source framework", said, "architecture"), *runs("rebuilt", rebuilt, "priors", "detection rule")),
        )

    def adopt(self, opened: Opened, config: SSDConfig) -> Opened:
        """For a checkpoint of a named network, of a file that describes its own: the file's pixels, priors and rule, the checkpoint's names."""
        if not describes_itself(opened.table) or isinstance(config.layers, Graph):
            return opened
        mapping = named_mapping(opened.table, config, opened.table.found(KerasFile).layers)
        return replace(opened, plan=replace(opened.plan, mapping=mapping, probes=tuple(probes_of(config))))

    def contradicted(self, config: SSDConfig, theirs: SSDConfig) -> tuple[str, ...]:
        """The padding of its heads."""
        if isinstance(config.layers, Graph) or isinstance(theirs.layers, Staged):
            return ()
        mine = "valid" if config.layers.heads.pad == 0 else "same"
        stated = {
            layer.name: layer.params.get("padding", "valid") for layer in theirs.layers.layers if layer.type == "Conv2D"
        }
        heads = [row.layer for row in rows_of(config) if row.kind == "kernel" and row.target.startswith("heads.")]
        wrong = [name for name in heads if stated.get(name, mine) != mine]
        if not wrong:
            return ()
        gives = f"the file's model_config gives {stated[wrong[0]]}"
        return (f"padding of {', '.join(wrong)}: the checkpoint says {mine}, {gives}",)

    def fed(self, opened: Opened) -> Preprocess:
        """A whole model prepares its own pixels."""
        pixels = opened.plan.config.pixels
        return (
            Preprocess(pixels.size, fed_order(opened), resize=pixels.resize)
            if describes_itself(opened.table)
            else pixels
        )

    def why_not(self, kind: str) -> str:
        if kind == "head":
            return "compared in @loc and @conf, in the reference's order of anchors"
        return "an activation or sum inside a block, or a pooling: its input and output are compared"


def fed_order(opened: Opened) -> Literal["RGB", "BGR"]:
    """The order of channels that a whole model is fed with."""
    said = {claim.key: claim.value for claim in opened.plan.evidence}
    return "BGR" if said.get("pixels.order") == "BGR" else "RGB"


COLUMN = KerasColumn()
