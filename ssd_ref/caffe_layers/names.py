"""Names of learned tensors: Caffe's numbered blobs, and the torch parameters that hold them.

Imports no torch: converters use it to tie a file's tensors to the reference's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ssdconv.ssd_ref.config import LayerSpec

CONVOLUTIONS = ("Convolution", "DepthwiseConvolution", "ConvolutionDepthwise", "Deconvolution")
KERAS_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D")
DEPTHWISE = ("DepthwiseConvolution", "ConvolutionDepthwise")


def module_name(layer: str) -> str:
    """Name of a layer's torch module: ``%`` becomes ``%25`` and ``.`` becomes ``%2E``, all else stays.

    Torch separates the parts of a parameter's name with dots, so a layer's own dots must not appear.
    """
    return layer.replace("%", "%25").replace(".", "%2E")


def layer_name(module: str) -> str:
    """The layer of a torch module: undoes ``module_name``."""
    return module.replace("%2E", ".").replace("%25", "%")


def blob_names(spec: LayerSpec) -> tuple[str, ...]:
    """For each of the layer's blobs, in Caffe's order, the parameter's name within the layer's module.

    Convolutions and InnerProduct: weight, bias. BatchNorm: mean, variance, factor, as stored (statistics are sums to be
    divided by factor). Scale: weight, bias; the form with two bottoms learns at most a bias. Normalize, PReLU: weight.
    Keras' layers have theirs in Keras' order.
    """
    params: Mapping[str, Any] = spec.params
    if spec.type in CONVOLUTIONS or spec.type == "InnerProduct":
        return ("weight", "bias") if params.get("bias_term", True) else ("weight",)
    if spec.type == "BatchNorm":
        return ("mean", "variance", "factor")
    if spec.type == "Scale":
        learned = ("weight",) if len(spec.bottoms) == 1 else ()
        return (*learned, "bias") if params.get("bias_term", False) else learned
    if spec.type == "Bias":
        return ("bias",) if len(spec.bottoms) == 1 else ()
    if spec.type in KERAS_CONVOLUTIONS:
        kernels = ("depthwise", "pointwise") if spec.type == "SeparableConv2D" else ("weight",)
        return (*kernels, "bias") if params.get("use_bias", True) else kernels
    if spec.type == "BatchNormalization":
        learned = (
            *(("weight",) if params.get("scale", True) else ()),
            *(("bias",) if params.get("center", True) else ()),
        )
        return (*learned, "running_mean", "running_var")
    return ("weight",) if spec.type in ("PReLU", "Normalize", "L2Normalization") else ()


@dataclass(frozen=True)
class Learned:
    """One learned blob of a graph.

    Attributes:
        layer, index: the Caffe layer and the number of its blob.
        parameter: name in the ``LayerGraph``'s ``state_dict``, "conv1_1.weight".
        shape: the blob's shape.
        same_as: parameter of the earlier blob that it shares its values with (``param { name }``), or "".
    """

    layer: str
    index: int
    parameter: str
    shape: tuple[int, ...]
    same_as: str = ""


def learned_blobs(layers: Iterable[LayerSpec]) -> Iterator[Learned]:
    """Every learned blob of the layers, in order."""
    owners: dict[str, str] = {}
    for spec in layers:
        names = blob_names(spec)
        for index, (name, shape) in enumerate(zip(names, spec.blobs, strict=True)):
            parameter = f"{module_name(spec.name)}.{name}"
            key = spec.shared[index] if index < len(spec.shared) else ""
            owner = owners.setdefault(key, parameter) if key else parameter
            yield Learned(spec.name, index, parameter, shape, "" if owner == parameter else owner)
