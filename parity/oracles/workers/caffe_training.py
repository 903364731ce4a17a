"""The original Caffe's solver, some updates on one batch, through the C interface of ``native/caffe_c.cpp``.

Request: ``library``, ``solver`` (a solver prototxt whose net has Input layers), ``caffemodel`` (paths), ``keep`` (numbers of updates
after which weights are read), and an array for each input blob by its name. Answer: arrays ``losses`` (steps, 1) before each
update, ``gradient/<layer>/<blob>`` of the first step without weight decay, ``weight/<k>/<layer>/<blob>`` after k updates.
"""

import ctypes

import caffe_worker
import numpy as np
from serving import serve


def library(path):
    lib = caffe_worker.library(path)
    handle, index, text, values = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(ctypes.c_float)
    lib.net_blobs.argtypes = [handle, index]
    lib.net_blob_shape.argtypes = [handle, index, index, handle]
    for name in ("net_blob_data", "net_blob_diff"):
        getattr(lib, name).restype, getattr(lib, name).argtypes = values, [handle, index, index]
    lib.net_gradients.argtypes = [handle]
    lib.solver_open.restype, lib.solver_open.argtypes = handle, [text, text]
    lib.solver_net.restype, lib.solver_net.argtypes = handle, [handle]
    lib.solver_step.argtypes = [handle, index]
    return lib


def answer(request, arrays):
    lib = library(request["library"])
    solver = lib.solver_open(request["solver"].encode(), request["caffemodel"].encode())
    net = lib.solver_net(solver)
    for name, given in arrays.items():
        held = np.ascontiguousarray(given, np.float32)
        shape = np.array(held.shape, np.int32)
        lib.net_feed(net, name.encode(), held.ndim, shape.ctypes.data, held.ctypes.data)
    layers = [(k, lib.net_layer_name(net, k).decode(), lib.net_layer_type(net, k)) for k in range(lib.net_layers(net))]
    (last,) = [k for k, _, kind in layers if kind == b"MultiBoxLoss"]

    def blobs(head, read):
        found = {}
        for number, name, _ in layers:
            for blob in range(lib.net_blobs(net, number)):
                axes = np.zeros(32, np.int32)
                sizes = tuple(axes[: lib.net_blob_shape(net, number, blob, axes.ctypes.data)].tolist())
                found[f"{head}/{name}/{blob}"] = np.ctypeslib.as_array(read(net, number, blob), sizes).copy()
        return found

    lib.net_gradients(net)
    out, losses = blobs("gradient", lib.net_blob_diff), []
    for step in range(1, max(request["keep"]) + 1):
        lib.solver_step(solver, 1)
        losses.append([lib.net_top_data(net, last, 0)[0]])
        if step in request["keep"]:
            out.update(blobs(f"weight/{step}", lib.net_blob_data))
    return {}, {**out, "losses": np.array(losses)}


if __name__ == "__main__":
    serve(answer)
