"""Caffe's nets and weights, read and written without Caffe: prototxt, caffemodel, HDF5, the layer graph and its mapping."""
