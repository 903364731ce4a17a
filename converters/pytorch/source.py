"""PyTorch projects as a source: reader, mapping and writer under the names that the registry expects.

``vgg.<i>`` and ``backbone.features.<i>`` count VGG16's layers with ReLUs and pools; torchvision continues behind conv4_3 in
``backbone.extra``. Layouts are the reference's own: OIHW, loc (dx, dy, dw, dh), Caffe's anchor order.

Which channel order a file's first layer reads is told by the user, by a known file with the same weights, or not at all. The same names and
shapes exist in both orders (ssd.pytorch trains RGB; weights made from Caffe read BGR), and a wrong guess costs about 5 mAP without any error.
So nothing is guessed: weights that equal a known file's first layer, as they are or with their input channels reversed, decide; weights that
are merely near do not, because training may have started from weights of the other order.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ssdconv.converters.assumed import Project, flipped, settle
from ssdconv.converters.convert import open_source
from ssdconv.converters.plan import Plan, Request
from ssdconv.converters.pytorch.reader import PthFile, read_pth
from ssdconv.converters.registry import recognise
from ssdconv.converters.same_network import (
    FIRST_LAYER,
    Layer,
    Role,
    check_pixels,
    counts_of,
    first_layer_as,
    length_of,
    refuse_priors,
    same_extras,
    vgg_layers,
)
from ssdconv.converters.tensors import Array, Drop, MappedTensor, TensorMapping, TensorTable
from ssdconv.errors import FormatError, MappingError, OutputError, SsdconvError, UsageError
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.evidence import Claim
from ssdconv.ssd_ref.files import CHECKPOINTS, atomic_path
from ssdconv.ssd_ref.gate import reader
from ssdconv.ssd_ref.networks.caffe import RATIOS, SIZES
from ssdconv.ssd_ref.networks.pytorch import COCO201, KINDS, MEANS, pytorch

VGG_INDEX = {
    "conv1_1": 0, "conv1_2": 2, "conv2_1": 5, "conv2_2": 7, "conv3_1": 10, "conv3_2": 12, "conv3_3": 14,
    "conv4_1": 17, "conv4_2": 19, "conv4_3": 21, "conv5_1": 24, "conv5_2": 26, "conv5_3": 28, "fc6": 31, "fc7": 33,
}  # fmt: skip
"""Caffe's layer name -> index in the VGG list of ssd.pytorch."""

TORCHVISION_EXTRA = {
    "conv5_1": "0.1", "conv5_2": "0.3", "conv5_3": "0.5", "fc6": "0.7.1", "fc7": "0.7.3",
    "conv6_1": "1.0", "conv6_2": "1.2", "conv7_1": "2.0", "conv7_2": "2.2",
    "conv8_1": "3.0", "conv8_2": "3.2", "conv9_1": "4.0", "conv9_2": "4.2",
}  # fmt: skip
"""Caffe's layer name -> place in torchvision's ``backbone.extra``."""

ROLES: dict[str, tuple[Role, ...]] = {
    "ssd.pytorch": ("backbone", "l2norm", "extras", "loc", "conf"),
    "simple-ssd": ("l2norm", "backbone", "extras", "loc", "conf"),
    "torchvision": ("l2norm", "backbone", "extras", "conf", "loc"),
    "vgg16_reducedfc": ("backbone",),
}
"""Style -> parts of the network in the order of its files."""


def module_name(layer: Layer, style: str) -> str:
    """Path of a layer's module in a project's network.

    Raises:
        UsageError: no such style.
    """
    if style not in ROLES:
        raise UsageError(f"no style {style!r}", expected=f"one of {', '.join(ROLES)}")
    if style == "torchvision":
        return _torchvision(layer)
    if layer.role == "backbone":
        return ("" if style == "vgg16_reducedfc" else "vgg.") + str(VGG_INDEX[layer.name])
    if layer.role == "l2norm":
        return "L2Norm"
    if layer.role == "extras":
        stage, part = layer.name.removeprefix("conv").split("_")
        return f"extras.{(int(stage) - 6) * 2 + int(part) - 1}"
    return f"{layer.role}.{layer.name}"


def _torchvision(layer: Layer) -> str:
    if layer.role in ("loc", "conf"):
        kind = "regression_head" if layer.role == "loc" else "classification_head"
        return f"head.{kind}.module_list.{layer.name}"
    if layer.role == "l2norm":
        return "backbone"
    if layer.name in TORCHVISION_EXTRA:
        return f"backbone.extra.{TORCHVISION_EXTRA[layer.name]}"
    return f"backbone.features.{VGG_INDEX[layer.name]}"


def entries(config: SSDConfig, style: str, prefix: str = "") -> Iterator[MappedTensor]:
    """The mapping of every tensor of a style, in the order of that project's own files.

    Args:
        config: a VGG16 SSD300.
        style: a key of ``ROLES``.
        prefix: what stands before each name ("module.").

    Raises:
        MappingError: the style cannot express the network.
        UsageError: no such style.
    """
    layers = list(vgg_layers(config, style))
    for role in ROLES.get(style, ("backbone",)):
        for layer in layers:
            if layer.role != role:
                continue
            name = module_name(layer, style)
            for kind, target, shape in layer.tensors():
                suffix = "scale_weight" if name == "backbone" else kind
                yield MappedTensor(f"{prefix}{name}.{suffix}", target, shape)


def probes(config: SSDConfig, style: str) -> Iterator[tuple[str, str]]:
    """(module of the project's network, reference module) of every layer; torchvision's L2 normalisation is no module."""
    for layer in vgg_layers(config, style):
        name = module_name(layer, style)
        if name != "backbone":
            yield name, layer.module


KNOWN: dict[str, dict[str, str]] = {
    "caffe": {"conv1_1/0": "BGR"},
    "chainer": {"extractor/conv1_1/W": "RGB", "conv1_1/W": "RGB"},
}
"""Source -> name of VGG16's first layer in its files, backbone-only ones included, and the order that it reads."""

REVERSED = {"RGB": "BGR", "BGR": "RGB"}

EXPLANATION = (
    "ssd.pytorch's code feeds RGB, so weights trained by it need RGB; weights that were converted from Caffe, such as "
    "ssd_300_VOC0712.pth, need BGR. Say `--channel-order RGB` or `--channel-order BGR`; a file with the same weights in a known "
    "order (a .caffemodel, a ChainerCV .npz) decides it too: option like=FILE"
)


def known_first_layer(path: Path) -> tuple[Array, str]:
    """The first layer (O, 3, 3, 3) of a file whose channel order is known, and that order.

    Raises:
        UsageError: the file does not tell its order.
        MissingError, FormatError, UnsafeFileError: it cannot be read.
    """
    if path.suffix in CHECKPOINTS:
        from ssdconv.ssd_ref.checkpoint import read

        own = read(path)
        if FIRST_LAYER in own.state_dict:
            return own.state_dict[FIRST_LAYER].numpy(), own.config.pixels.order
    source = recognise(path)
    with source.module.read(path) as table:
        for name, order in KNOWN.get(source.name, {}).items():
            if name in table:
                return np.array(table[name].load()), order
    with (opened := open_source(path, source.name)).table as table:
        for entry, array in opened.plan.mapping.forward(table):
            if entry.target == FIRST_LAYER:
                return np.array(array), opened.plan.config.pixels.order
    raise UsageError("this file has no first layer of a VGG16 to compare with", where=str(path))


def order_like(first: Array, path: Path) -> str:
    """The order that ``first`` (O, 3, 3, 3) reads, by comparison with a known file.

    Raises:
        UsageError: the weights are not those of that file in either order.
    """
    try:
        known, order = known_first_layer(path)
    except UsageError:
        raise
    except SsdconvError as error:
        error.hint = error.hint or "like=FILE wants a .caffemodel, a ChainerCV .npz or a checkpoint of ssdconv"
        raise
    if first.shape == known.shape:
        if np.array_equal(first, known):
            return order
        if np.array_equal(first, known[:, ::-1]):
            return REVERSED[order]
        size = float(np.linalg.norm(known)) or 1.0
        as_is, turned = (float(np.linalg.norm(first - k)) / size for k in (known, known[:, ::-1]))
        got = f"relative distance {as_is:.3g} as it is, {turned:.3g} with channels reversed"
    else:
        got = f"shapes {first.shape} and {known.shape}"
    raise UsageError(
        "the first layer is not that of the known file, in neither channel order, so it does not tell which one it reads",
        where=str(path),
        expected="equal weights",
        got=got,
        hint="near is not enough: training may have started from weights of the other order. " + EXPLANATION,
    )


def write_state_dict(dst: Path, arrays: Mapping[str, Array]) -> None:
    """Write named arrays, in the order given, atomically.

    Raises:
        OutputError: the file could not be written; what stood there before is untouched.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of arrays that may not be written to; these are only read
        state = OrderedDict((name, torch.from_numpy(np.asarray(a, order="C"))) for name, a in arrays.items())
    with atomic_path(dst) as temporary:
        try:
            with temporary.open("wb") as stream:
                torch.save(state, stream)
        except RuntimeError as error:
            raise OutputError(f"cannot write: {error}", where=str(dst)) from error


FIRST = {"torchvision": "backbone.features.0.weight", "ssd.pytorch": "vgg.0.weight", "vgg16_reducedfc": "0.weight"}
"""Style -> name of its first convolution."""
FIRST_BIAS = {"torchvision": "backbone.features.0.bias", "ssd.pytorch": "vgg.0.bias", "simple-ssd": "vgg.0.bias"}
CONF_BIAS = {"torchvision": "head.classification_head.module_list.0.bias"}
"""Style -> name of the first conf head's bias, where it is not ``conf.0.bias``."""
FED = {"ssd.pytorch": "RGB", "simple-ssd": "BGR", "torchvision": "RGB", "vgg16_reducedfc": "BGR"}
"""Style -> channel order that its code feeds; the backbone file is Caffe's, in Caffe's order."""
PRIORS = ("priors", "priorbox", "dbox_list", "default_boxes")
"""Names under which forks store the priors."""
DROPPED = "prior boxes, which follow from the network"


@reader
def read(path: Path) -> TensorTable:
    """Open a .pth file; nothing in it is run. See ``reader.read_pth``."""
    return read_pth(path)


def plan(table: TensorTable, request: Request) -> Plan:
    """Recognise the project and network, and map its tensors.

    ``request.options["like"]`` is a file with the same first layer in a known channel order.

    Raises:
        MappingError: no SSD300 of these projects.
        UsageError: the channel order, or with an unusual class count the network, must be told.
        FormatError: the file is a checkpoint of ssdconv already.
    """
    if "ssdconv" in table.found(PthFile).strings:
        raise FormatError(
            "this is a checkpoint of ssdconv, converted already",
            where=str(table.path),
            hint="use it as it is; `ssdconv pt2torch` writes it for another project",
        )
    style, prefix = style_of(table)
    name = request.network or network_of(table, style, prefix, request.settings.get("priors.scales", ""))
    if name not in KINDS:
        raise UsageError(f"no network {name!r} of PyTorch projects", expected=f"one of {', '.join(KINDS)}")
    style = _agreed(style, name, table)
    order, told = _order(table, style, prefix, request)
    first = prefix + FIRST_BIAS[style]
    classes, width = counts_of(table, prefix + CONF_BIAS.get(style, "conf.0.bias"), first, request.num_classes)
    config = pytorch(name, classes, width=width, order=order)
    claims: tuple[Claim, ...] = ()
    if style != "torchvision":
        config, claims = settle(config, request.settings, project_of(name, style, told))
    drops = [Drop(n, DROPPED) for n in table if n.removeprefix(prefix) in PRIORS]
    mapping = TensorMapping(tuple(entries(config, style, prefix)), tuple(drops))
    return Plan(config, mapping, (), tuple(probes(config, style)), (*claims, *_evidence(config)))


def project_of(name: str, style: str, order_told: str) -> Project:
    """What is known of a project's code, for one of its networks."""
    title = {
        "ssd.pytorch": "ssd.pytorch's code",
        "simple-ssd": "simple-ssd's code (0b87e8f)",
    }[style]
    return Project(
        title,
        scales={word: tuple(side / 300 for side in SIZES[f"ssd300_{word}"]) for word in ("voc", "coco")},
        scale=KINDS[name].sizes.rsplit("_", 1)[1],
        ratios=flipped(RATIOS[300]),
        order_told=order_told,
    )


def _evidence(config: SSDConfig) -> tuple[Claim, ...]:
    if (config.name, config.num_classes) != COCO201:
        return ()
    text = "COCO's 80 names in channels 1 to 80, as ssd.pytorch's label map numbers them; 120 channels are unused"
    return (Claim("classes", "rebuilt", text, "classes"),)


def style_of(table: TensorTable) -> tuple[str, str]:
    """The project whose names a file has, and what stands before each name ("module." of DataParallel).

    Raises:
        MappingError: none of the known ones, or a backbone alone.
    """
    for style, first in FIRST.items():
        found = [name for name in table if name == first or name.endswith("." + first)]
        if len(found) != 1:
            continue
        prefix = found[0].removesuffix(first)
        if style == "vgg16_reducedfc":
            if prefix or "33.weight" not in table:
                continue
            raise MappingError(
                "this is VGG16's backbone alone (as vgg16_reducedfc.pth), a start for training and no detector",
                where=str(table.path),
                got=f"{len(table)} tensors",
                hint="read it with ssdconv.converters.backbone_weights.read_backbone",
            )
        if style == "ssd.pytorch":
            names = list(table)
            scale = f"{prefix}L2Norm.weight"
            if scale in table and names.index(scale) < names.index(found[0]):
                return "simple-ssd", prefix
        return style, prefix
    raise MappingError(
        "the tensors' names are of no known project",
        where=str(table.path),
        expected=f"one of {', '.join(FIRST.values())}",
        got=", ".join(list(table)[:3]) + ", …",
        hint="known are ssd.pytorch, simple-ssd and torchvision's ssd300_vgg16",
    )


def network_of(table: TensorTable, style: str, prefix: str, scales: str = "") -> str:
    """The network of a style with the file's class count; ``scales`` is what the user said about the prior sizes.

    Raises:
        UsageError: the class count tells no prior sizes.
    """
    if style == "torchvision":
        return "torchvision_ssd300_vgg16"
    classes = length_of(table, prefix + "conf.0.bias") // 4
    if style == "simple-ssd":
        return "simple_ssd_ssd300_voc"
    fits = [n for n, kind in KINDS.items() if kind.style == style and kind.num_classes == classes]
    if fits or scales:
        return (*fits, f"ssd_pytorch_ssd300_{'coco' if scales == 'coco' else 'voc'}")[0]
    raise UsageError(
        f"a network of {classes} classes may have VOC's or COCO's prior sizes, and the file does not tell which",
        where=str(table.path),
        expected="--set priors.scales=voc (30, 60, 111 …) or --set priors.scales=coco (21, 45, 99 …)",
        hint="take the one whose configuration (data/config.py: voc or coco) the training used",
    )


def _agreed(style: str, name: str, table: TensorTable) -> str:
    """The style of a named network; ssd.pytorch and simple-ssd have the same names in another order."""
    wanted = KINDS[name].style
    if style != wanted and "torchvision" in (style, wanted):
        raise MappingError(f"the names are {style}'s, network {name!r} is {wanted}'s", where=str(table.path))
    return wanted


def _order(table: TensorTable, style: str, prefix: str, request: Request) -> tuple[str, str]:
    """Channel order of the first layer, and who told it, "" where nobody did."""
    told = request.channel_order or request.settings.get("pixels.order")
    if told:
        return told.upper(), "given by the user"
    like = request.options.get("like")
    if like and style != "torchvision":
        first = table[prefix + FIRST["ssd.pytorch"]].load()
        return order_like(first, Path(like)), f"the first layer equals that of {Path(like).name}"
    if style == "torchvision":
        return "RGB", ""
    if style == "simple-ssd":
        return "BGR", ""
    raise UsageError(
        "the file does not tell which channel order its first layer reads", where=str(table.path), hint=EXPLANATION
    )


def write(config: SSDConfig, tensors: Mapping[str, Array], dst: Path, request: Request) -> list[Path]:
    """Write a VGG16 SSD300 as a state dict of a project.

    ``request.options["style"]`` is "ssd.pytorch", "simple-ssd", "torchvision", or "vgg16_reducedfc" for the backbone alone; default:
    the project that the network came from, else ssd.pytorch. The first layer is turned to the order that the project's code
    feeds, or to ``request.channel_order``; a network written for the project that it came from stays as it is.
    ``request.options["foreign_priors"]`` allows prior sizes that the project does not have.

    Raises:
        UsageError: unknown style, or ``dst`` does not end in .pth or .pt.
        MappingError: the project cannot express the network, or would compute something else.
        OutputError: the file could not be written.
    """
    if dst.suffix not in (".pth", ".pt"):
        raise UsageError("a PyTorch weight file ends in .pth or .pt", where=str(dst))
    own = KINDS[config.name].style if config.source == "pytorch" and config.name in KINDS else ""
    style = request.options.get("style") or own or "ssd.pytorch"
    require_layers(config, style)
    rows = list(entries(config, style))
    if style != own:
        refuse_differences(config, style, bool(request.options.get("foreign_priors")))
    order = request.channel_order or (config.pixels.order if style == own else FED[style])
    turned = first_layer_as(order, config, tensors)
    write_state_dict(dst, {row.source: turned[row.target] for row in rows})
    return [dst]


def require_layers(config: SSDConfig, style: str) -> None:
    """Raise unless the style has the network's layers."""
    if style not in ROLES:
        raise UsageError(f"no style {style!r}", expected=f"one of {', '.join(ROLES)}")
    if style != "vgg16_reducedfc" and not same_extras(config, pytorch("ssd_pytorch_ssd300_voc")):
        raise MappingError(f"{style} has SSD300 on VGG16 only", where=config.name)


def refuse_differences(config: SSDConfig, style: str, foreign_priors: bool = False) -> None:
    """Raise where a project would compute something else from the same tensors.

    Let pass are the clamp of priors to the image, which all projects have, and the resize rule.

    Raises:
        MappingError: other mean pixels or prior sizes.
    """
    check_pixels(config, MEANS["RGB"], style)
    theirs = [pytorch(name) for name, kind in KINDS.items() if kind.style == style]
    refuse_priors(config, theirs, style, foreign_priors)
