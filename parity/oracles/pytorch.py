"""Oracles of .pth files: torchvision itself for its own, plain torch modules for ssd.pytorch and simple-ssd.

Files are read by ``torch.load(weights_only=True)`` here, not by the converter's reader, and loaded strictly. The repositories of ssd.pytorch and
simple-ssd do not run on a current torch. The plain modules are written from the facts and apart from ``ssd_ref``; they have the repositories' names,
so that ``load_state_dict`` with ``strict`` checks a file, and their arithmetic, step by step: priors as (cx, cy, w, h) clamped to the image,
conv4_3 divided by (norm + 1e-10), detection class by class with a loop over boxes.
"""

from __future__ import annotations

import itertools
import math
import pickle
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssdconv.converters.convert import Opened
from ssdconv.converters.pytorch.reader import PthFile
from ssdconv.converters.pytorch.source import style_of
from ssdconv.converters.tensors import Array
from ssdconv.errors import MissingError, UsageError
from ssdconv.parity.layers.detections import Rows
from ssdconv.parity.oracles import originals
from ssdconv.parity.oracles.base import (
    RUN,
    Availability,
    Column,
    OracleRun,
    Outputs,
    Prepared,
    plan_probes,
    refuse_settings,
    runs,
)
from ssdconv.parity.oracles.worker import Arrays, OracleWorker
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.networks.pytorch import KINDS

_VGG = (64, 64, "M", 128, 128, "M", 256, 256, 256, "C", 512, 512, 512, "M", 512, 512, 512)
_EXTRAS = (
    (256, 1, 1, 0),
    (512, 3, 2, 1),
    (128, 1, 1, 0),
    (256, 3, 2, 1),
    (128, 1, 1, 0),
    (256, 3, 1, 0),
    (128, 1, 1, 0),
    (256, 3, 1, 0),
)
_ANCHORS = (4, 6, 6, 6, 4, 4)
_GRIDS = (38, 19, 10, 5, 3, 1)
_STEPS = (8, 16, 32, 64, 100, 300)
_RATIOS = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
SIZES = {"voc": (30, 60, 111, 162, 213, 264, 315), "coco": (21, 45, 99, 153, 207, 261, 315)}


@dataclass(frozen=True)
class Rule:
    """How detections are chosen: ``at_least`` means that a score equal to the threshold counts."""

    score: float = 0.01
    at_least: bool = False
    candidates: int | None = 200
    overlap: float = 0.45


RULES = {"ssd.pytorch": Rule(), "simple-ssd": Rule(at_least=True, candidates=None, overlap=0.5)}


class PlainScale(nn.Module):
    """``weight * x / (norm over channels + 1e-10)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), 20.0))

    def forward(self, x: Tensor) -> Tensor:
        norm = torch.sqrt(torch.sum(torch.pow(x, 2), dim=1, keepdim=True)) + 1e-10
        return self.weight[None, :, None, None] * torch.div(x, norm)


class PlainSSD(nn.Module):
    """Children ``vgg``, ``L2Norm``, ``extras``, ``loc``, ``conf`` with the indices of the projects.

    Args:
        classes: conf channels per prior.
        width: channels of the first convolution, 64 in the projects.
    """

    def __init__(self, classes: int, width: int = 64) -> None:
        super().__init__()
        share = width / 64
        layers: list[nn.Module] = []
        before = 3
        for item in _VGG:
            if isinstance(item, str):
                layers.append(nn.MaxPool2d(2, 2, ceil_mode=item == "C"))
                continue
            layers += [nn.Conv2d(before, int(item * share), 3, padding=1), nn.ReLU()]
            before = int(item * share)
        wide = int(1024 * share)
        layers += [nn.MaxPool2d(3, 1, 1), nn.Conv2d(before, wide, 3, padding=6, dilation=6), nn.ReLU()]
        layers += [nn.Conv2d(wide, wide, 1), nn.ReLU()]
        self.vgg = nn.ModuleList(layers)
        self.L2Norm = PlainScale(before)
        maps = [before, wide]
        self.extras = nn.ModuleList()
        inner = wide
        for index, (out, kernel, stride, padding) in enumerate(_EXTRAS):
            self.extras.append(nn.Conv2d(inner, int(out * share), kernel, stride, padding))
            inner = int(out * share)
            if index % 2:
                maps.append(inner)
        self.loc = nn.ModuleList(nn.Conv2d(c, 4 * a, 3, padding=1) for c, a in zip(maps, _ANCHORS, strict=True))
        self.conf = nn.ModuleList(nn.Conv2d(c, classes * a, 3, padding=1) for c, a in zip(maps, _ANCHORS, strict=True))
        self.classes = classes

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, 300, 300) -> loc (N, 8732, 4), conf (N, 8732, classes)."""
        sources = []
        for index, layer in enumerate(self.vgg):
            x = layer(x)
            if index == 22:
                sources.append(self.L2Norm(x))
        sources.append(x)
        for index, layer in enumerate(self.extras):
            x = torch.relu(layer(x))
            if index % 2:
                sources.append(x)
        rows = [
            torch.cat(
                [head(s).permute(0, 2, 3, 1).contiguous().flatten(1) for s, head in zip(sources, heads, strict=True)], 1
            )
            for heads in (self.loc, self.conf)
        ]
        return rows[0].view(len(x), -1, 4), rows[1].view(len(x), -1, self.classes)


def priors(sizes: tuple[int, ...]) -> Array:
    """(8732, 4) cx, cy, w, h as fractions of the image, clamped to it; double precision."""
    rows = []
    for k, grid in enumerate(_GRIDS):
        cells = 300 / _STEPS[k]
        low, high = sizes[k] / 300, sizes[k + 1] / 300
        for row, column in itertools.product(range(grid), repeat=2):
            centre = ((column + 0.5) / cells, (row + 0.5) / cells)
            rows.append((*centre, low, low))
            rows.append((*centre, math.sqrt(low * high), math.sqrt(low * high)))
            for ratio in _RATIOS[k]:
                rows.append((*centre, low * math.sqrt(ratio), low / math.sqrt(ratio)))
                rows.append((*centre, low / math.sqrt(ratio), low * math.sqrt(ratio)))
    table: Array = np.clip(np.array(rows), 0.0, 1.0)
    return table


def decode(loc: Array, table: Array) -> Array:
    """Boxes (P, 4) xyxy as fractions of the image, float32."""
    prior = table.astype(np.float32)
    centre = prior[:, :2] + loc[:, :2] * np.float32(0.1) * prior[:, 2:]
    size = prior[:, 2:] * np.exp(loc[:, 2:] * np.float32(0.2))
    low = centre - size / np.float32(2)
    boxes: Array = np.concatenate([low, low + size], 1)
    return boxes


def detections(loc: Array, conf: Array, table: Array, rule: Rule) -> tuple[Array, Array, Array]:
    """Labels (n,), scores (n,), boxes (n, 4) of one image; label 0 is background and never among them."""
    scores = torch.softmax(torch.from_numpy(conf), -1).numpy()
    boxes = decode(loc, table)
    labels: list[int] = []
    chosen: list[tuple[float, Array]] = []
    for label in range(1, conf.shape[1]):
        column = scores[:, label]
        wanted = np.flatnonzero(column >= rule.score if rule.at_least else column > rule.score)
        order = wanted[np.argsort(-column[wanted], kind="stable")][: rule.candidates]
        while len(order):
            best, order = order[0], order[1:]
            labels.append(label)
            chosen.append((float(column[best]), boxes[best]))
            order = order[_overlap(boxes[best], boxes[order]) <= rule.overlap]
    found = np.array([box for _, box in chosen], np.float32).reshape(-1, 4)
    return np.array(labels, np.int64), np.array([score for score, _ in chosen], np.float32), found


def _overlap(box: Array, others: Array) -> Array:
    """Intersection over union of one box with (n, 4) others."""
    width = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0])
    height = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1])
    inter = np.maximum(width, 0) * np.maximum(height, 0)
    area = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    overlap: Array = inter / ((box[2] - box[0]) * (box[3] - box[1]) + area - inter)
    return overlap


WORKER = originals.TORCH
INPUT = "input"


@dataclass(frozen=True)
class Weights:
    """A .pth file and the way to its tensors: keys of wrapping dicts, then a prefix of the names."""

    path: Path
    wrappers: tuple[str, ...] = ()
    prefix: str = ""

    def job(self) -> dict[str, Any]:
        """What a job of the worker says of them."""
        return {"pth": str(self.path.resolve()), "wrappers": list(self.wrappers), "prefix": self.prefix}


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
        net = PlainSSD(self.config.num_classes, self.config.layers.options.get("width", 64))
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


@dataclass(frozen=True)
class TorchvisionOracle(OracleWorker):
    """torchvision's ssd300_vgg16 with the weights of a file."""

    weights: Weights
    config: SSDConfig
    worker = WORKER

    def job(self, do: str = "activations") -> dict[str, Any]:
        return {"do": do, "classes": self.config.num_classes, **self.weights.job()}

    def read(self, arrays: Arrays, images: int) -> OracleRun:
        outputs = arrays.under("modules/").later()
        outputs |= {"loc": arrays["loc"], "conf": arrays["conf"]}
        rows = []
        for image in range(images):
            boxes, labels, scores = (arrays[f"{image}/{key}"] for key in ("boxes", "labels", "scores"))
            rows.append(Rows(labels.astype(np.int64), scores, boxes.reshape(-1, 4) / np.float32(300)))
        return OracleRun(Outputs(outputs), tuple(rows))


class PyTorchColumn(Column):
    """PyTorch's: torchvision for its own names, plain modules or the original code for the others."""

    title = "PyTorch"
    oracles = ("torch", "torchvision", "original")

    def made(self, opened: Opened, prototxt: Path | None, oracle: str, symbol: Path | None) -> Prepared:
        table, config = opened.table, opened.plan.config
        style, prefix = style_of(table)
        weights = Weights(table.path, table.found(PthFile).wrappers, prefix)
        if oracle == "original":
            style = KINDS[config.name].style
            if style == "torchvision":
                why = "torchvision is its own oracle, in `ssdconv oracle install torchvision`"
                raise UsageError(why, got="--oracle original")
            return originals.prepared(style, opened, {"do": style, "classes": config.num_classes, **weights.job()})
        probes = plan_probes(opened.plan.probes, INPUT, loc="loc", conf="conf")
        if style == "torchvision":
            evidence = runs("original code", "torchvision's own ssd300_vgg16", *RUN, "pixels")
            runner = TorchvisionOracle(weights, config)
            return Prepared(runner, probes, INPUT, evidence, partial(WORKER.prepared, runner.job("prepare")))
        refuse_settings(opened, f"plain modules of {style}")
        evidence = runs("rebuilt", f"plain modules written here from what is known of {style}")
        return Prepared(PlainOracle(weights, config), probes, INPUT, evidence)

    def tells_pixels(self, opened: Opened) -> bool:
        """For torchvision's names; for the others the channel order is open."""
        return opened.plan.config.name.startswith("torchvision")


COLUMN = PyTorchColumn()
