"""``caffe2npz``: a Caffe SSD straight to a ChainerCV .npz, as ChainerCV's own example of that name did.

conv1_1's input channels are turned from BGR to RGB, loc channels go from (dx, dy, dw, dh) to (dy, dx, dh, dw), fc6 … conv9_2
become conv6 … conv11_2. Nothing is computed: every number of the Caffe file is in the .npz file. Neither framework is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ssdconv.converters.caffe.graph import graph_config, signature, tells_nothing
from ssdconv.converters.caffe.source import mapping
from ssdconv.converters.caffe.writer import deploy_net
from ssdconv.converters.chainer.source import write
from ssdconv.converters.convert import open_source
from ssdconv.converters.plan import Request
from ssdconv.converters.same_network import prior_gap
from ssdconv.converters.tensors import TensorTable
from ssdconv.errors import MappingError
from ssdconv.ssd_ref.config import Graph, SSDConfig, Staged
from ssdconv.ssd_ref.networks.caffe import SIZES, vgg
from ssdconv.ssd_ref.networks.chainer import chainer


@dataclass(frozen=True)
class Caffe2npz:
    """What was written.

    Attributes:
        config: the Caffe network.
        output: the .npz file.
        tensors: how many it holds.
        warnings: where ChainerCV will compute other boxes than Caffe.
    """

    config: SSDConfig
    output: Path
    tensors: int
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The result as JSON-ready data."""
        return {
            "network": self.config.name,
            "output": str(self.output),
            "tensors": self.tensors,
            "warnings": list(self.warnings),
        }


def caffe2npz(
    src: str | Path, dst: str | Path, prototxt: str | Path | None = None, *, network: str | None = None
) -> Caffe2npz:
    """Write the weights of a Caffe SSD300 or SSD512 as a file for ChainerCV's class of that name.

    Args:
        src: the .caffemodel.
        dst: the .npz file to write.
        prototxt: the network's definition; default: the layer list in ``src``.
        network: name of the Caffe network, where neither tells (``ssd300_voc``).

    Raises:
        MappingError: ChainerCV has no such network.
        FormatError, UnsafeFileError, MissingError: ``src`` cannot be read.
        OutputError: ``dst`` could not be written.
    """
    opened = open_source(Path(src), "caffe", Request(network, prototxt=Path(prototxt) if prototxt else None))
    with opened.table as table:
        config = vgg_form(opened.plan.config, table)
        tensors = {entry.target: array for entry, array in mapping(config, table).forward(table)}
        (output,) = write(config, tensors, Path(dst), Request(options={"foreign_priors": True}))
        table.unchanged()
    return Caffe2npz(config, output, len(tensors), (*opened.plan.warnings, *_differences(config)))


def vgg_form(config: SSDConfig, table: TensorTable) -> SSDConfig:
    """A Caffe network as a VGG16 SSD: as it is where it is a named one; a layer graph where it is one of another width.

    Raises:
        MappingError: it is neither.
    """
    if isinstance(config.layers, Staged):
        return config
    shape = table["conv1_1/1"].shape if "conv1_1/1" in table else ()
    mine = signature(config.layers)
    for name in SIZES if len(shape) == 1 and 0 < shape[0] <= 64 else ():
        candidate = vgg(name, config.num_classes, width=shape[0])
        graph = graph_config(deploy_net(candidate), name=name).layers
        if isinstance(graph, Graph) and signature(graph) == mine:
            priors = config.priors or candidate.priors
            pixels = candidate.pixels if tells_nothing(config.pixels) else config.pixels
            return replace(candidate, name=config.name, detect=config.detect, priors=priors, pixels=pixels)
    raise MappingError(
        "this Caffe network is no VGG16 SSD of 300 or 512 pixels, so ChainerCV has no class for it",
        where=str(table.path),
        got=config.name,
    )


def _differences(config: SSDConfig) -> tuple[str, ...]:
    """What ChainerCV does otherwise than Caffe with the same weights."""
    name = {6: "ssd300_voc", 7: "ssd512_voc"}[len(config.priors)]
    gap = prior_gap(config, chainer(name))
    told = ""
    if gap > 2.0:
        told = (
            f"ChainerCV's {name[:6].upper()} decodes with VOC's prior sizes, up to {gap:.0f} pixels from this network's: "
            "give its coder the sizes of your network"
        )
    elif gap > 0.5:
        told = "Caffe cuts prior sizes to whole pixels and ChainerCV does not: boxes differ by up to 3 %"
    return (told,) if told else ()
