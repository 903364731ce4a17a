"""The layers of a GluonCV network as the reference's modules and as GluonCV's names, one row each.

From one row follow a tensor's two names in files (structural and legacy, see ``mapping``), its reference tensor, and the node
of MXNet's graph that computes the layer. The order is that of the forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ssdconv.errors import MappingError
from ssdconv.ssd_ref.backbones.plain import BLOCKS
from ssdconv.ssd_ref.config import Backbone, SSDConfig

Kind = Literal["conv", "norm", "expander_norm", "constant", "scale", "act"]

_SUFFIXES: dict[Kind, tuple[tuple[str, str], ...]] = {
    "conv": (("weight", "weight"), ("bias", "bias")),
    "norm": (("gamma", "weight"), ("beta", "bias"), ("running_mean",) * 2, ("running_var",) * 2),
    "expander_norm": (
        ("gamma", "weight"),
        ("beta", "bias"),
        ("moving_mean", "running_mean"),
        ("moving_var", "running_var"),
    ),
    "constant": (("", "scale"),),
    "scale": (("scale", "weight"),),
    "act": (),
}
"""Kind of layer -> (name of the tensor in GluonCV, in the reference)."""


@dataclass(frozen=True)
class GluonLayer:
    """One layer.

    Attributes:
        kind: which tensors it has.
        module: path of the reference module, from the SSD.
        flat: GluonCV's name in legacy files, without the network's prefix.
        dotted: its attribute path in the backbone's own class ("" for layers that have none).
        node: node of MXNet's graph with its output, without the network's prefix ("" where none equals the module's).
        needs: a module without which the node does not exist either, "" for ``module`` itself.
    """

    kind: Kind
    module: str
    flat: str
    dotted: str = ""
    node: str = ""
    needs: str = ""

    def tensors(self) -> Iterator[tuple[str, str, str]]:
        """(reference tensor, legacy name, name below ``dotted``) of each tensor that such a layer can have."""
        for theirs, ours in _SUFFIXES[self.kind]:
            yield f"{self.module}.{ours}", f"{self.flat}_{theirs}".rstrip("_"), f"{self.dotted}.{theirs}".rstrip(".")


def parts_of(config: SSDConfig) -> Iterator[GluonLayer]:
    """All layers of a network.

    Raises:
        MappingError: GluonCV has no such network.
    """
    if config.staged is None or config.source != "gluon":
        raise MappingError("not a network of GluonCV", where=config.name)
    backbone = config.staged.backbone
    yield from backbone_parts(backbone)
    yield from _extras(config)
    for index in range(len(config.priors)):
        for offset, (word, attribute) in enumerate((("conf", "class"), ("loc", "box"))):
            flat = f"convpredictor{2 * index + offset}_conv0"
            dotted = f"{attribute}_predictors.{index}.predictor"
            yield GluonLayer("conv", f"heads.{word}.{index}", flat, dotted, f"{flat}_fwd")


def backbone_parts(backbone: Backbone) -> Iterator[GluonLayer]:
    """The layers of a backbone alone."""
    options = dict(backbone.options)
    if backbone.kind == "vgg16":
        yield from _vgg()
    elif backbone.kind == "mobilenet_v1":
        yield from _mobilenet()
    elif backbone.kind == "resnet":
        version = options["version"]
        yield from {"v1": _resnet_v1, "v2": _resnet_v2}.get(version, _resnet_v1b)(options)
    else:
        raise MappingError(f"GluonCV has no backbone {backbone.kind!r}")


def _unit(module: str, flat: str, norm: str, act: str, dotted: tuple[str, str]) -> Iterator[GluonLayer]:
    """Convolution, batch normalisation and, where ``act`` names its node, activation."""
    yield GluonLayer("conv", f"{module}.conv", flat, dotted[0], f"{flat}_fwd")
    yield GluonLayer("norm", f"{module}.norm", norm, dotted[1], f"{norm}_fwd")
    if act:
        yield GluonLayer("act", f"{module}.act", act, node=act)


def _vgg() -> Iterator[GluonLayer]:
    net = "vggatrousextractor0"
    yield GluonLayer("constant", "backbone.init_scale", f"{net}_init_scale", "init_scale", f"{net}_broadcast_mul0")
    counter = 0
    for stage, count in enumerate((2, 2, 3, 3, 3)):
        for index in range(count):
            flat, module = f"{net}_conv{counter}", f"backbone.conv{stage + 1}_{index + 1}"
            yield GluonLayer("conv", f"{module}.conv", flat, f"stages.{stage}.{2 * index}", f"{flat}_fwd")
            yield GluonLayer("act", f"{module}.act", "", node=f"{net}_relu{counter}_fwd")
            counter += 1
        if stage == 3:
            scale = f"{net}_normalize0"
            yield GluonLayer("scale", "heads.l2norm.0", f"{scale}_normalize", "norm4", f"{scale}_broadcast_mul0")
        yield GluonLayer("act", f"backbone.pool{stage + 1}", "", node=f"{net}_pooling{stage}")
    for index, module in enumerate(("backbone.fc6", "backbone.fc7")):
        flat = f"{net}_dilated_conv{index}"
        yield GluonLayer("conv", f"{module}.conv", flat, f"stages.5.{2 * index}", f"{flat}_fwd")
        yield GluonLayer("act", f"{module}.act", "", node=f"{net}_dilated_relu{index}_fwd")


def _mobilenet() -> Iterator[GluonLayer]:
    names = ["conv0"] + [f"conv{i}{part}" for i in range(1, 14) for part in ("_dw", "")]
    for index, name in enumerate(names):
        dotted = (f"features.{3 * index}", f"features.{3 * index + 1}")
        act = f"mobilenet0_relu{index}_fwd"
        yield from _unit(f"backbone.{name}", f"mobilenet0_conv{index}", f"mobilenet0_batchnorm{index}", act, dotted)


def _resnet_v1(options: dict[str, Any]) -> Iterator[GluonLayer]:
    net, depth = "resnetv10", options["depth"]
    yield from _unit(
        "backbone.conv1", f"{net}_conv0", f"{net}_batchnorm0", f"{net}_relu0_fwd", ("features.0", "features.1")
    )
    yield GluonLayer("act", "backbone.pool1", "", node=f"{net}_pool0_fwd")
    body = 3 if depth >= 50 else 2
    for stage, blocks in enumerate(BLOCKS[depth], 1):
        counter, relus, head = 0, 0, f"{net}_stage{stage}"
        for block in range(blocks):
            module, dotted = f"backbone.stage{stage}.{block}", f"features.{stage + 3}.{block}"
            for conv in range(1, body + 1):
                act = f"{head}_relu{relus}_fwd" if conv < body else ""
                path = (f"{dotted}.body.{3 * conv - 3}", f"{dotted}.body.{3 * conv - 2}")
                yield from _unit(
                    f"{module}.conv{conv}", f"{head}_conv{counter}", f"{head}_batchnorm{counter}", act, path
                )
                counter += 1
                relus += bool(act)
            if block == 0 and (stage > 1 or depth >= 50):
                path = (f"{dotted}.downsample.0", f"{dotted}.downsample.1")
                yield from _unit(
                    f"{module}.downsample", f"{head}_conv{counter}", f"{head}_batchnorm{counter}", "", path
                )
                counter += 1
            yield GluonLayer("act", f"{module}.act", "", node=f"{head}_activation{block}")


def _resnet_v1b(options: dict[str, Any]) -> Iterator[GluonLayer]:
    version, depth = options["version"], options["depth"]
    net = f"resnet{version}"
    stem = ["conv1"] if version == "v1b" else ["conv1_1", "conv1_2", "conv1_3"]
    for index, name in enumerate(stem):
        last = index == len(stem) - 1
        path = ("conv1" if version == "v1b" else f"conv1.{3 * index}", "bn1" if last else f"conv1.{3 * index + 1}")
        yield from _unit(
            f"backbone.{name}", f"{net}_conv{index}", f"{net}_batchnorm{index}", f"{net}_relu{index}_fwd", path
        )
    yield GluonLayer("act", "backbone.pool1", "", node=f"{net}_pool0_fwd")
    body = 3 if depth >= 50 else 2
    for stage, blocks in enumerate(BLOCKS[depth], 1):
        counter, head = 0, f"{net}_layers{stage}"
        for block in range(blocks):
            module, dotted = f"backbone.stage{stage}.{block}", f"layer{stage}.{block}"
            for conv in range(1, body + 1):
                act = f"{head}_relu{counter}_fwd" if conv < body else ""
                path = (f"{dotted}.conv{conv}", f"{dotted}.bn{conv}")
                yield from _unit(
                    f"{module}.conv{conv}", f"{head}_conv{counter}", f"{head}_batchnorm{counter}", act, path
                )
                counter += 1
            if block == 0 and (stage > 1 or depth >= 50):
                down, path = f"{net}_down{stage}", (f"{dotted}.downsample.0", f"{dotted}.downsample.1")
                yield from _unit(f"{module}.downsample", f"{down}_conv0", f"{down}_batchnorm0", "", path)
            yield GluonLayer("act", f"{module}.act", "", node=f"{head}_relu{counter - 1}_fwd")


def _resnet_v2(options: dict[str, Any]) -> Iterator[GluonLayer]:
    net, depth = "resnetv20", options["depth"]
    yield GluonLayer("norm", "backbone.norm0", f"{net}_batchnorm0", "features.0", f"{net}_batchnorm0_fwd")
    yield from _unit(
        "backbone.conv1", f"{net}_conv0", f"{net}_batchnorm1", f"{net}_relu0_fwd", ("features.1", "features.2")
    )
    yield GluonLayer("act", "backbone.pool1", "", node=f"{net}_pool0_fwd")
    body = 3 if depth >= 50 else 2
    for stage, blocks in enumerate(BLOCKS[depth], 1):
        convs, norms, head = 0, 0, f"{net}_stage{stage}"
        for block in range(blocks):
            module, dotted = f"backbone.stage{stage}.{block}", f"features.{stage + 4}.{block}"
            for step in range(1, body + 1):
                norm, conv = f"{head}_batchnorm{norms}", f"{head}_conv{convs}"
                yield GluonLayer("norm", f"{module}.norm{step}", norm, f"{dotted}.bn{step}", f"{norm}_fwd")
                yield GluonLayer("act", f"{module}.act{step}", "", node=f"{head}_activation{norms}")
                yield GluonLayer("conv", f"{module}.conv{step}", conv, f"{dotted}.conv{step}", f"{conv}_fwd")
                norms, convs = norms + 1, convs + 1
            if block == 0 and (stage > 1 or depth >= 50):
                conv = f"{head}_conv{convs}"
                yield GluonLayer("conv", f"{module}.downsample", conv, f"{dotted}.downsample", f"{conv}_fwd")
                convs += 1
            yield GluonLayer("act", module, "", node=f"{head}__plus{block}", needs=f"{module}.conv{body}")


def _extras(config: SSDConfig) -> Iterator[GluonLayer]:
    assert config.staged is not None
    kind, stages = config.staged.backbone.kind, config.staged.extras.stages
    for index, stage in enumerate(stages):
        for place, spec in enumerate(stage):
            module = f"extras.{spec.name}"
            if kind == "vgg16":
                flat = f"vggatrousextractor0_extra{index}_conv{place}"
                yield GluonLayer("conv", f"{module}.conv", flat, f"extras.{index}.{2 * place}", f"{flat}_fwd")
                act = f"vggatrousextractor0_extra{index}_relu{place}_fwd"
            elif spec.norm is None:
                flat = f"resnetv1bssd0_conv{2 * index + place}"
                yield GluonLayer("conv", f"{module}.conv", flat, f"more_stages.{index}.{2 * place}", f"{flat}_fwd")
                act = f"resnetv1bssd0_relu{2 * index + place}_fwd"
            else:
                word = "expand" if place else "expand_trans"
                conv, norm = f"{word}_conv{index}", f"{word}_bn{index}"
                yield GluonLayer("conv", f"{module}.conv", conv, node=conv)
                yield GluonLayer("expander_norm", f"{module}.norm", norm, node=norm)
                act = f"{word}_relu{index}"
            yield GluonLayer("act", f"{module}.act", "", node=act)
