"""Importing this module fills the registry of layer types."""

import ssdconv.ssd_ref.caffe_layers.activations
import ssdconv.ssd_ref.caffe_layers.affine
import ssdconv.ssd_ref.caffe_layers.combine
import ssdconv.ssd_ref.caffe_layers.convolution
import ssdconv.ssd_ref.caffe_layers.normalization
import ssdconv.ssd_ref.caffe_layers.pooling
import ssdconv.ssd_ref.caffe_layers.reduce
import ssdconv.ssd_ref.caffe_layers.resample
import ssdconv.ssd_ref.caffe_layers.reshape
import ssdconv.ssd_ref.keras_layers.layers  # noqa: F401
