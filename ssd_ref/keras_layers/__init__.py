"""The layers of Keras graphs that Caffe has no word for: SAME padding, one-step batch normalisation, and others.

They stand in the same layer graph as ``caffe_layers`` and run on the same (N, C, H, W) blobs; what is called an axis in their
parameters is an axis of these blobs. Formulas are those of Keras 2 on TensorFlow with ``data_format`` "channels_last".
"""
