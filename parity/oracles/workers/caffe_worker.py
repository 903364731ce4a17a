"""The original Caffe's run of a net, layer by layer, through the C interface of ``native/caffe_c.cpp``.

Request: ``library``, ``prototxt``, ``caffemodel`` (paths), ``input`` (blob name), and the array ``pixels``. Answer: arrays
``<number of the layer>:<top>``, taken before later layers work in place, and ``layers``: their names and types.
A net that Caffe refuses ends this process; its last words are on stderr.
"""

import ctypes

import numpy as np
from serving import serve

HELD = {}


def library(path):
    lib = ctypes.CDLL(path)
    handle, index, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
    lib.net_open.restype, lib.net_open.argtypes = handle, [text, text]
    lib.net_feed.argtypes = [handle, text, index, handle, handle]
    lib.net_layers.argtypes = [handle]
    for name in ("net_layer_name", "net_layer_type"):
        getattr(lib, name).restype, getattr(lib, name).argtypes = text, [handle, index]
    lib.net_forward.argtypes = lib.net_tops.argtypes = [handle, index]
    lib.net_top_shape.argtypes = [handle, index, index, handle]
    lib.net_top_data.restype, lib.net_top_data.argtypes = ctypes.POINTER(ctypes.c_float), [handle, index, index]
    return lib


def answer(request, arrays):
    if not HELD:
        lib = HELD["library"] = library(request["library"])
        HELD["net"] = lib.net_open(request["prototxt"].encode(), request["caffemodel"].encode())
    lib, net = HELD["library"], HELD["net"]
    pixels = np.ascontiguousarray(arrays["pixels"], np.float32)
    shape = np.array(pixels.shape, np.int32)
    lib.net_feed(net, request["input"].encode(), pixels.ndim, shape.ctypes.data, pixels.ctypes.data)
    layers, values = [], {}
    for number in range(lib.net_layers(net)):
        kind = lib.net_layer_type(net, number).decode()
        layers.append((lib.net_layer_name(net, number).decode("utf-8", "replace"), kind, lib.net_tops(net, number)))
        lib.net_forward(net, number)
        for top in range(0 if kind in ("Split", "Input") else layers[-1][2]):
            axes = np.zeros(32, np.int32)
            sizes = tuple(axes[: lib.net_top_shape(net, number, top, axes.ctypes.data)].tolist())
            if 0 not in sizes:
                values[f"{number}:{top}"] = np.ctypeslib.as_array(lib.net_top_data(net, number, top), sizes).copy()
    return {"layers": layers}, values


if __name__ == "__main__":
    serve(answer)
