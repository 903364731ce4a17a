"""ChainerCV as a source: reader, mapping and writer under the names that the registry expects.

fc6 and fc7 of VGG16 are ``conv6`` and ``conv7``, so the extra layers count two higher than Caffe's: conv6_1 is ``conv8_1``. A loc head's
channels are (dy, dx, dh, dw) per anchor, the reference's (dx, dy, dw, dh). conv1_1 reads RGB, and so does the reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ssdconv.converters.assumed import Project, flipped, settle
from ssdconv.converters.chainer.npz import NpzFile, read_npz, write_npz
from ssdconv.converters.plan import Plan, Request
from ssdconv.converters.same_network import (
    Layer,
    check_pixels,
    counts_of,
    first_layer_as,
    refuse_priors,
    same_extras,
    vgg_layers,
)
from ssdconv.converters.tensors import (
    Array,
    Drop,
    MappedTensor,
    TensorMapping,
    TensorTable,
    apply_all,
    inverse,
    permute_anchors,
)
from ssdconv.errors import MappingError, UsageError
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.gate import reader
from ssdconv.ssd_ref.networks.caffe import RATIOS, SIZES
from ssdconv.ssd_ref.networks.chainer import MEAN, NETWORKS, chainer

YX_TO_XY = (1, 0, 3, 2)


def link_name(layer: Layer) -> str:
    """Path of the Chainer link below the SSD, without the leading slash."""
    if layer.role == "l2norm":
        return "extractor/norm4"
    if layer.role in ("loc", "conf"):
        return f"multibox/{layer.role}/{layer.name}"
    if layer.role == "extras":
        stage, part = layer.name.removeprefix("conv").split("_")
        return f"extractor/conv{int(stage) + 2}_{part}"
    return "extractor/" + {"fc6": "conv6", "fc7": "conv7"}.get(layer.name, layer.name)


def entries(config: SSDConfig, prefix: str = "") -> Iterator[MappedTensor]:
    """The mapping of every tensor.

    Args:
        config: a VGG16 SSD.
        prefix: what stands before ``extractor/`` and ``multibox/`` in the file.
    """
    for layer in vgg_layers(config, "ChainerCV"):
        for kind, target, shape in layer.tensors():
            suffix = "scale" if layer.role == "l2norm" else {"weight": "W", "bias": "b"}[kind]
            swap = (permute_anchors(range(shape[0] // 4), 4, inner=YX_TO_XY),) if layer.role == "loc" else ()
            yield MappedTensor(f"{prefix}{link_name(layer)}/{suffix}", target, shape, swap)


def probes(config: SSDConfig) -> Iterator[tuple[str, str]]:
    """(Chainer link, reference module) of every layer whose outputs are equal.

    The loc heads are not among them, as their channels lie in another order; their values are compared in ``@loc``.
    """
    for layer in vgg_layers(config, "ChainerCV"):
        if layer.role != "loc":
            yield "/" + link_name(layer), layer.module


OUTSIDE = ("updater/", "trainer/", "extensions/", "stop_trigger/", "_snapshot")
"""Where a trainer's snapshot keeps what is not the model."""


@reader
def read(path: Path) -> TensorTable:
    """Open a .npz file; no Chainer needed. See ``reader.read_npz``."""
    return read_npz(path)


def plan(table: TensorTable, request: Request) -> Plan:
    """Recognise SSD300 or SSD512 and map its tensors.

    ``request.options["preset"]`` is ChainerCV's threshold preset, "evaluate" (default) or "visualize".

    Raises:
        MappingError: the file holds neither network.
        UsageError: unknown network or preset.
    """
    config, claims = settle(config_of(table, request), request.settings, project_of(table))
    prefix = table.found(NpzFile).prefix or ""
    drops = [Drop(name, "training state, not part of the detector") for name in table if _outside(name, prefix)]
    mapping = TensorMapping(tuple(entries(config, prefix)), tuple(drops))
    return Plan(config, mapping, (), tuple(probes(config)), claims)


def config_of(table: TensorTable, request: Request) -> SSDConfig:
    """The network that the tensors' shapes make; see ``plan``."""
    prefix = table.found(NpzFile).prefix or ""
    heads = [n for n in table if n.startswith(f"{prefix}multibox/")]
    name = request.network or ("ssd512_voc" if _is_large(table) else "ssd300_voc")
    if not heads and not request.network:
        raise MappingError(
            "the file holds no SSD of ChainerCV",
            where=str(table.path),
            expected="tensors multibox/conf/0/b and so on",
            got=f"{len(table)} tensors, first {next(iter(table))!r}" if len(table) else "no tensors",
            hint="a file of the VGG16 extractor alone is a start for training, not a detector",
        )
    if name not in NETWORKS:
        raise UsageError(f"ChainerCV has no network {name!r}", expected=f"one of {', '.join(NETWORKS)}")
    first, conf = f"{prefix}extractor/conv1_1/b", f"{prefix}multibox/conf/0/b"
    classes, width = counts_of(table, conf, first, request.num_classes)
    return chainer(name, classes, width=width, preset=request.options.get("preset", "evaluate"))


def project_of(table: TensorTable) -> Project:
    """What ChainerCV's classes SSD300 and SSD512 fix, for any class count."""
    size = 512 if _is_large(table) else 300
    return Project(
        f"ChainerCV 0.13's class SSD{size}",
        scales={word: tuple(side / size for side in SIZES[f"ssd{size}_{word}"]) for word in ("voc", "coco")},
        scale="voc",
        ratios=flipped(RATIOS[size]),
        notes={"priors.scales": "ChainerCV has no others; a COCO network needs its own"},
    )


def _is_large(table: TensorTable) -> bool:
    prefix = table.found(NpzFile).prefix or ""
    large = (f"{prefix}multibox/loc/6/", f"{prefix}multibox/conf/6/", f"{prefix}extractor/conv12_")
    return any(name.startswith(large) for name in table)


def _outside(name: str, prefix: str) -> bool:
    return bool(prefix) and not name.startswith(prefix) and name.startswith(OUTSIDE)


def write(config: SSDConfig, tensors: Mapping[str, Array], dst: Path, request: Request) -> list[Path]:
    """Write any VGG16 SSD as a .npz file that ``chainer.serializers.load_npz`` reads.

    A BGR network's first layer is turned to RGB, which is what ChainerCV feeds. ChainerCV's classes have VOC's prior sizes
    and mean pixels fixed; ``request.options["foreign_priors"]`` allows other sizes, for those who set them there.

    Raises:
        UsageError: ``dst`` does not end in .npz.
        MappingError: ChainerCV cannot express the network.
        OutputError: the file could not be written.
    """
    if dst.suffix != ".npz":
        raise UsageError("a Chainer weight file ends in .npz", where=str(dst))
    rows = list(entries(config))
    refuse_differences(config, bool(request.options.get("foreign_priors")))
    turned = first_layer_as("RGB", config, tensors)
    write_npz(dst, {e.source: apply_all(inverse(e.ops, e.source_shape), turned[e.target]) for e in rows})
    return [dst]


def refuse_differences(config: SSDConfig, foreign_priors: bool = False) -> None:
    """Raise where ChainerCV would compute something else from the same tensors.

    Two differences are let pass, as ChainerCV's own conversion of Caffe's files has them: sizes that Caffe cuts to whole
    pixels (at most 1 pixel), and the resize rule.

    Raises:
        MappingError: other layers, mean or prior sizes.
    """
    name = {6: "ssd300_voc", 7: "ssd512_voc"}.get(len(config.priors), "")
    if not name or not same_extras(config, chainer(name)):
        raise MappingError("ChainerCV has SSD300 and SSD512 only", where=config.name)
    check_pixels(config, MEAN, "ChainerCV")
    refuse_priors(config, (chainer(name),), f"ChainerCV's {name[:6].upper()}", foreign_priors)
