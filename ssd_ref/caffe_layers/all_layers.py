"""Importing this module fills the registry of layer types."""

from ssdconv.ssd_ref.caffe_layers import (  # noqa: F401
    activations,
    affine,
    combine,
    convolution,
    normalization,
    pooling,
    reshape,
    resample,
)
