"""From a Caffe layer as a file has it to a ``LayerSpec`` and back.

A spec keeps the layer's own parameter message only, without what does not matter to a trained net (fillers, engines) and
without values that are the default anyway, so that train, test and deploy nets of one network give equal specs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssdconv.converters.caffe.net import CaffeLayer
from ssdconv.ssd_ref.config import LayerSpec

PARAM_OF: dict[str, str] = {
    "ArgMax": "argmax_param",
    "BatchNorm": "batch_norm_param",
    "Bias": "bias_param",
    "Clip": "clip_param",
    "Concat": "concat_param",
    "Convolution": "convolution_param",
    "ConvolutionDepthwise": "convolution_param",
    "Crop": "crop_param",
    "Deconvolution": "convolution_param",
    "DepthwiseConvolution": "convolution_param",
    "DetectionOutput": "detection_output_param",
    "Dropout": "dropout_param",
    "ELU": "elu_param",
    "Eltwise": "eltwise_param",
    "Exp": "exp_param",
    "Flatten": "flatten_param",
    "InnerProduct": "inner_product_param",
    "Interp": "interp_param",
    "LRN": "lrn_param",
    "Log": "log_param",
    "MVN": "mvn_param",
    "MultiBoxLoss": "multibox_loss_param",
    "Normalize": "norm_param",
    "PReLU": "prelu_param",
    "Permute": "permute_param",
    "Pooling": "pooling_param",
    "Power": "power_param",
    "PriorBox": "prior_box_param",
    "ReLU": "relu_param",
    "ReLU6": "relu6_param",
    "Reduction": "reduction_param",
    "Reshape": "reshape_param",
    "Scale": "scale_param",
    "Slice": "slice_param",
    "Softmax": "softmax_param",
    "Swish": "swish_param",
    "Threshold": "threshold_param",
    "Tile": "tile_param",
    "Upsample": "upsample_param",
}
"""Layer type -> name of its parameter message."""

_CONVOLUTION = {
    "bias_term": True, "pad": [0], "stride": [1], "dilation": [1], "group": 1, "axis": 1,
}  # fmt: skip
_DEFAULTS: dict[str, dict[str, Any]] = {
    "argmax_param": {"out_max_val": False, "top_k": 1},
    "batch_norm_param": {"eps": 1e-5, "use_global_stats": True},
    "bias_param": {"axis": 1, "num_axes": 1},
    "concat_param": {"axis": 1},
    "convolution_param": _CONVOLUTION,
    "crop_param": {"axis": 2},
    "elu_param": {"alpha": 1.0},
    "eltwise_param": {"operation": "SUM"},
    "exp_param": {"base": -1.0, "scale": 1.0, "shift": 0.0},
    "flatten_param": {"axis": 1, "end_axis": -1},
    "inner_product_param": {"bias_term": True, "axis": 1, "transpose": False},
    "interp_param": {"pad_beg": 0, "pad_end": 0},
    "log_param": {"base": -1.0, "scale": 1.0, "shift": 0.0},
    "lrn_param": {"local_size": 5, "alpha": 1.0, "beta": 0.75, "k": 1.0, "norm_region": "ACROSS_CHANNELS"},
    "mvn_param": {"normalize_variance": True, "across_channels": False, "eps": 1e-9},
    "norm_param": {"across_spatial": True, "channel_shared": True, "eps": 1e-10},
    "pooling_param": {"pool": "MAX", "pad": 0, "stride": 1, "global_pooling": False, "round_mode": "CEIL",
                      "ceil_mode": True},
    "power_param": {"power": 1.0, "scale": 1.0, "shift": 0.0},
    "prelu_param": {"channel_shared": False},
    "relu_param": {"negative_slope": 0.0},
    "relu6_param": {"negative_slope": 0.0},
    "reduction_param": {"operation": "SUM", "axis": 0, "coeff": 1.0},
    "reshape_param": {"axis": 0, "num_axes": -1},
    "scale_param": {"axis": 1, "num_axes": 1, "bias_term": False},
    "softmax_param": {"axis": 1},
    "swish_param": {"beta": 1.0},
    "threshold_param": {"threshold": 0.0},
    "tile_param": {"axis": 1},
    "upsample_param": {"scale": 1},
}  # fmt: skip

_UNUSED = frozenset(
    {"weight_filler", "bias_filler", "filler", "scale_filler", "engine", "force_nd_im2col", "dropout_ratio"}
    | {"moving_average_fraction", "scale_train", "stable_prod_grad", "save_output_param", "visualize"}
    | {"visualize_threshold", "save_file"}
)
"""Fields that change nothing in what a trained net computes."""


def spec_of(layer: CaffeLayer) -> LayerSpec:
    """The layer with its own parameters only; ``blobs`` stays empty until shapes are inferred."""
    key = PARAM_OF.get(layer.type)
    raw = layer.params.get(key, {}) if key else {}
    params = _essential(raw, _DEFAULTS.get(key or "", {})) if isinstance(raw, Mapping) else {}
    return LayerSpec(
        layer.name, layer.type, layer.bottoms, layer.tops, params, shared=layer.shared if any(layer.shared) else ()
    )


def layer_of(spec: LayerSpec) -> CaffeLayer:
    """The Caffe layer of a spec, blob shapes included."""
    key = PARAM_OF.get(spec.type)
    params = {key: dict(spec.params)} if key and spec.params else {}
    return CaffeLayer(spec.name, spec.type, spec.bottoms, spec.tops, params, spec.blobs, spec.shared)


def shortest(value: Any) -> Any:
    """A float as the shortest decimal that is the same float32: prototxt and binary files then read the same.

    Lists and messages are gone through; all else stays.
    """
    if isinstance(value, float):
        return short_float(value)
    if isinstance(value, list | tuple):
        return [shortest(item) for item in value]
    return {k: shortest(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def short_float(value: float) -> float:
    """``value`` rounded to the shortest decimal that gives the same float32 (0.1 for 0.10000000149)."""
    import numpy as np

    with np.errstate(over="ignore"):
        return float(str(np.float32(value)))


def _essential(raw: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: shortest(value) for name, value in raw.items() if name not in _UNUSED}
    return {name: value for name, value in kept.items() if name not in defaults or defaults[name] != value}
