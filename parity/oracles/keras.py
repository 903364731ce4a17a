"""Keras 2.15 on TensorFlow as the oracle of Keras weight files, in an interpreter of its own.

It loads the source file itself, by Keras' own ``load_weights``, never the converted checkpoint, and every weight must come from there.
The networks are built in ``workers/keras_nets.py`` from what is known of the two projects: their own code needs Keras 2.0 on TensorFlow 1
and cannot run here, so this oracle proves reading, layers and arithmetic, not that the description of the originals is complete.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ssdconv.converters.convert import Opened
from ssdconv.converters.tensors import Array
from ssdconv.errors import UsageError
from ssdconv.parity.detections_match import Rows
from ssdconv.parity.oracles import originals
from ssdconv.parity.oracles.base import Availability, OracleRun, Outputs
from ssdconv.parity.oracles.column import (
    Prepared,
    Worker,
    always_tells,
    as_opened,
    check_choice,
    in_reference_order,
    layers_under,
    plan_probes,
    runs,
)
from ssdconv.parity.oracles.process import Answer
from ssdconv.ssd_ref.config import SSDConfig

ORACLES = ("keras", "original")
WORKER = Worker("tensorflow", "keras_worker", "Keras 2.15.0, TensorFlow 2.15.1", "2.15.0")
ask_jobs = WORKER.ask
adopt = as_opened
tells_pixels = always_tells
INPUT = "input"
PUBLISHED_WIDTH = {"ssd7": 32}


class KerasOracle:
    """A Keras project's network with the weights of a file.

    Args:
        path: ``.h5``, ``.weights.h5`` or ``.keras``.
        config: the network: its name, class count and width.
        timeout: seconds for one run.
    """

    def __init__(self, path: Path, config: SSDConfig, *, timeout: float = 600.0) -> None:
        self.path = Path(path)
        self.config = config
        self.timeout = timeout

    @property
    def name(self) -> str:
        return WORKER.title

    def available(self) -> Availability:
        return WORKER.available()

    def run(self, pixels: Array) -> OracleRun:
        """Load the file and read every layer.

        Raises:
            MissingError: Keras is not installed, or cannot load the file.
        """
        answer = WORKER.activations(self.job(), pixels, timeout=self.timeout)
        return oracle_run(answer, 0, self.config, len(pixels))

    def job(self, do: str = "activations") -> dict[str, Any]:
        """A job of the worker on this network."""
        staged = self.config.staged
        published = PUBLISHED_WIDTH.get(self.config.name, 64)
        return {
            "do": do,
            "network": self.config.name,
            "width": staged.backbone.options.get("width", published) if staged else published,
            "classes": self.config.num_classes,
            "path": str(self.path.resolve()),
        }


def reorder(array: Array, config: SSDConfig) -> Array:
    """Rows (N, P, k) of the project's anchors in the reference's order within each cell."""
    orders: dict[int, tuple[int, ...]] = {}
    if config.name.startswith("jedol"):
        orders = {6: (0, 1, 2, 4, 3, 5)}
    elif config.name == "ssd7":
        orders = {4: (1, 2, 3, 0)}
    return in_reference_order(array, config, orders)


def oracle_run(answer: Answer, index: int, config: SSDConfig, images: int) -> OracleRun:
    """The activations and detections of one job."""
    outputs = layers_under(answer, f"{index}/layers/")
    kinds = {name: "head" for name in outputs if "_mbox_" in name or name.startswith(("classes", "boxes"))}
    outputs["@loc"] = reorder(answer.arrays[f"{index}/loc"], config)
    outputs["@conf"] = reorder(answer.arrays[f"{index}/conf"], config)
    found = [answer.arrays[f"{index}/{image}/detections"] for image in range(images)]
    rows = tuple(Rows(r[:, 0].astype(np.int64), r[:, 1], r[:, 2:]) for r in found)
    return OracleRun(Outputs(outputs), rows, kinds)


def prepare(opened: Opened, prototxt: Path | None = None, oracle: str = "keras") -> Prepared:
    """Set up Keras for an opened file.

    Raises:
        UsageError: no such oracle for Keras networks.
    """
    check_choice(oracle, ORACLES, "Keras")
    if oracle == "original":
        return _original(opened)
    return Prepared(
        KerasOracle(opened.table.path, opened.plan.config),
        plan_probes(opened.plan.probes, INPUT, loc="@loc", conf="@conf"),
        INPUT,
        runs("rebuilt", "built again in Keras 2.15 from what is known of the project: its own code cannot run here"),
    )


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
    last = config.priors[-1].cells
    scales = [m.cells[0][0] / min(height, width) for m in config.priors]
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
    told = tuple(
        c
        for c in opened.plan.evidence
        if c.basis == "assumed" and c.key in ("priors.scales", "priors.clip", "input.size")
    )
    return replace(made, evidence=(*made.evidence, *told))


def _original_run(answer: Answer, config: SSDConfig, images: int) -> OracleRun:
    outputs = layers_under(answer, "modules/")
    boxes = answer.arrays["boxes"]
    corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1).astype(np.float32)
    corners, variances = (reorder(a[None], config)[0] for a in (corners, answer.arrays["variances"]))
    outputs["priors"] = np.stack([corners.ravel(), variances.ravel()])[None]
    outputs["loc"], outputs["conf"] = (reorder(answer.arrays[name], config) for name in ("loc", "conf"))
    found = [answer.arrays[f"{image}/detections"] for image in range(images)]
    return OracleRun(Outputs(outputs), tuple(Rows(r[:, 0].astype(np.int64), r[:, 1], r[:, 2:]) for r in found))


def why_not(kind: str) -> str:
    """Why a layer's output has no probe of its own."""
    if kind == "head":
        return "compared in @loc and @conf, in the reference's order of anchors"
    return "an activation or sum inside a block, or a pooling: its input and output are compared"
