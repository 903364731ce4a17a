"""Keras' layers, weights and layouts of each named network, and which layer is which where a file has no names.

Kernels are HWIO. jedol's cells have their anchors as min, sqrt(min*max), 2, 3, 1/2, 1/3; SSD7's as 1/2, 1, sqrt, 2; ssd_keras' as the
reference. A block's convolution ``res2a_branch2a`` has its batch normalisation in layer ``bn2a_branch2a``.

``.weights.h5`` files of Keras 2.15 number layers per class and hold no names: ``conv2d``, ``conv2d_1``, … in the order of ``model.layers``: by
depth, then in the order in which the model's outputs reach a layer. For a network whose convolutions form one chain that order is certain,
whoever wrote the code: the chain from the pixels on, then the heads (which lie less deep than any layer of the chain), the class heads
among themselves and the box heads among themselves in the order of their concatenation, which is that of the priors. Where a class head
stands between the box heads is the code's business, so each of these groups must be told by its shapes. Batch normalisations of a chain are
in its order too. ResNet50 is no chain: the last convolution of a block's branch and that of its shortcut lie equally deep and have one
shape. It is refused, as is everything that fits no network or more than one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ssdconv.converters.keras.files import KerasFile
from ssdconv.converters.plan import Request
from ssdconv.converters.same_network import vgg_layers
from ssdconv.converters.tensors import Op, TensorTable, Transpose, permute_anchors
from ssdconv.errors import MappingError
from ssdconv.ssd_ref.backbones.plain import UNITS, blocks
from ssdconv.ssd_ref.config import ConvSpec, SSDConfig
from ssdconv.ssd_ref.networks.keras import NETWORKS

Kind = Literal["kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance", "scale"]
NORM: dict[Kind, str] = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
"""Batch normalisation's weights in Keras' order -> the reference's."""

JEDOL_SIX = (0, 1, 2, 4, 3, 5)
SSD7_FOUR = (1, 2, 3, 0)


@dataclass(frozen=True)
class KerasRow:
    """One weight of the network.

    Attributes:
        layer, kind: where Keras keeps it.
        target: the reference tensor.
        shape: as Keras stores it.
        ops: from Keras' layout to the reference's.
    """

    layer: str
    kind: Kind
    target: str
    shape: tuple[int, ...]
    ops: tuple[Op, ...] = ()


def _conv(
    layer: str, module: str, weight: tuple[int, ...], bias: bool, anchors: tuple[int, ...] = ()
) -> Iterator[KerasRow]:
    out, inner, height, width = weight
    order: tuple[Op, ...] = (permute_anchors(anchors, out // len(anchors)),) if anchors else ()
    kernel = (Transpose((3, 2, 0, 1)), *order)
    yield KerasRow(layer, "kernel", f"{module}.weight", (height, width, inner, out), kernel)
    if bias:
        yield KerasRow(layer, "bias", f"{module}.bias", (out,), order)


def _norm(layer: str, module: str, channels: int) -> Iterator[KerasRow]:
    for kind, name in NORM.items():
        yield KerasRow(layer, kind, f"{module}.{name}", (channels,))


def rows_of(config: SSDConfig) -> list[KerasRow]:
    """Every weight of a network.

    Raises:
        MappingError: no Keras project has such a network.
    """
    kind = config.layers.kind
    if kind == "keras_resnet50":
        return list(_resnet(config))
    if kind == "ssd7":
        return list(_ssd7(config))
    return list(_vgg(config))


def head_names(config: SSDConfig) -> list[str]:
    """What the layers of each source's heads are called after."""
    extras = [stage[-1].name for stage in config.staged.extras.stages]
    taps = list(config.staged.backbone.out_indices)
    if config.staged.backbone.kind == "vgg16":
        return ["conv4_3_norm", "fc7", *extras]
    return [*taps, "pool8"] if config.staged.extras.pool == "avg3" else taps


def _heads(config: SSDConfig, channels: list[int]) -> Iterator[KerasRow]:
    jedol = config.name.startswith("jedol")
    for role, values in (("conf", config.num_classes), ("loc", 4)):
        word = "logit" if jedol and role == "conf" else role
        for index, (name, inner, prior) in enumerate(zip(head_names(config), channels, config.priors, strict=True)):
            cells = len(prior.box_sizes)
            order = JEDOL_SIX if jedol and cells == 6 else ()
            weight = (cells * values, inner, 3, 3)
            yield from _conv(f"{name}_mbox_{word}", f"heads.{role}.{index}", weight, True, order)


def _vgg(config: SSDConfig) -> Iterator[KerasRow]:
    heads = []
    for layer in vgg_layers(config, "Keras", same_padding=True):
        if layer.role == "l2norm":
            yield KerasRow("conv4_3_norm", "scale", f"{layer.module}.weight", layer.weight)
        elif layer.role in ("backbone", "extras"):
            yield from _conv(layer.name, layer.module, layer.weight, True)
        elif layer.role == "loc":
            heads.append(layer.weight[1])
    yield from _heads(config, heads)


def _resnet(config: SSDConfig) -> Iterator[KerasRow]:
    width = config.staged.backbone.options.get("width", 64)
    yield from _conv("conv1", "backbone.conv1.conv", (width, 3, 7, 7), True)
    yield from _norm("bn_conv1", "backbone.conv1.norm", width)
    channels: dict[str, int] = {}
    inner = width
    for block in blocks(width):
        branches = {
            "2a": (block.inner, inner, 1),
            "2b": (block.inner, block.inner, 3),
            "2c": (block.out, block.inner, 1),
        }
        if block.shortcut:
            branches["1"] = (block.out, inner, 1)
        for branch, (out, before, side) in branches.items():
            module = f"backbone.{block.name}.branch{branch}"
            yield from _conv(f"{block.name}_branch{branch}", f"{module}.conv", (out, before, side, side), False)
            yield from _norm(f"bn{block.name[3:]}_branch{branch}", f"{module}.norm", out)
        inner = channels[block.name] = block.out
    taps = [channels[tap] for tap in config.staged.backbone.out_indices]
    yield from _heads(config, [*taps, taps[-1]])


def _ssd7(config: SSDConfig) -> Iterator[KerasRow]:
    inner, channels = 3, {}
    for unit in UNITS["ssd7"](**config.staged.backbone.options):
        if isinstance(unit, ConvSpec):
            module = f"backbone.{unit.name}"
            yield from _conv(unit.name, f"{module}.conv", (unit.out_channels, inner, unit.kernel, unit.kernel), True)
            yield from _norm(f"bn{unit.name[4:]}", f"{module}.norm", unit.out_channels)
            inner = channels[unit.name] = unit.out_channels
    for word, role, values in (("classes", "conf", config.num_classes), ("boxes", "loc", 4)):
        for index, tap in enumerate(config.staged.backbone.out_indices):
            weight = (4 * values, channels[tap], 3, 3)
            yield from _conv(f"{word}{tap[4:]}", f"heads.{role}.{index}", weight, True, SSD7_FOUR)


def probes_of(config: SSDConfig) -> Iterator[tuple[str, str]]:
    """(Keras layer, reference module) of every layer whose output is the same tensor on both sides.

    A convolution of VGG16 has its ReLU inside in Keras. Heads are compared in ``@loc`` and ``@conf``.
    """
    kind = config.layers.kind
    for row in rows_of(config):
        module = row.target.rsplit(".", 1)[0]
        if row.target.startswith("heads.") and row.kind != "scale":
            continue
        if row.kind == "kernel" and kind == "vgg16":
            yield row.layer, module.removesuffix(".conv")
        elif row.kind in ("kernel", "gamma", "scale"):
            yield row.layer, module
    pools = {"vgg16": range(1, 6), "ssd7": range(1, 7)}.get(kind, ())
    yield from ((f"pool{i}", f"backbone.pool{i}") for i in pools)
    if kind == "ssd7":
        yield from ((f"elu{i}", f"backbone.conv{i}.act") for i in range(1, 8))
    if kind == "keras_resnet50":
        yield "pool1", "backbone.pool1"
        yield from ((block.name, f"backbone.{block.name}") for block in blocks())
        yield "pool8", "extras.pool"


Layers = dict[str, list[str]]
Shape = tuple[int, ...]

CHAINS = ("jedol_ssd300_vgg16_voc", "ssd_keras_ssd300_voc", "ssd_keras_ssd512_voc", "ssd7")
SCALES = {"jedol": "normalize2d", "ssd_keras": "l2_normalization"}
"""Project -> group of the class that it has for the L2 normalisation."""
_HINT = "save the whole model as .keras, or the weights with save_weights(path, save_format='h5') in Keras 2"


def layers_in_order(table: TensorTable, request: Request) -> Layers:
    """Layer name -> its datasets, by class and order.

    Args:
        table: of a v3 file; its layers are the file's groups (``conv2d_3``).
        request: ``network`` decides where several networks have these shapes.

    Raises:
        MappingError: no network known here fits, several do, or the order does not tell the layers; the message says why.
    """
    groups: Layers = table.found(KerasFile).layers
    shapes = {group: [table[name].shape for name in names] for group, names in groups.items()}
    asked = [request.network] if request.network else list(CHAINS)
    reasons, found = {}, {}
    for name in asked:
        try:
            found[name] = _match(name, shapes)
        except _MisfitError as misfit:
            reasons[name] = str(misfit)
    if len(found) > 1:
        mark = next((project for project, group in SCALES.items() if group in groups), None)
        found = {name: order for name, order in found.items() if mark is None or name.startswith(mark)}
    if len(found) != 1:
        why = f"several networks have these layers: {', '.join(found)}" if found else "; ".join(
            f"{name}: {reason}" for name, reason in reasons.items()
        )  # fmt: skip
        raise MappingError(
            "the file does not tell its layers' names, and their order does not either",
            where=str(table.path),
            got=why,
            hint="--network NAME decides between them" if found else _HINT,
        )
    (order,) = found.values()
    return {layer: groups[group] for layer, group in order.items()}


class _MisfitError(Exception):
    """Why a network is not the file's."""


def _match(name: str, shapes: Mapping[str, Sequence[Shape]]) -> dict[str, str]:
    """Layer -> group, if the file holds the network of this name."""
    if name not in CHAINS and name not in NETWORKS:
        raise _MisfitError("no network of this name")
    if "resnet" in name:
        raise _MisfitError("branches of one block have equal shapes and depths")
    convolutions, norms = _numbered(shapes, "conv2d"), _numbered(shapes, "batch_normalization")
    others = [group for group in shapes if group not in convolutions and group not in norms]
    config = _sized(name, [shapes[group] for group in convolutions])
    rows = rows_of(config)
    kernels = {row.layer: row for row in rows if row.kind == "kernel"}
    found: dict[str, str] = {}
    chain = [row for row in kernels.values() if not row.target.startswith("heads.")]
    found |= {row.layer: group for row, group in zip(chain, convolutions, strict=False)}
    _match_heads(kernels, convolutions[len(chain) :], shapes, found)
    for kind, have in (("gamma", norms), ("scale", others)):
        wanted = [row for row in rows if row.kind == kind]
        if len(wanted) != len(have):
            raise _MisfitError(f"{len(have)} groups where {len(wanted)} have a {kind}")
        for row, group in zip(wanted, have, strict=True):
            found[row.layer] = group
    for layer, group in found.items():
        _same([row.shape for row in rows if row.layer == layer], list(shapes[group]), group, layer)
    return found


def _sized(name: str, convolutions: Sequence[Sequence[Shape]]) -> SSDConfig:
    """The network in the width and class count of the file."""
    kernels = [_kernel(shapes) for shapes in convolutions]
    plain = NETWORKS[name](name)
    chain = sum(row.kind == "kernel" and not row.target.startswith("heads.") for row in rows_of(plain))
    expected = chain + 2 * len(plain.priors)
    if len(kernels) != expected:
        raise _MisfitError(f"{len(kernels)} convolutions, not {expected}")
    cells = sum(len(one.box_sizes) for one in plain.priors)
    values, rest = divmod(sum(kernel[3] for kernel in kernels[chain:]), cells)
    width, published = kernels[0][3], next(row.shape[3] for row in rows_of(plain) if row.kind == "kernel")
    if rest or values < 6 or values > 2_000 or not 0 < width <= published:
        raise _MisfitError("the heads' channels are those of no number of classes")
    config: SSDConfig = NETWORKS[name](name, values - 4, width=width)
    return config


def _match_heads(
    kernels: Mapping[str, KerasRow], groups: Sequence[str], shapes: Mapping[str, Sequence[Shape]], found: dict[str, str]
) -> None:
    """Pair the heads: class and box heads each in their order, told apart by shape."""
    queues = [[row for row in kernels.values() if row.target.startswith(f"heads.{role}.")] for role in ("conf", "loc")]
    for group in groups:
        kernel = _kernel(shapes[group])
        fitting = [queue for queue in queues if queue and queue[0].shape == kernel]
        if len(fitting) > 1:
            raise _MisfitError(f"{group} may be {fitting[0][0].layer} or {fitting[1][0].layer}: both are {kernel}")
        if not fitting:
            raise _MisfitError(f"{group} {kernel} is no head in its place")
        found[fitting[0].pop(0).layer] = group


def _numbered(groups: Mapping[str, object], word: str) -> list[str]:
    """``word``, ``word_1``, … in order."""
    rows = []
    for group in groups:
        match = re.fullmatch(rf"{word}(?:_(\d{{1,4}}))?", group)
        if match:
            rows.append((int(match[1] or 0), group))
    return [group for _, group in sorted(rows)]


def _kernel(shapes: Sequence[Shape]) -> Shape:
    """The only kernel among a group's tensors."""
    fitting = [shape for shape in shapes if len(shape) == 4]
    if len(fitting) != 1:
        raise _MisfitError("a convolution without exactly one kernel")
    return fitting[0]


def _same(wanted: list[Shape], held: list[Shape], group: str, layer: str) -> None:
    if wanted != held:
        raise _MisfitError(f"{group} is {_text(held)}, {layer} would be {_text(wanted)}")


def _text(shapes: list[Shape]) -> str:
    return " and ".join(map(str, shapes)) or "empty"


def in_model_order(config: SSDConfig) -> list[tuple[str, str]]:
    """(group of the class, layer) in the order in which Keras numbers a network's layers with weights.

    Class heads come first: in ssd_keras a softmax follows them, so they lie deeper than the box heads; jedol's models have the outputs
    ``[mbox_logit, mbox_loc]`` in this order.

    Raises:
        MappingError: the order is not certain, or Keras would not notice a wrong one.
    """
    if not any(config.name.startswith(name.rpartition("_")[0] or name) for name in CHAINS):
        raise MappingError(
            "a .weights.h5 holds layers by their position, which is not certain for this network",
            where=config.name,
            hint="write a .h5, which Keras 2 and 3 load by names: load_weights(path, by_name=True)",
        )
    if config.num_classes == 4:
        raise MappingError(
            "with 4 classes, class and box heads have one shape, and Keras would not notice if their order was another",
            where=config.name,
            hint="write a .h5, which Keras 2 and 3 load by names: load_weights(path, by_name=True)",
        )
    words = {"kernel": "conv2d", "gamma": "batch_normalization"}
    for project, group in SCALES.items():
        if config.name.startswith(project):
            words["scale"] = group
    rows = [row for row in rows_of(config) if row.kind in words]
    heads = [[row for row in rows if row.target.startswith(f"heads.{role}.")] for role in ("conf", "loc")]
    chain = [row for row in rows if not row.target.startswith(("heads.conf.", "heads.loc."))]
    return [(words[row.kind], row.layer) for row in (*chain, *heads[0], *heads[1])]
