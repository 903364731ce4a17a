"""Layer names for ``.weights.h5`` files of Keras 2.15, which number layers per class and hold no names.

Groups are called ``conv2d``, ``conv2d_1``, … in the order of ``model.layers``: by depth, then in the order in which the model's outputs
reach a layer. For a network whose convolutions form one chain that order is certain, whoever wrote the code: the chain from the
pixels on, then the heads (which lie less deep than any layer of the chain), the class heads among themselves and the box heads among
themselves in the order of their concatenation, which is that of the priors. Where a class head stands between the box heads is the
code's business, so each of these groups must be told by its shapes. Batch normalisations of a chain are in its order too.

ResNet50 is no chain: the last convolution of a block's branch and that of its shortcut lie equally deep and have one shape. It is
refused, as is everything that fits no network or more than one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ssdconv.converters.keras.rows import Row, rows_of
from ssdconv.converters.plan import Request
from ssdconv.converters.tensors import TensorTable
from ssdconv.errors import MappingError
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.networks.keras import NETWORKS

Layers = dict[str, list[str]]
Shape = tuple[int, ...]

CHAINS = ("jedol_ssd300_vgg16_voc", "ssd_keras_ssd300_voc", "ssd_keras_ssd512_voc", "ssd7")
SCALES = {"jedol": "normalize2d", "ssd_keras": "l2_normalization"}
"""Project -> group of the class that it has for the L2 normalisation."""
_HINT = "save the whole model as .keras, or the weights with save_weights(path, save_format='h5') in Keras 2"


def layers_in_order(table: TensorTable, request: Request) -> Layers:
    """Layer name -> its datasets, by class and order.

    Args:
        table: of a v3 file; ``meta["layers"]`` has the file's groups (``conv2d_3``).
        request: ``network`` decides where several networks have these shapes.

    Raises:
        MappingError: no network known here fits, several do, or the order does not tell the layers; the message says why.
    """
    groups: Layers = table.meta["layers"]
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
    cells = sum(len(one.cells) for one in plain.priors)
    values, rest = divmod(sum(kernel[3] for kernel in kernels[chain:]), cells)
    width, published = kernels[0][3], next(row.shape[3] for row in rows_of(plain) if row.kind == "kernel")
    if rest or values < 6 or values > 2_000 or not 0 < width <= published:
        raise _MisfitError("the heads' channels are those of no number of classes")
    config: SSDConfig = NETWORKS[name](name, values - 4, width=width)
    return config


def _match_heads(
    kernels: Mapping[str, Row], groups: Sequence[str], shapes: Mapping[str, Sequence[Shape]], found: dict[str, str]
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
