"""The original Caffe's run of a net, layer by layer, and its solver's updates, through the C interface of ``native/caffe_c.cpp``.

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
    lib.net_blobs.argtypes = [handle, index]
    lib.net_blob_shape.argtypes = [handle, index, index, handle]
    for name in ("net_top_data", "net_blob_data", "net_blob_diff"):
        getattr(lib, name).restype = ctypes.POINTER(ctypes.c_float)
        getattr(lib, name).argtypes = [handle, index, index]
    lib.net_gradients.argtypes = [handle]
    lib.solver_open.restype, lib.solver_open.argtypes = handle, [text, text]
    lib.solver_net.restype, lib.solver_net.argtypes = handle, [handle]
    lib.solver_step.argtypes = [handle, index]
    return lib


def _feed(lib, net, name, array):
    held = np.ascontiguousarray(array, np.float32)
    shape = np.array(held.shape, np.int32)
    lib.net_feed(net, name.encode(), held.ndim, shape.ctypes.data, held.ctypes.data)


def _shape(ask, *which):
    axes = np.zeros(32, np.int32)
    return tuple(axes[: ask(*which, axes.ctypes.data)].tolist())


def layers(job, arrays):
    """Every layer of ``prototxt`` with the weights of ``caffemodel`` for ``input``, which is fed to the blob ``blob``; ``library`` is the interface.

    Says each layer's name, type and number of tops. Arrays: ``<number of the layer>:<top>``, taken before later layers work in place.
    """
    if not HELD:
        lib = HELD["library"] = library(job["library"])
        HELD["net"] = lib.net_open(job["prototxt"].encode(), job["caffemodel"].encode())
    lib, net = HELD["library"], HELD["net"]
    _feed(lib, net, job["blob"], arrays["input"])
    found, values = [], {}
    for number in range(lib.net_layers(net)):
        kind = lib.net_layer_type(net, number).decode()
        found.append((lib.net_layer_name(net, number).decode("utf-8", "replace"), kind, lib.net_tops(net, number)))
        lib.net_forward(net, number)
        for top in range(0 if kind in ("Split", "Input") else found[-1][2]):
            sizes = _shape(lib.net_top_shape, net, number, top)
            if 0 not in sizes:
                values[f"{number}:{top}"] = np.ctypeslib.as_array(lib.net_top_data(net, number, top), sizes).copy()
    return {"layers": found}, values


def train(job, arrays):
    """Updates by ``solver`` (a prototxt whose net has Input layers) from ``caffemodel`` on one batch, an array for each input blob by its name.

    Arrays: ``losses`` (steps, 1) before each update, ``gradient/<layer>/<blob>`` of the first step without weight decay, and
    ``weight/<k>/<layer>/<blob>`` after k updates for each k of ``keep``.
    """
    lib = library(job["library"])
    solver = lib.solver_open(job["solver"].encode(), job["caffemodel"].encode())
    net = lib.solver_net(solver)
    for name, given in arrays.items():
        _feed(lib, net, name, given)
    named = [(k, lib.net_layer_name(net, k).decode(), lib.net_layer_type(net, k)) for k in range(lib.net_layers(net))]
    (last,) = [k for k, _, kind in named if kind == b"MultiBoxLoss"]

    def blobs(head, read):
        found = {}
        for number, name, _ in named:
            for blob in range(lib.net_blobs(net, number)):
                sizes = _shape(lib.net_blob_shape, net, number, blob)
                found[f"{head}/{name}/{blob}"] = np.ctypeslib.as_array(read(net, number, blob), sizes).copy()
        return found

    lib.net_gradients(net)
    out, losses = blobs("gradient", lib.net_blob_diff), []
    for step in range(1, max(job["keep"]) + 1):
        lib.solver_step(solver, 1)
        losses.append([lib.net_top_data(net, last, 0)[0]])
        if step in job["keep"]:
            out.update(blobs(f"weight/{step}", lib.net_blob_data))
    return {}, {**out, "losses": np.array(losses)}


if __name__ == "__main__":
    serve(layers, train)
