"""Oracles of .pth files: plain torch modules for ssd.pytorch and simple-ssd (``plain_ssd``), torchvision itself for its own.

Files are read by ``torch.load(weights_only=True)`` here, not by the converter's reader, and loaded strictly.
"""

from __future__ import annotations

import pickle
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ssdconv.converters.convert import Opened
from ssdconv.converters.pytorch.source import style_of
from ssdconv.converters.tensors import Array
from ssdconv.errors import MissingError, UsageError
from ssdconv.parity.layers.detections import Rows
from ssdconv.parity.oracles import originals
from ssdconv.parity.oracles.base import Availability, OracleRun, Outputs
from ssdconv.parity.oracles.column import (
    RUN,
    Prepared,
    Worker,
    as_opened,
    check_choice,
    layers_under,
    plan_probes,
    refuse_settings,
    runs,
)
from ssdconv.parity.oracles.plain_ssd import RULES, SIZES, PlainSSD, detections, priors
from ssdconv.parity.oracles.process import Answer
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.networks.pytorch import KINDS

ORACLES = ("torch", "torchvision", "original")
WORKER = Worker("torchvision", "torch_vision", "torchvision 0.28.0", "0.28.0")
SITE_PACKAGES = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
"""Where this interpreter has torch and NumPy, which the worker uses too."""
adopt = as_opened
INPUT = "input"


@dataclass(frozen=True)
class Weights:
    """A .pth file and the way to its tensors: keys of wrapping dicts, then a prefix of the names."""

    path: Path
    wrappers: tuple[str, ...] = ()
    prefix: str = ""


class PlainOracle:
    """ssd.pytorch's or simple-ssd's SSD300 with the weights of a file.

    Args:
        weights: the file.
        config: the network, for its class count, width, prior sizes and project.
    """

    def __init__(self, weights: Weights, config: SSDConfig) -> None:
        self.weights = weights
        self.config = config

    @property
    def name(self) -> str:
        return f"plain modules on torch {torch.__version__}"

    def available(self) -> Availability:
        return Availability(True, version=torch.__version__)

    def model(self) -> PlainSSD:
        """The network with the file's weights.

        Raises:
            MissingError: torch cannot load the file safely, or its names or shapes are others.
        """
        staged = self.config.staged
        net = PlainSSD(self.config.num_classes, staged.backbone.options.get("width", 64) if staged else 64)
        try:
            loaded: Any = torch.load(self.weights.path, map_location="cpu", weights_only=True)
            for key in self.weights.wrappers:
                loaded = loaded[key]
            net.load_state_dict({name.removeprefix(self.weights.prefix): value for name, value in loaded.items()})
        except (RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
            text = str(error).strip().splitlines()[0]
            raise MissingError(f"oracle {self.name} not run: {text}", where=str(self.weights.path)) from None
        return net.eval()

    def run(self, pixels: Array) -> OracleRun:
        """Run the network and read every convolution, the L2 normalisation, raw heads and detections."""
        net = self.model()
        outputs: dict[str, Array] = {}

        def keep(name: str) -> Any:
            return lambda _module, _input, value: outputs.__setitem__(name, value.clone().numpy())

        for name, module in net.named_modules():
            if isinstance(module, nn.Conv2d) or name == "L2Norm":
                module.register_forward_hook(keep(name))
        with torch.inference_mode():
            loc, conf = (value.numpy() for value in net(torch.from_numpy(np.ascontiguousarray(pixels, np.float32))))
        outputs |= {"loc": loc, "conf": conf}
        kind = KINDS[self.config.name]
        table = priors(SIZES[kind.sizes.rsplit("_", 1)[1]])
        rows = tuple(Rows(*detections(a, b, table, RULES[kind.style])) for a, b in zip(loc, conf, strict=True))
        return OracleRun(Outputs(outputs), rows)


class TorchvisionOracle:
    """torchvision's ssd300_vgg16 with the weights of a file, in an interpreter of its own."""

    def __init__(self, weights: Weights, config: SSDConfig, *, timeout: float = 600.0) -> None:
        self.weights = weights
        self.config = config
        self.timeout = timeout

    @property
    def name(self) -> str:
        return WORKER.title

    def available(self) -> Availability:
        return WORKER.available()

    def job(self) -> dict[str, Any]:
        """The worker's job that computes this network's activations."""
        return {
            "do": "activations",
            "classes": self.config.num_classes,
            "pth": str(self.weights.path.resolve()),
            "wrappers": list(self.weights.wrappers),
            "prefix": self.weights.prefix,
        }

    def run(self, pixels: Array) -> OracleRun:
        """Run the network.

        Raises:
            MissingError: torchvision is not installed, or cannot load the file.
        """
        answer = ask_torchvision([self.job()], {"0/input": np.ascontiguousarray(pixels, np.float32)}, self.timeout)
        outputs = layers_under(answer, "0/modules/")
        outputs |= {"loc": answer.arrays["0/loc"], "conf": answer.arrays["0/conf"]}
        rows = []
        for image in range(len(pixels)):
            boxes, labels, scores = (answer.arrays[f"0/{image}/{key}"] for key in ("boxes", "labels", "scores"))
            rows.append(Rows(labels.astype(np.int64), scores, boxes.reshape(-1, 4) / np.float32(300)))
        return OracleRun(Outputs(outputs), tuple(rows))


def ask_torchvision(
    jobs: Sequence[Mapping[str, Any]], arrays: Mapping[str, Array] | None = None, timeout: float = 600.0
) -> Answer:
    """Run jobs of the torchvision worker; it gets torch and NumPy from this interpreter."""
    return WORKER.ask(jobs, arrays, timeout=timeout, path=SITE_PACKAGES)


def prepare(opened: Opened, prototxt: Path | None = None, oracle: str = "torch") -> Prepared:
    """Set up the oracle of an opened .pth file: torchvision for its own names, plain modules or the original code for the others.

    Raises:
        UsageError: no such oracle for these networks.
    """
    check_choice(oracle, ORACLES, "PyTorch")
    table, config = opened.table, opened.plan.config
    style, prefix = style_of(table)
    weights = Weights(table.path, tuple(table.meta["wrappers"]), prefix)
    if oracle == "original":
        style = KINDS[config.name].style
        if style == "torchvision":
            raise UsageError(
                "torchvision is its own oracle, in `ssdconv oracle install torchvision`", got="--oracle original"
            )
        pth = {"pth": str(weights.path.resolve()), "wrappers": list(weights.wrappers), "prefix": prefix}
        return originals.prepared(style, opened, {**pth, "classes": config.num_classes})
    probes = plan_probes(opened.plan.probes, INPUT, loc="loc", conf="conf")
    if style == "torchvision":
        evidence = runs("original code", "torchvision's own ssd300_vgg16", *RUN, "pixels")
        runner = TorchvisionOracle(weights, config)
        transform = partial(WORKER.prepared, runner.job() | {"do": "prepare"}, path=SITE_PACKAGES)
        return Prepared(runner, probes, INPUT, evidence, transform)
    refuse_settings(opened, f"plain modules of {style}")
    evidence = runs("rebuilt", f"plain modules written here from what is known of {style}")
    return Prepared(PlainOracle(weights, config), probes, INPUT, evidence)


def tells_pixels(opened: Opened) -> bool:
    """Whether the file tells how pixels are prepared: for torchvision's names it does, else the channel order is open."""
    return opened.plan.config.name.startswith("torchvision")


def why_not(kind: str) -> str:
    """Why an output has no probe of its own."""
    return "regroups values that are compared elsewhere"
