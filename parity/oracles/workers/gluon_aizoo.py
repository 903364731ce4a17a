"""AIZOO's face-mask detector on MXNet: its published .params in the layers that its loader builds; Python 3.8 on."""

# ruff: noqa: B905 - zip(strict=) is younger than Python 3.8

import aizoo_boxes
import mxnet as mx
import numpy as np

CHANNELS = (32, 64, 64, 64, 128, 128, 64, 64)


def _conv(x, name, filters, pad=1):
    return mx.sym.Convolution(x, kernel=(3, 3), num_filter=filters, pad=(pad, pad), name=name)


def _relu(x, name):
    return mx.sym.Activation(x, act_type="relu", name=name)


def symbol():
    """Every layer of the network by name, and the names of its tensors in the file by their names here."""
    x, layers, stored = mx.sym.var("data"), {}, {}

    def keep(name, value, file=None):
        layers[name] = value
        if file:
            stored.update({name + "_" + kind: file + "." + kind for kind in ("weight", "bias")})
        return value

    scores, locs = [], []
    for i, filters in enumerate(CHANNELS):
        if 0 < i < 7:
            if i > 2:  # its loader repeats the last row and column, so that a pool that rounds down covers them
                x = mx.sym.pad(x, mode="edge", pad_width=(0, 0, 0, 0, 0, 1, 0, 1))
            x = keep(f"maxpool2d_{i - 1}", mx.sym.Pooling(x, kernel=(2, 2), stride=(2, 2), pool_type="max"))
        file = f"conv_{i}" if i in (0, 7) else f"conv_{i}.1"
        x = keep(f"conv2d_{i}", _conv(x, f"conv2d_{i}", filters, 0 if i == 7 else 1), file)
        x = keep(f"conv2d_{i}_activation", _relu(x, f"conv2d_{i}_activation"))
        if i < 3:
            continue
        for kind, filters2, found, columns in (("cls", 8, scores, 2), ("loc", 16, locs, 4)):
            name = f"{kind}_{i - 3}_insert_conv2d"
            y = keep(name, _conv(x, name, 64), f"{kind}_{i - 3}_conv.0")
            y = keep(name + "_activation", _relu(y, name + "_activation"))
            name = f"{kind}_{i - 3}_conv"
            y = keep(name, _conv(y, name, filters2), f"{kind}_{i - 3}_conv.1")
            found.append(mx.sym.reshape(mx.sym.transpose(y, (0, 2, 3, 1)), (0, -1, columns)))
    keep("loc_branch_concat", mx.sym.concat(*locs, dim=1))
    keep("cls_branch_concat", mx.sym.concat(*[mx.sym.sigmoid(s) for s in scores], dim=1))
    return layers, stored


def activations(job, arrays):
    """Every layer's output for ``input`` (N, 3, 260, 260), and detections of image i as ``<i>/detections`` (n, 6)."""
    layers, stored = symbol()
    block = mx.gluon.SymbolBlock(mx.sym.Group(list(layers.values())), mx.sym.var("data"))
    loaded = mx.nd.load(job["params"])
    for name, param in block.collect_params().items():
        param._load_init(loaded[stored[name]], mx.cpu())
    values = block(mx.nd.array(arrays["input"]))
    out = {"nodes/" + name: value.asnumpy() for name, value in zip(layers, values)}
    for i, (loc, score) in enumerate(zip(out["nodes/loc_branch_concat"], out["nodes/cls_branch_concat"])):
        out[f"{i}/detections"] = aizoo_boxes.detect(loc, np.asarray(score))
    return {}, out
