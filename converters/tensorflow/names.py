"""Variable names and layouts of HiKapok's SSD.TensorFlow, and which other variables of a checkpoint are no weights.

Caffe's conv6 … conv9 are called conv8 … conv11. Kernels are HWIO. A cell's anchors come as sqrt(min*max), 1, 2, 3, 1/2, 1/3; a loc
head's channels are (dy, dx, dh, dw) per anchor, where the reference has (dx, dy, dw, dh).
"""

from __future__ import annotations

from collections.abc import Iterator

from ssdconv.converters.same_network import Layer, vgg_layers
from ssdconv.converters.tensors import Entry, Op, Transpose, permute_anchors
from ssdconv.ssd_ref.config import SSDConfig

SCOPE = "ssd300/"
"""The variable scope of the published code."""

FIRST = "conv1/conv1_1/kernel"
SCALE = "conv4_3_scale/weights"

ANCHORS = {4: (1, 0, 2, 3), 6: (1, 0, 2, 4, 3, 5)}
"""Anchors of a cell -> which of the source's anchors each of the reference's is."""
YX_TO_XY = (1, 0, 3, 2)

SLOTS = ("Momentum", "Adam", "Adam_1", "RMSProp", "RMSProp_1", "Adagrad", "Ftrl", "Ftrl_1", "ExponentialMovingAverage")
COUNTERS = (
    "global_step",
    "beta1_power",
    "beta2_power",
    "learning_rate",
    "save_counter",
    "_CHECKPOINTABLE_OBJECT_GRAPH",
)


def variable(layer: Layer) -> str:
    """Name of a layer's scope below the network's."""
    if layer.role in ("loc", "conf"):
        return f"multibox_head/{'loc' if layer.role == 'loc' else 'cls'}_{layer.name}"
    if layer.role == "l2norm":
        return "conv4_3_scale"
    if layer.role == "extras":
        stage, part = layer.name.removeprefix("conv").split("_")
        return f"additional_layers/conv{int(stage) + 2}/conv{int(stage) + 2}_{part}"
    return layer.name if layer.name.startswith("fc") else f"{layer.name.split('_')[0]}/{layer.name}"


def layers(config: SSDConfig) -> list[Layer]:
    """The network's learned layers."""
    return list(vgg_layers(config, "SSD.TensorFlow", same_padding=True))


def entries(config: SSDConfig, prefix: str = SCOPE) -> Iterator[Entry]:
    """The mapping of every tensor; ``prefix`` is the network's scope in the file."""
    for layer in layers(config):
        for kind, target, shape in layer.tensors():
            if layer.role == "l2norm":
                yield Entry(f"{prefix}{SCALE}", target, shape)
                continue
            ops: list[Op] = [Transpose((3, 2, 0, 1))] if kind == "weight" else []
            if layer.role in ("loc", "conf"):
                anchors = len(config.priors[int(layer.name)].cells)
                inner = YX_TO_XY if layer.role == "loc" else None
                ops.append(permute_anchors(ANCHORS[anchors], shape[0] // anchors, inner=inner))
            stored = (shape[2], shape[3], shape[1], shape[0]) if kind == "weight" else shape
            name = f"{prefix}{variable(layer)}/{'kernel' if kind == 'weight' else 'bias'}"
            yield Entry(name, target, stored, tuple(ops))


def probes(config: SSDConfig) -> Iterator[tuple[str, str]]:
    """(layer, reference module) of every layer whose output is the same tensor on both sides, behind its ReLU."""
    for layer in layers(config):
        if layer.role in ("backbone", "extras"):
            yield variable(layer), layer.module.removesuffix(".conv")
        elif layer.role == "l2norm":
            yield variable(layer), layer.module


def scope_of(names: Iterator[str] | list[str]) -> str | None:
    """What stands before the network's variables, where exactly one set of them is in the file."""
    found = {name.removesuffix(FIRST) for name in names if name.endswith(FIRST)}
    return found.pop() if len(found) == 1 else None


def outside(name: str, prefix: str, *, graph: bool) -> str:
    """Why a tensor is no part of the detector; "" where it may be.

    Args:
        name: of the tensor.
        prefix: the network's scope.
        graph: the tensor is a constant of a frozen graph.
    """
    last = name.rsplit("/", 1)[-1]
    if last in SLOTS:
        return "an optimizer's slot, not part of the detector"
    if last in COUNTERS or last.startswith(".OPTIMIZER"):
        return "a counter or setting of the training, not part of the detector"
    parts = name.split("/")
    if len(parts) > 1 and parts[-1] == "weights" and parts[-2].startswith("conv4_3_scale") and name != prefix + SCALE:
        return "a second copy of conv4_3's scale, which another tower left"
    if graph and last not in ("kernel", "bias", "weights"):
        return "a constant of the graph that is no weight"
    return ""
